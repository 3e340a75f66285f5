"""What the state of a mailbox is made of: sources, their lanes, and who waits in them.

Each of these changes as a mailbox does: in steps, see ``_mailbox``.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from threading import get_ident
from typing import Any, Final, Literal, NamedTuple, TypeAlias

from ._counter import Counters
from ._errors import Refusal

# What ends a registration: its last portal was closed, its block was left, its hub ends.
Retirer: TypeAlias = Literal["portal", "block", "hub"]


class Source:
    """One library's registration: its hooks and its counts. It ends exactly once."""

    __slots__ = (
        "_once",
        "counts",
        "decode",
        "ended",
        "lanes",
        "name",
        "on_undelivered",
        "portal",
        "received",
        "stop_timeout",
    )

    def __init__(
        self,
        name: str | None,
        decode: Callable[[Any], Any] | None = None,
        on_undelivered: Callable[[Any], object] | None = None,
    ) -> None:
        self.name: str | None = name
        self.stop_timeout: float = 10.0  # seconds for its cancel or stop
        self.decode: Callable[[Any], Any] | None = decode
        self.on_undelivered: Callable[[Any], object] | None = on_undelivered
        self.lanes: dict[Lane, bool] = {}  # the open ones; not the root
        self.portal: Any = None  # what register() returned
        self.received: int = 0  # written in the receiving thread only
        self.counts: Counters = Counters()
        self.ended: bool = False  # has whoever ends it looked for its cancel?
        self._once: dict[str, Any] = {}  # what is taken, or decided, by one thread only

    def set_cancel(self, cancel: Callable[[], object]) -> None:
        self._once["cancel"] = cancel

    def take_cancel(self) -> Callable[[], object] | None:
        """What tells the library that its time is over; for the first who asks only."""
        cancel: Callable[[], object] | None = self._once.pop("cancel", None)
        return cancel

    def retire(self, by: Retirer) -> bool:
        """End the registration. True for the first who asks, whichever thread that is."""
        first: list[Retirer] = [by]
        return self._once.setdefault("retired", first) is first

    @property
    def retired(self) -> Retirer | None:
        """Who has ended the registration."""
        first: list[Retirer] | None = self._once.get("retired")
        return None if first is None else first[0]


# What a hub's own portal and its clones belong to. The same for all hubs: nobody looks at it.
UNREGISTERED: Final = Source(None)


class Lane:
    """What one portal sends through.

    The hub's own portal puts its items into the mailbox as they are. Every other portal has a queue
    of its own, and for each item it puts *itself* into the mailbox: its turn. So what one portal
    has queued can be taken back at once, from any thread, while the order of acceptance remains
    that of one single queue.
    """

    __slots__ = ("items", "refusal", "source")

    def __init__(self, source: Source, items: deque[Any] | None) -> None:
        self.source: Source = source
        self.items: deque[Any] | None = items
        self.refusal: Refusal | None = None  # why nothing may be sent any more


class Blocked:
    """A thread or a task that waits until its item is accepted.

    The wait ends once: accepted by whoever has room for the item, refused by whoever ends the
    portal or the hub, or withdrawn by the sender, which gives up. ``dict.setdefault`` decides who
    was first, and remembers it in the same step.
    """

    __slots__ = ("_outcome", "_wake", "call", "item", "lane", "since", "thread", "waiting")

    def __init__(self, lane: Lane, item: object, call: str, wake: Callable[[], object]) -> None:
        self.lane: Lane = lane
        self.item: object = item
        self.call: str = call
        self.since: float = time.monotonic()
        self.thread: int = get_ident()
        self.waiting: Blocked | None = self  # what is in the line for it
        self._outcome: dict[None, str] = {}
        self._wake = wake

    def accept(self) -> bool:
        """May the item be put now? False if the wait has ended otherwise."""
        return self._outcome.setdefault(None, "accepted") == "accepted"

    def withdraw(self) -> bool:
        """Wait no longer. False if the item was accepted or refused before."""
        return self._outcome.setdefault(None, "withdrawn") == "withdrawn"

    def refuse(self, _: Refusal) -> None:
        """End the wait with the error of its lane.

        If it was accepted before, whoever did that is about to wake it. Waking it here as well does
        no harm, and frees it if an exception has struck that one just in between.
        """
        self._outcome.setdefault(None, "refused")
        self.wake()

    @property
    def accepted(self) -> bool:
        return self._outcome.get(None) == "accepted"

    @property
    def refused(self) -> bool:
        return self._outcome.get(None) == "refused"

    def wake(self) -> None:
        try:
            self._wake()
        except RuntimeError:
            pass  # woken before (an unlocked lock), or the event loop it waited in is gone


class SourceStatistics(NamedTuple):
    """What became of the items that one registered source has sent."""

    received: int  #: items that were received
    queued: int  #: items that wait to be received
    dropped: int  #: items that the overflow policy threw out
    undelivered: int  #: items that were handed back because nobody was going to receive them

    @property
    def sent(self) -> int:
        """Items that were accepted: the sum of the four."""
        return self.received + self.queued + self.dropped + self.undelivered
