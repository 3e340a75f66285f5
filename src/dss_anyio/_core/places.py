"""The places for items, and the senders that wait for a place.

Invariants: ``free + used == limit``; no sender waits while a place is free.

Each lane has a ``Places``, and may share it with other lanes. The lanes of a source with a bound of
its own share that source's ``Places``; all other lanes of a hub share the hub's. No lane takes a
place of a ``Places`` that is not its own. All items stand in one line. ``put`` takes a place and
puts an item; ``leave`` gives the place of an item back. There is one subclass for each policy: see
``policies``.

Why the bound is exact: each place is made once. (Those in ``_rest`` are made later, by one step
that empties an iterator.) A sender takes a place out of ``free`` in one step
before it puts its item, so no two senders use the same one. The receiver takes the item out of the
line first, and gives the place back afterwards. If either is interrupted in between, there may be
a place too few, never one too many.

Why no sender is forgotten: a sender that found no place enters ``waiting``, and *then* tries to
take a place. A thread gives a place back, and *then* looks at ``waiting``. Both act on ``free`` in
one step: if the sender's step is first, the other thread finds the sender in ``waiting``; if not,
the sender finds the place. The thread that gave the place back puts the item of a waiting sender;
the sender only wakes, and returns.
"""

from __future__ import annotations

import math
import sys
from collections import deque
from collections.abc import Iterator
from itertools import repeat, starmap
from operator import length_hint
from typing import Any, cast

from .bell import Bell
from .books import Books
from .line import Line, Ticket
from .request import TOKEN, is_queued, question_of
from .source import Lane
from .steps import A_LITTLE_STACK, OUT_OF_MEANS, STACK_TO_ADMIT, reach
from .waiter import InTurn, WaitForPlace

# The free places are a pile: places are taken from its end and given back to its end. On CPython
# 3.11 it has to be a deque. At the end of the stack, ``list.pop`` succeeds there although no
# ``append`` can be called any more, and a place would be taken for an item that cannot be put.
# ``deque.pop`` looks at the stack as ``append`` does. (Before 3.11 both look; since, neither does.)
FEW, MANY = 8, 4096  # with more than few and at most many places, few are made at first
_FEW = (None,) * FEW
_pile: type[list[None]] = cast("Any", deque) if sys.version_info[:2] == (3, 11) else list
# Shared empty list for policies under which no sender waits: there may be many sources.
_nobody: InTurn[WaitForPlace] = InTurn()


