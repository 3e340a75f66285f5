"""The line of items, in the order in which they were accepted.

Invariants: a lane has as many turns in the line as it has items, not counting husks; while a ticket
exists, a mark that has it is in the line, or on its way into the line.

An entry of the line is one of four: an item of the hub's own portal, as it is; a request of the
hub's own portal; a lane: the turn of that lane's oldest item; or a mark. A turn whose item
was taken back is a husk. Receivers pass over husks. Husks are counted so that ``len`` is right. But
``take_back`` counts a husk before it takes the item, so ``len`` is one too low in between.
Receivers in an event loop therefore decide with the number of entries. A polled hub decides with
``len``, so that it does not wake for husks alone. So a thread that has taken items back rings.

An item that the policy may drop later ("drop_oldest") must be able to leave from the middle of the
line. Otherwise the line would fill with husks while no thread receives. So such an item has a
*ticket*. In the line stands a *mark*, which has tickets, in their order. A ticket leaves its mark
in one step, from any position. All tickets of a mark come before the entries behind the mark. A
sender that puts a ticket looks at the last entry. If that is a mark, the mark gets the ticket;
otherwise the sender adds a new mark. So there are never many more marks than other entries.

Why the order is right: the earlier items of a sender stand at the last entry that it looks at, or
before it; its later items come behind that. Items that were put in between, behind that mark, come
from a sender that was sending at the same time: between the two, either order is right.

Why no ticket is left without a mark: a receiver that finds no ticket in a mark *closes* it, looks
once more, and throws it away. A sender puts its ticket, and *then* reads whether the mark is
closed; if so, it adds a new one. Both act on the mark's tickets in one step: if the sender's is
first, the receiver finds the ticket; if not, the sender reads that the mark is closed. (Both may
happen. Then the receiver has taken the item. The sender looks for that last, and takes the ticket
out.)

The line knows no places and no bell.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from itertools import repeat, starmap
from operator import length_hint
from typing import Any, Final

from .errors import portal_aborted
from .request import TOKEN, is_over
from .source import UNREGISTERED, Lane, Root, Source
from .waiter import InTurn


class Mark:
    """An entry of the line: its tickets come before what stands behind it."""

    __slots__ = ("closed", "tickets")

    def __init__(self) -> None:
        self.tickets: InTurn[Ticket] = InTurn()
        self.closed: bool = False  # written by the receiver


class Ticket:
    """Stands in a mark for one item that may be dropped."""

    __slots__ = ("lane", "mark")

    def __init__(self, lane: Lane) -> None:
        self.lane: Lane = lane  # its ``items`` hold the item; the thread that pops it has it
        self.mark: Mark | None = None  # written before the ticket is in it


class Beside:
    """The functions with which an iteration receives from the inlets, beside the line.

    ``Line.beside`` may be replaced by another one, but never by None again.
    """

    __slots__ = ("begin_turn", "receive", "source", "turn_ends")

    def __init__(
        self,
        receive: Callable[[], Any] = lambda: None,
        begin_turn: Callable[[], bool] = lambda: False,
        source: Source = UNREGISTERED,
    ) -> None:
        # *receive* takes one item of *source* and counts it. It returns None if there is none, if
        # an entry needs a closer look (``Mailbox.receive_beside``), or if the turn is over. Then
        # *begin_turn* begins another turn: False if nothing was taken in the last one. The three
        # are never changed, so that they stay together.
        self.receive: Callable[[], Any] = receive
        self.begin_turn: Callable[[], bool] = begin_turn
        self.source: Source = source
        # An iteration may take entries out by itself until the hub has received so many items. Then
        # the inlets have their turn, for IN_TURN items. Written in the receiving thread.
        self.turn_ends: int = 0


# Replaces ``beside`` when the hub ends, so that iterations check ``ended``. It gives no turns.
ENDED: Final = Beside()


class Line:
    """The entries, and what each of them stands for. See the head of this file."""

    __slots__ = ("_husks", "beside", "entries", "marked", "tagged", "tickets")

    def __init__(self) -> None:
        self.entries: deque[Any] = deque()
        self._husks: list[None] = []  # one for each turn whose item was taken back, and each mark
        self.tickets: dict[Ticket, None] = {}  # of all marks, to be counted
        # None: an iteration may take entries out by itself. Never None once the hub has ended.
        self.beside: Beside | None = None
        self.tagged: bool = False  # may there be turns, requests or marks among the entries?
        self.marked: bool = False  # may there be marks?

    def __len__(self) -> int:
        """How many items wait to be received. From any thread."""
        husks = self._husks
        before = len(husks)
        there = len(self.entries) + len(self.tickets)
        # A husk may have been counted, or counted off, while we looked.
        return max(0, there - max(before, len(husks)))

    # -- putting: from any thread, at any bytecode -------------------------------------------------

    def put(self, lane: Lane, item: object) -> None:
        """Put *item*, for which the caller has taken a place.

        :raises MemoryError: if there is no memory; the item was not put
        """
        own = lane.items
        if own is None:
            self.entries.append(item)
        else:
            own.append(item)  # the item before its turn, so each turn that is found has an item
            try:
                self.entries.append(lane)
            except MemoryError:
                self.take_out(own, item)
                raise

    def take_out(self, own: deque[Any], item: object) -> None:
        """Take *item* out of its lane again: there was no memory for its turn.

        There is one item more than turns, so each turn that a receiver finds has an item even now.
        If another item was put meanwhile, this one stays, and is received in the other one's turn.
        The other one is received in the next turn of this lane, or handed back at the end.
        """
        last = own.pop()
        if last is not item:
            own.append(last)

    def put_many(self, lane: Lane, items: list[Any]) -> int:
        """Put *items*, with no other sender's in between. The caller has taken a place for each.

        Return how many were put: fewer if memory has run out.

        :raises MemoryError: if none was put
        """
        own = lane.items
        put = _extend(self.entries if own is None else own, iter(items), len(items))
        if own is not None:
            items, listed = items[:put] if put < len(items) else items, put
            put = 0
            try:
                put = _extend(self.entries, repeat(lane, listed), listed)
            finally:
                if put < listed:
                    for item in reversed(items[put:]):
                        self.take_out(own, item)
        return put

    def put_ticket(self, ticket: Ticket) -> None:
        """Put *ticket*, whose item is in its lane. See the head of this file.

        :raises MemoryError: if it may have no mark; the caller takes the ticket out again
        """
        try:
            last = self.entries[-1]
        except IndexError:
            last = None
        self.tickets[ticket] = None
        if type(last) is Mark:
            ticket.mark = last
            last.tickets[ticket] = True
            if not last.closed:  # read after the ticket was put
                return
            last.tickets.pop(ticket, None)
        ticket.mark = mark = Mark()
        mark.tickets[ticket] = True
        self._husks.append(None)  # before a receiver can find the mark, and count it off
        try:
            self.entries.append(mark)
        except MemoryError:
            self._husks.pop()
            raise

    def drop_ticket(self, ticket: Ticket) -> None:
        """Take out *ticket*, whose item was taken out of its lane. From any thread.

        The sender looks, after it has put the ticket, whether the item was taken out meanwhile. So
        either the sender finds that, or we find the ticket in its mark.
        """
        self.tickets.pop(ticket, None)
        if ticket.mark is not None:
            ticket.mark.tickets.leave(ticket)

    # -- taking: in the receiving thread, or in one that hands back --------------------------------

    def take_ticket(self, mark: Mark) -> Ticket | None:
        """Take the first ticket out of *mark*; None if the mark has no more tickets.

        In one thread at a time; at the end, when the order no longer matters, in several.
        """
        while True:
            ticket = mark.tickets.take_first()
            if ticket is not None or self.is_over(mark):
                return ticket

    def is_over(self, mark: Mark) -> bool:
        """Has *mark* no more tickets? Then it is closed, and no longer needed in the line."""
        if mark.tickets:
            return False
        mark.closed = True  # first this, then the last look, a step: see the head of this file
        if list(mark.tickets):
            return False
        self._count_off()
        return True

    def take_many(self, most: int | None) -> list[Any]:
        """Take the oldest entries that are there now, at most *most*."""
        there = len(self.entries)
        many = there if most is None else min(most, there)
        entries: list[Any] = []
        try:
            entries.extend(starmap(self.entries.popleft, repeat((), many)))
        except IndexError:
            pass  # another thread, which sweeps, has emptied the line
        return entries

    def open(self, entry: Any) -> tuple[Source, Any, bool] | None:
        """The source and the item of an entry that was taken out of the line; None for a husk.

        The third is True if the item must not be received. Either its portal was aborted while it
        was being sent, and the abort has not found it. Or it is a request that has ended.
        """
        if type(entry) is Lane:
            try:
                item = entry.items.popleft()
            except IndexError:
                self._count_off()
                return None
            return judged(entry, item)
        return UNREGISTERED, entry, type(entry) is TOKEN and is_over(entry)

    def take_back(self, lane: Lane) -> Any:
        """Take back the oldest item of *lane*, from any thread. Its turn stays, as a husk.

        :raises IndexError: if there is none. For a moment one husk too many was counted. So the
            caller rings, in case a polled hub has looked at ``len`` in that moment
        """
        self._husks.append(None)  # before a receiver can find the turn without its item
        try:
            return lane.items.popleft()
        except IndexError:
            self._count_off()
            raise

    def _count_off(self) -> None:
        try:
            self._husks.pop()
        except IndexError:
            pass  # a turn that was never counted: see ``Places.mend``


def judged(lane: Lane, item: Any) -> tuple[Source, Any, bool]:
    """An item that was taken out of *lane*, as ``Line.open`` returns it."""
    aborted = lane.refusal is portal_aborted and type(lane) is not Root
    over = aborted or (type(item) is TOKEN and is_over(item))
    return lane.source, item, over


def _extend(line: deque[Any], values: Iterator[Any], many: int) -> int:
    """Extend *line* with the *many* *values*; return how many of them there was memory for.

    The iterator knows how many values it has left. If ``extend`` fails, it has taken one value more
    than it has appended. (Other threads may extend the line as well, so its length says nothing.)

    :raises MemoryError: if there was memory for none
    """
    try:
        line.extend(values)
    except MemoryError:
        many = max(0, many - length_hint(values) - 1)
        if not many:
            raise
    return many
