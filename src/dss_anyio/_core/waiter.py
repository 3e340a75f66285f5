"""A waiter: a thread or a task that waits inside one call of a portal.

Invariant: a wait has one outcome; ``accept`` and ``withdraw`` return False if it has another one.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import get_ident
from time import monotonic
from typing import Any, Literal, TypeAlias, TypeVar

from .errors import Refusal
from .source import Lane
from .steps import Once


class Waiter:
    """The base of all waiters, with the attributes that ``hub.blocked()`` shows."""

    __slots__ = ("_wake", "call", "lane", "since", "thread", "waiting")

    def __init__(self, lane: Lane, call: str, wake: Callable[[], object]) -> None:
        self.lane: Lane = lane
        self.call: str = call  # the name of the method it waits in
        self.since: float = monotonic()
        self.thread: int = get_ident()
        self.waiting: WaitForPlace | None = None  # the wait for a place that is part of this call
        self._wake: Callable[[], object] = wake

    def refuse(self, refusal: Refusal) -> None:
        """End the wait: its portal or its hub was closed, because of *refusal*. From any thread."""
        raise NotImplementedError

    def wake(self) -> None:
        try:
            self._wake()
        except RuntimeError:
            pass  # it was woken before (its lock is unlocked), or its event loop is gone


T_Waiter = TypeVar("T_Waiter")  # a waiter, or the ticket of an item


class InTurn(dict[T_Waiter, bool]):
    """The waiters for one thing, in their order. ``line[waiter] = True`` enters one.

    A dict, so that one of many waiters leaves in one step, wherever it stands. But to find the
    first entry of a dict takes the longer, the more gaps are before it. So a taker copies the order
    into a list now and then, the first waiter last, and takes from its end. It is a copy: it may
    name a waiter that has left, and it may name one twice. So a waiter is in line if it is in the
    dict, and ``dict.pop`` gives each waiter to one taker. The order is right: a copy is in order,
    and is made when no name is left. Of two copies that are made at once, each names all waiters
    that came before it was made. (So it does no harm either if two threads make the list itself at
    once, and one of the two is lost.)
    """

    _order: list[T_Waiter] | None = None  # made when the first waiter is taken

    def take_first(self) -> T_Waiter | None:
        """Take the waiter that has waited longest; None if there is none. From any thread."""
        names = self._order
        if names is None:
            self._order = names = []
        while True:
            try:
                first = names.pop()
            except IndexError:
                order = list(self)
                if not order:
                    return None
                order.reverse()
                names.extend(order)
            else:
                if self.pop(first, False):
                    return first

    def leave(self, waiter: T_Waiter) -> None:
        """Take *waiter* out, if it is still in line. From any thread."""
        self.pop(waiter, False)
        if not self and self._order:
            self._order.clear()  # let go of waiters that have left; the next taker copies again


# How a wait for a place ends: "accepted", another thread had a place and put the item; "refused",
# the portal or the hub was closed; "withdrawn", the sender gave up.
Outcome: TypeAlias = Literal["accepted", "refused", "withdrawn"]


class WaitForPlace(Waiter):
    """A thread or a task that waits until its item is accepted."""

    __slots__ = ("_outcome", "item")

    def __init__(self, lane: Lane, item: object, call: str, wake: Callable[[], object]) -> None:
        super().__init__(lane, call, wake)
        self.item: Any = item
        self.waiting: WaitForPlace | None = self
        self._outcome: Once[Outcome] = Once()

    def accept(self) -> bool:
        """Decide that the item is put now. False if the wait has ended in another way."""
        return self._outcome.decide("accepted")

    def withdraw(self) -> bool:
        """Wait no longer. False if the item was accepted or refused before."""
        return self._outcome.decide("withdrawn")

    def refuse(self, refusal: Refusal) -> None:
        """End the wait with the error of its lane.

        If the item was accepted before, the thread that accepted it is about to wake this waiter.
        Waking it here as well does no harm, and frees it if an exception has struck that thread
        just in between.
        """
        self._outcome.decide("refused")
        self.wake()

    @property
    def accepted(self) -> bool:
        return self._outcome.decision == "accepted"

    @property
    def refused(self) -> bool:
        return self._outcome.decision == "refused"
