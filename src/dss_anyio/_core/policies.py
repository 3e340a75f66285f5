"""What a full hub does with an item: one class for each overflow policy.

Where another policy goes: a class here, its name in ``Overflow``, and the class in ``_KINDS``.
(With 0 places, ``make_places`` takes one of the last two classes.) The class says

* in ``blocks`` whether a sender that finds no place waits;
* in ``overflow`` what happens to an item that finds no place: True if it was handled, False if its
  sender has to wait. If no sender may wait, the class derives from ``DropNewest``, whose
  ``put_many`` puts one item after the other;
* if an item may leave from the middle of the line, as in ``DropOldest``: how the item gets a
  ticket, and ``claim``, which takes the item out.

The queue of a native sender knows each policy by a number: see ``_POLICIES`` in ``_portal/native``,
and ``dss_ring_put`` in ``_native/ring.c``.
"""

from __future__ import annotations

import math
from itertools import repeat
from typing import Any, Final, Literal, TypeAlias, get_args

from .bell import Bell
from .books import Books
from .line import Line, Ticket, judged
from .places import FEW, MANY, Places
from .source import Lane
from .steps import ENOUGH_STACK, OUT_OF_MEANS, one_call, reach
from .waiter import InTurn

Overflow: TypeAlias = Literal["block", "drop_oldest", "drop_newest"]
OVERFLOWS: tuple[Overflow, ...] = get_args(Overflow)

MOST_PLACES = 1 << 24
ABSENT: Final[Any] = object()  # stands for an item that is not there


class Unlimited(Places):
    """``math.inf``: there is always a place."""

    __slots__ = ()


class Blocking(Places):
    """``"block"``: a sender that finds no place waits, or its item is refused."""

    __slots__ = ()

    blocks = True

    def overflow(self, lane: Lane, item: object) -> bool:
        return False


class DropNewest(Places):
    """``"drop_newest"``: an item that finds no place is dropped."""

    __slots__ = ()

    def overflow(self, lane: Lane, item: object) -> bool:
        self.books.drop(lane.source, item)
        return True

    def put_many(self, lane: Lane, batch: list[Any], start: int) -> int:
        for index in range(start, len(batch)):
            self.put(lane, batch[index])
        return len(batch) - start


class DropOldest(DropNewest):
    """``"drop_oldest"``: an item that finds no place drops the oldest item, and gets its place.

    That is the oldest of the items that share these places: of the hub, or of one source. Other
    items may stand before it in the line, so each item has a ticket (see ``line``). The thread that
    takes the item out of its lane, by its ticket, has it: a receiver, a sender that drops it, or a
    thread that takes it back.

    What if a sender finds neither a place nor a queued item? The receiver has no place: it takes an
    item out and puts its place back in one single step (``claim``). So either the places have just
    come back; or other senders have them all, and their items come after ours: then ours is the
    oldest, and is dropped. So the newest item is never lost. (Without the GIL, that one step may be
    cut where it has to wait for a mutex: see "What is not promised" in ``docs/reliability.md``.)
    """

    __slots__ = ("order", "pile")

    tickets = True

    def __init__(
        self, limit: float, line: Line, bell: Bell, books: Books, rest: tuple[None, ...] = ()
    ) -> None:
        super().__init__(limit, line, bell, books, rest)
        assert self.free is not None
        self.pile, self.free = self.free, []  # a quick sender finds none: each item needs a ticket
        self.vacated = None  # ``claim`` has given the place back
        self.order: InTurn[Ticket] = InTurn()  # of the items that share these places
        line.marked = line.tagged = True  # before a mark can be found

    def put(self, lane: Lane, item: object) -> bool:
        free = self.pile
        ticket = Ticket(lane)
        one_call()  # before anything has happened: this may be the end of the stack
        oldest: Ticket | None = None
        dropped: Any = None
        while True:
            if free:
                try:
                    free.pop()
                    break
                except IndexError:
                    pass
            reach(ENOUGH_STACK)  # or an item and its place could get lost in our hands
            oldest = self._take_oldest()
            if oldest is None:  # see the head of this class
                try:
                    free.pop()
                    break
                except IndexError:
                    self.books.drop(lane.source, item)
                    return True
            dropped = oldest.lane.items.pop(oldest, ABSENT)
            if dropped is not ABSENT:
                break  # its place is ours; no code of the user runs until it is used
            oldest = None  # another thread has the item, and has put its place back
        if oldest is not None:
            self._line.drop_ticket(oldest)
        try:
            self._put(ticket, item)
        finally:
            if oldest is not None:
                source, dropped, over = judged(oldest.lane, dropped)
                (self.books.undeliver if over else self.books.drop)(source, dropped)
        return True

    def _take_oldest(self) -> Ticket | None:
        if self.limit > 1:
            return self.order.take_first()
        # The same, at a third of the price. There may be a second ticket, if a receiver has the
        # item of the first already and takes out its ticket only now: so either will do.
        try:
            return self.order.popitem()[0]
        except KeyError:
            return None

    def _put(self, ticket: Ticket, item: object) -> None:
        """Put *item*, for which a place was taken, and wake the receiver."""
        items, line = ticket.lane.items, self._line
        was_listed = was_put = False
        try:
            items[ticket] = item  # before its ticket can be found
            was_listed = True
            self.order[ticket] = True
            line.put_ticket(ticket)
            was_put = True
            if ticket not in items:  # the item was dropped before the ticket was in the line
                line.drop_ticket(ticket)
            if self._bell.armed:
                self._bell.ring()
        except BaseException as exc:
            if was_put and isinstance(exc, OUT_OF_MEANS):
                return  # as in ``Places._put_in_place``
            if not was_put:
                # This calls no function in Python: the stack may be at its end.
                line.tickets.pop(ticket, None)
                if ticket.mark is not None:
                    ticket.mark.tickets.pop(ticket, None)
                self.order.pop(ticket, None)
                # If the item is not there, another thread may have taken it out, and its place with
                # it. (Or a signal handler has raised before it was put. We cannot tell the two
                # apart, so the place is lost then.)
                never_there = not was_listed and isinstance(exc, OUT_OF_MEANS)
                if items.pop(ticket, ABSENT) is not ABSENT or never_there:
                    self.pile.append(None)
            if not isinstance(exc, OUT_OF_MEANS):
                self._bell.ring_anyway()
            raise

    def claim(self, ticket: Ticket) -> list[Any]:
        """Take out the item of *ticket*, and give its place back. Empty: another thread has it.

        ``append`` returns None, and a place is a None: so ``extend`` moves the item out and gives
        its place back without a bytecode between them, at which a sender would find neither.
        """
        claimed: list[Any] = []
        items: dict[Ticket, Any] = ticket.lane.items
        try:
            self.pile.extend(map(claimed.append, map(items.pop, (ticket,))))
        except KeyError:
            pass
        self.order.leave(ticket)
        self._line.drop_ticket(ticket)
        return claimed

    def mend(self, lane: Lane) -> None:
        self._bell.ring_anyway()


