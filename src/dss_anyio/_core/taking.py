"""Taking an item: it leaves the line, its place is free, and its fate is in the books.

In the receiving thread; at the end of the hub also in the thread that hands back the items left.
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
    """The half of a mailbox that receivers call: items leave here. See the head of this file."""

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
        """How many entries and tickets a receiver would find. It looks here before it sleeps."""
        line = self.line
        if self.inlets is not None:
            return len(line.entries) + len(line.tickets) + self.inlets.waiting()
        return len(line.entries) + len(line.tickets)

    def take(self) -> Any:
        """Take the oldest item. Never waits.

        :raises anyio.WouldBlock: if there is none, or none among the next 128 entries: then the
            receiver lets its event loop run, and comes back. It has no message: the caller makes
            the one of ``nothing_there``
        """
        entries, inlets = self.line.entries, self.inlets
        if inlets is not None and not entries and not inlets.asked_last:
            taken = self._take_as_it_is()
            if taken is not None:
                return taken[1]
        if self.inside.waiters:
            reach(ENOUGH_STACK)  # ``Places.admit`` needs it when we have an item that we could lose
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
        """Receive an item of the only inlet, if its entries need no closer look."""
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
        """Give back the place of *entry*; return its source and item. None: nothing to receive."""
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

        None if there is none: then the mark is closed, and no longer needed in the line.
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
        for _ in range(len(meeting.waiting)):  # senders that come later wait for the next call
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
            # Read after the entries were taken: ``tagged`` is written before a turn is put. (With
            # inlets the line is always tagged: see ``Docks._inlets``. So *batch* is empty here, and
            # no item that was taken from the inlets is left behind.)
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
            # Go on after husks and items that cannot be decoded: the line may have more.
            if over or (batch and (most is None or len(batch) == most)):
                break
        if not batch:
            self.books.raise_interrupt()
        return batch

    def _one_by_one(self, most: int | None) -> tuple[list[tuple[Source, Any]], bool]:
        """Open the entries that are there now, at most *most* items. The second: is the line empty?

        The entries behind a mark have to stay where they are until all tickets of the mark are
        taken. A place that we give back may get a new item: that is for the next call. So a batch
        has no more items of a source than may be queued.
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