class Places:
    """What all policies share: an item takes a place, and the place is given back."""

    __slots__ = ("_bell", "_line", "_rest", "books", "free", "limit", "vacated", "waiting")

    # Does a sender that finds no place wait for one? Otherwise an item is dropped.
    blocks = False
    # Has each item a ticket, with which it may leave from the middle of the line? See ``line``.
    tickets = False

    def __init__(
        self, limit: float, line: Line, bell: Bell, books: Books, rest: tuple[None, ...] = ()
    ) -> None:
        """*rest* are the places beyond the first ``FEW`` that are to be made later."""
        self._line = line
        self._bell = bell
        self.books: Books = books
        self.limit: float = limit
        self._rest: Iterator[None] | None = None
        self.free: list[None] | None
        if rest:
            self._rest, self.free = iter(rest), _pile(_FEW)
        else:
            self.free = None if limit == math.inf else _pile([None]) * int(limit)
        # The list into which the place of an entry is put back; None if ``leave`` puts none back.
        self.vacated: list[None] | None = self.free
        # The senders that wait for a place.
        self.waiting: InTurn[WaitForPlace] = InTurn() if self.blocks else _nobody

    # -- putting: from any thread, at any bytecode -------------------------------------------------

    def put(self, lane: Lane, item: object) -> bool:
        """Accept *item*, or return False because there is no place. Never waits.

        The caller has read ``lane.refusal`` just before. If the hub ends between that and our last
        line, the item is handed back all the same: see ``Mailbox.sweep``.
        """
        # ``_rest`` is read before ``free``: if it is None, all places are there, or in use.
        rest, free = self._rest, self.free
        if self.blocks and not free and free is not None and rest is None:
            return False  # the usual case. The look may be old; a waiter looks again
        reach(A_LITTLE_STACK)
        if free is not None:
            try:
                free.pop()
            except IndexError:
                if rest is None:
                    return self.overflow(lane, item)
                self._make_rest()
                return self.put(lane, item)
        self._put_in_place(lane, item)
        return True

    def _make_rest(self) -> None:
        """Make the places that were not made yet: then all are in ``free``, or in use.

        From any thread. Most hubs need only a few places at a time, and to make and free 1,024 is a
        tenth of a hub's life. So the rest is in an iterator, which only this one step empties. Two
        threads may do it: the second one finds nothing left. A thread forgets the iterator after
        that step. So if it is forgotten, all places are made.
        """
        rest = self._rest
        if rest is not None and self.free is not None:
            self.free.extend(rest)
            self._rest = None

    def overflow(self, lane: Lane, item: object) -> bool:
        """No place is free. Accept *item* all the same, or return False: its sender waits."""
        raise NotImplementedError

    def _put_in_place(self, lane: Lane, item: object) -> None:
        """Put *item*, for which a place was taken, and wake the receiver."""
        was_put = False
        try:
            self._line.put(lane, item)
            was_put = True
            self._bell.ring()
        except BaseException as exc:
            # One "try" for both: an exception that strikes between them must not cost the wake.
            if not (was_put and isinstance(exc, OUT_OF_MEANS)):
                self.mishap(lane, exc)
                raise
            # The item was accepted, and the function is still in the bell for the next sender.

    def put_many(self, lane: Lane, batch: list[Any], start: int) -> int:
        """Accept as many of *batch*, from index *start* on, as there are places; return how many.

        They are put in their order, with no other sender's item in between, and cause one wake.
        """
        reach(A_LITTLE_STACK)
        many = self._take_places(len(batch) - start)
        if many:
            was_put = False
            try:
                whole = many == len(batch)
                put = self._line.put_many(lane, batch if whole else batch[start : start + many])
                if put < many:  # memory has run out: the caller calls again for the others
                    many, unused = put, many - put
                    self._give_back(unused)
                was_put = True
                self._bell.ring()
            except MemoryError:
                if not was_put:
                    self._give_back(many)
                    raise
            except BaseException as exc:  # as above
                if not (was_put and isinstance(exc, OUT_OF_MEANS)):
                    for _ in range(many):
                        self.mend(lane)
                    raise
        return many

    def _take_places(self, many: int) -> int:
        """Take *many* places, or as many as are free; return how many."""
        if self.free is None:
            return many
        self._make_rest()
        calls = repeat((), many)
        try:
            deque(starmap(self.free.pop, calls), maxlen=0)  # keeps nothing, so it needs no memory
        except IndexError:
            return many - length_hint(calls) - 1  # less the call that has found none
        except MemoryError:  # the failed call may have taken a place: give back rather one too few
            self._give_back(max(0, many - length_hint(calls) - 1))
            raise
        return many

    # -- accidents ---------------------------------------------------------------------------------

    def mishap(self, lane: Lane, exc: BaseException) -> None:
        """*exc* was raised between the taking of a place and the end of a send. From any thread."""
        if not isinstance(exc, MemoryError):
            self.mend(lane)
        else:
            self._give_back(1)  # the item was not put, so its place must not stay taken

    def _give_back(self, unused: int) -> None:
        """Give back as many places as were taken for no item."""
        if self.free is not None:
            self.free.extend(repeat(None, unused))
            if self.waiting:
                self.admit()

    def mend(self, lane: Lane) -> None:
        """Repair *lane* after a signal handler has raised in a sender.

        We cannot tell whether the sender has put its turn, and has rung. If the item was put
        without its turn, each later item of the lane would come one turn late. So put a turn; if
        there was one, this becomes a husk that is not counted. And ring: at worst the wake is
        spurious.
        """
        if lane.items is not None:
            self._line.entries.append(lane)
        self._bell.ring_anyway()

    # -- taking: in the receiving thread -----------------------------------------------------------

    def claim(self, ticket: Ticket) -> list[Any]:
        """Take out the item of *ticket*: see ``policies.DropOldest``, the only class with them."""
        raise NotImplementedError

    def leave(self, many: int = 1) -> None:
        """*many* entries have left the line: give their places back. From any thread."""
        if self.vacated is not None:
            self.vacated.extend(repeat(None, many))
            if self.waiting:
                self.admit()

    # -- with 0 places: see ``policies.NoPlaces`` --------------------------------------------------

    def seat(self, sleepers: int, roused: int = 0) -> None:
        """Does nothing: only with 0 places does a sleeping receiver make a place."""

    def meet_sender(self) -> bool:
        return False

    # -- waiting for a place: from any thread ------------------------------------------------------

    def wait(self, waiter: WaitForPlace) -> None:
        """Enter *waiter*. Its item is put as soon as there is a place: perhaps in this call."""
        reach(STACK_TO_ADMIT)  # before it is entered
        self.waiting[waiter] = True
        self.admit()

    def step_out(self, waiter: WaitForPlace) -> None:
        """End the wait of *waiter*, whatever its outcome."""
        if not waiter.accepted:  # else ``admit`` has taken it out
            waiter.withdraw()
            self.waiting.leave(waiter)
            if not waiter.accepted:
                waiter.item = None  # the sender still has it, and frees it

    def admit(self) -> None:
        """Give free places to the waiting senders, in their order.

        :raises RecursionError: if there is too little stack; nothing has changed
        """
        free = self.free
        reach(STACK_TO_ADMIT)  # else the place or the waiter that we hold could get lost
        while self.waiting and free is not None:
            try:
                free.pop()
            except IndexError:
                return
            while True:
                waiter = self.waiting.take_first()
                if waiter is None:
                    free.append(None)  # and look again: a waiter may have come while we held this
                    break
                if waiter.accept():  # else it has stopped waiting
                    self._put_waiting(waiter)
                    break

    def _put_waiting(self, waiter: WaitForPlace) -> None:
        item = waiter.item
        asks = type(item) is TOKEN and is_queued(item)  # not a request that is sent as an item
        question = question_of(item) if asks else None
        self._line.put_many(waiter.lane, [item])
        self._bell.ring()
        waiter.item = item = None  # so that the waiter does not keep a request alive
        if question is not None:
            question.look_again()
        waiter.wake()

    def forget(self) -> None:
        """In a forked child: the waiting senders are threads of the parent."""
        self.waiting.clear()
