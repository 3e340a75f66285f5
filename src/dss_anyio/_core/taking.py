"""Taking an item: it leaves the line, its place is free, and the books say what became of it.

In the receiving thread; at the end of the hub also in the one that hands back what is left.
"""

from __future__ import annotations

from typing import Any

from anyio import WouldBlock

from .books import NOT_RECEIVED, NOTHING, Books
from .errors import NotCopied
from .inlets import Inlets
from .inside import Inside
from .line import Line, Mark, judged
from .places import Places
from .request import TOKEN, receive
from .source import UNREGISTERED, Lane, Source
from .steps import ENOUGH_STACK, reach

MOST_MISSES = 128  # husks, and items that cannot be decoded, in a row before the loop may run


class Taking(NotCopied):
    """What a receiver calls: the half of a mailbox where items leave. See the head of this file."""

    __slots__ = ()

    line: Line
    books: Books
    places: Places
    meeting: Places
    inlets: Inlets | None
    inside: Inside

    def __len__(self) -> int:
        if self.inlets is not None:
            return len(self.line) + self.inlets.waiting()
        return len(self.line)

    def entries(self) -> int:
        """How many entries and tickets a receiver would find: what it looks at before it sleeps."""
        line = self.line
        if self.inlets is not None:
            return len(line.entries) + len(line.tickets) + self.inlets.waiting()
        return len(line.entries) + len(line.tickets)

    def take(self) -> Any:
        """Take the oldest item. Never waits.

        :raises anyio.WouldBlock: if there is none, or none among the next 128 entries: the receiver
            lets its event loop run then, and comes back. It says nothing; ``nothing_there`` does
        """
        entries, inlets = self.line.entries, self.inlets
        if inlets is not None and not entries and not inlets.asked_last:
            taken = self._take_as_it_is()
            if taken is not None:
                return taken[1]
        if self.inside.waiters:
            reach(ENOUGH_STACK)  # for ``Places.admit``: then the item would be in our hands
        for _ in range(MOST_MISSES):
            if inlets is not None:
                taken = inlets.take(bool(entries))
                if taken is not None:
                    if taken[1] is NOTHING:
                        continue
                    return taken[1]
            try:
                entry = entries.popleft()
            except IndexError:
                if self.meeting.meet_sender():
                    continue
                if self.places.waiting:
                    self.places.admit()  # there was no stack for it when the place was given back
                    if entries:
                        continue
                raise WouldBlock from None
            received, item = self.receive(entry)
            if received:
                return item
        raise WouldBlock

    def take_with_source(self) -> tuple[Source, Any] | None:
        """As ``take``, with the item's source; None if there is none."""
        entries, inlets = self.line.entries, self.inlets
        if inlets is not None and not entries and not inlets.asked_last:
            taken = self._take_as_it_is()
            if taken is not None:
                return taken
        for _ in range(MOST_MISSES):
            if inlets is not None:
                taken = inlets.take(bool(entries))
                if taken is not None:
                    if taken[1] is NOTHING:
                        continue
                    return taken
            try:
                entry = entries.popleft()
            except IndexError:
                if self.meeting.meet_sender():
                    continue
                return None
            if type(entry) is not Lane and type(entry) is not Mark:
                received, item = self.receive(entry)
                if received:
                    return UNREGISTERED, item
                continue
            opened = self.open(entry)
            if opened is not None:
                received, item = self.books.receive(*opened)
                if received:
                    return opened[0], item
        return None

    def _take_as_it_is(self) -> tuple[Source, Any] | None:
        """Receive what the only inlet has, if it is the item as it is: without a closer look."""
        beside = self.line.beside
        if beside is None:
            return None
        receive = beside.receive
        item = receive()
        if item is None and beside.begin_turn():
            item = receive()
        return None if item is None else (beside.source, item)

    def receive(self, entry: Any) -> tuple[bool, Any]:
        """Receive an entry that was taken out of the line. ``(False, None)``: no item is in it."""
        if type(entry) is Lane or type(entry) is Mark:
            opened = self.open(entry)
            return NOT_RECEIVED if opened is None else self.books.receive(*opened)
        # An item of the hub's own portal, which has no ``decode``: the same, written out.
        self.places.leave()
        if type(entry) is TOKEN and not receive(entry):
            self.books.undeliver(UNREGISTERED, entry)
            return NOT_RECEIVED
        self.books.received += 1
        return True, entry

    def open(self, entry: Any) -> tuple[Source, Any] | None:
        """Give back the place of *entry*. Its source and its item; None if nobody is to have it."""
        if type(entry) is Mark:
            opened = self._take_ticket(entry)
            if opened is None:
                return None  # there are no more tickets for it
            self.line.entries.appendleft(entry)  # for those that follow
        else:
            opened = self.line.open(entry)
            if opened is None:
                return None  # a husk; its place was given back already
            (entry.places if type(entry) is Lane else self.places).leave()
        source, item, over = opened
        if over:
            self.books.undeliver(source, item)
            return None
        return source, item

    def _take_ticket(self, mark: Mark) -> tuple[Source, Any, bool] | None:
        """Take out the oldest item with a ticket that *mark* stands for, and give its place back.

        None if there is none: then the mark is closed, and nobody needs it in the line.
        """
        while True:
            ticket = self.line.take_ticket(mark)
            if ticket is None:
                return None
            for item in ticket.lane.places.claim(ticket):  # one; or none: it was dropped
                return judged(ticket.lane, item)

    def take_many(self, most: int | None) -> list[Any]:
        """Take the items that are there now, at most *most*. Never waits; there may be none."""
        self.books.raise_interrupt()
        if self.inside.waiters:
            reach(ENOUGH_STACK)  # as in ``take``
        line, meeting = self.line, self.meeting
        for _ in range(len(meeting.waiting)):  # those who come meanwhile wait for the next call
            if (most is not None and len(line) >= most) or not meeting.meet_sender():
                break
        batch: list[Any] = []
        if self.inlets is not None:
            batch = self.inlets.take_many(most, bool(line.entries))
            if batch and (len(batch) == most or not line.entries):
                return batch
        for _ in range(MOST_MISSES):
            if self.books.interrupt is not None:
                break
            want = None if most is None else most - len(batch)
            entries = [] if line.marked else line.take_many(want)
            # Read after the entries were taken: a turn among them was put after this was written.
            # (With inlets it is always tagged: see ``Docks._inlets``. So *batch* is empty here, and
            # nothing that was taken from them is left behind.)
            if not line.tagged:
                self.places.leave(len(entries))
                self.books.received += len(entries)
                return entries
            if line.marked:  # as well
                line.entries.extendleft(reversed(entries))
                opened, over = self._one_by_one(want)
            else:
                opened, over = list(filter(None, map(self.open, entries))), not entries
            batch += self.books.receive_all(opened)
            # Husks, and items that cannot be decoded, are neither items nor the end of the line.
            if over or (batch and (most is None or len(batch) == most)):
                break
        if not batch:
            self.books.raise_interrupt()
        return batch

    def _one_by_one(self, most: int | None) -> tuple[list[tuple[Source, Any]], bool]:
        """Open what is there now, at most *most* items. The second says that the line is empty.

        Where there are marks, the entries behind one have to stay where they are until all of its
        tickets are taken. What takes the place of an item that we have just taken is for the next
        call: of each source, a batch has no more items than may be queued.
        """
        line = self.line
        opened: list[tuple[Source, Any]] = []
        there = len(line.entries)
        tickets = line.tickets.copy()
        for _ in range(there):
            if len(opened) == most:
                break
            try:
                entry = line.entries.popleft()
            except IndexError:
                return opened, True
            if type(entry) is not Mark:
                one = self.open(entry)
                if one is not None:
                    opened.append(one)
                continue
            for ticket in list(entry.tickets):
                if ticket not in tickets:
                    continue  # it came meanwhile
                if len(opened) == most:
                    break
                for item in ticket.lane.places.claim(ticket):  # one; or none: it was dropped
                    source, its, over = judged(ticket.lane, item)
                    if over:
                        self.books.undeliver(source, its)
                    else:
                        opened.append((source, its))
            if not line.is_over(entry):
                line.entries.appendleft(entry)  # for those that follow
                break
        return opened, not there