class NoPlaces(Places):
    """0 places: a place is a receiver that waits for an item."""

    __slots__ = ()

    def __init__(
        self, limit: float, line: Line, bell: Bell, books: Books, rest: tuple[None, ...] = ()
    ) -> None:
        super().__init__(limit, line, bell, books, rest)
        self.vacated = None  # an item that leaves the line gives no place back: see ``seat``

    def seat(self, sleepers: int, roused: int = 0) -> None:
        """Let in as many senders as receivers sleep. In the receiving thread.

        The items in the line are first for the *roused*, the receivers that were woken and have not
        run since. We cannot see a sender that took a place and has not put its item yet. At worst
        an item waits for the next receiver, as it also does if its receiver is cancelled at that
        moment.
        """
        free = self.free
        assert free is not None
        there = len(self._line.entries) + len(self._line.tickets)
        wanted = max(0, sleepers - max(0, there - roused))
        while len(free) > wanted:
            try:
                free.pop()
            except IndexError:
                break
        if len(free) < wanted:
            free.extend(repeat(None, wanted - len(free)))
            self.admit()

    def meet_sender(self) -> bool:
        """Let in the sender that has waited longest. Return whether the line has an item now."""
        if not self.waiting:
            return False
        assert self.free is not None
        self.free.append(None)
        self.admit()
        try:
            self.free.pop()
        except IndexError:
            pass  # used
        return len(self._line.entries) > 0


class Rendezvous(NoPlaces, Blocking):
    """0 places and ``"block"``: an item is accepted when a receiver waits for it."""

    __slots__ = ()


class RendezvousOrDrop(NoPlaces, DropNewest):
    """0 places, and a policy that drops: an item is dropped unless a receiver waits for it."""

    __slots__ = ()


# A class stands before the one that it derives from: see ``overflow_of``.
_KINDS: Final[dict[Overflow, type[Places]]] = {
    "block": Blocking,
    "drop_oldest": DropOldest,
    "drop_newest": DropNewest,
}


def overflow_of(places: Places) -> Overflow:
    """The policy of *places*. Without a limit they have none, and nothing ever waits: "block"."""
    for name, kind in _KINDS.items():
        if isinstance(places, kind):
            return name
    return "block"


def make_places(limit: float, overflow: Overflow, line: Line, bell: Bell, books: Books) -> Places:
    """Return the places for *limit* items with the policy *overflow*.

    :raises ValueError: if *limit* is negative, not whole or too large, or *overflow* is unknown
    """
    # (By type, because True and 1.0 are equal to 1, and are no number of places.)
    known = _known.get((limit, overflow)) if type(limit) is int and type(overflow) is str else None
    kind, rest = _kind(limit, overflow) if known is None else known
    return kind(limit, line, bell, books, rest)


def _kind(limit: float, overflow: Overflow) -> tuple[type[Places], tuple[None, ...]]:
    """The class, and the places that are made later."""
    if limit != math.inf and (not isinstance(limit, int) or isinstance(limit, bool)):
        raise ValueError(f"max_buffer_size must be an integer or math.inf, not {limit!r}")
    if limit < 0:
        raise ValueError(f"max_buffer_size must not be negative, got {limit}")
    if MOST_PLACES < limit < math.inf:
        raise ValueError(
            f"max_buffer_size must be at most {MOST_PLACES}, because 8 bytes are reserved for "
            f"each place, got {limit}; math.inf sets no limit"
        )
    if overflow not in OVERFLOWS:
        raise ValueError(f"overflow must be one of {OVERFLOWS}, not {overflow!r}")
    if limit == math.inf:
        return Unlimited, ()
    if limit == 0:
        return (Rendezvous if overflow == "block" else RendezvousOrDrop), ()
    kind = _KINDS[overflow]
    rest = (None,) * (int(limit) - FEW) if kind.blocks and FEW < limit <= MANY else ()
    if len(_known) < 64:
        _known[limit, overflow] = kind, rest
    return kind, rest


_known: dict[tuple[float, Overflow], tuple[type[Places], tuple[None, ...]]] = {}
