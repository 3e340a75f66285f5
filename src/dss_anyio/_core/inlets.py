"""Inlets: the queues of threads that never enter Python, beside the line.

Invariant: each item that an inlet has accepted is received or handed back, once, as an item of the
line is.

The queue, its bell and the waiting in it are written in C (``_native``). Its ``Ring`` and ``Bell``
are passed in here; this room imports nothing of ``_native``. An inlet belongs to the lane of the
portal that it was made from. It enters that lane's ``inside`` as one waiter, on behalf of all
threads that wait in C. So each end of the lane reaches it, in the same way and at the same time as
the other waiters. The argument is that of ``inside``: it enters, and *then* reads whether the lane
refuses.

An inlet leaves ``inside`` as soon as it has released the threads that wait in C, and has cancelled
the handlers of their questions. So a thread that ends the hub or a source does not wait until these
threads have returned (step 4 in ``_ending/order``): none of them needs the GIL to return.

Items stay in the ring until they are received, so its bound is exact. The receiver takes from the
line and from the inlets in turn; there is no order between them.

No item can come after the close of a ring, so no second sweep is needed: see "accepted means
claimed before the close" in ``_native/ring.c``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from .books import NOTHING, Books
from .errors import NotCopied
from .inlet import Bell, Inlet, Ring, Unpack
from .inside import Inside
from .line import Beside, Line
from .request import TOKEN
from .source import Lane, Source


class InletCounts(NamedTuple):
    """The counts of all inlets of one source, as far as they are not in the books."""

    queued: int
    dropped: int
    late: int
    received: int  # in a turn that is not over


NO_INLET: Final = InletCounts(0, 0, 0, 0)


class Inlets(NotCopied):
    """All inlets of one hub."""

    __slots__ = (
        "_books",
        "_gone",
        "_next",
        "_past",
        "_turn",
        "all",
        "asked_last",
        "bell",
        "docked",
        "fd",
        "inside",
        "rung",
        "watch",
    )

    def __init__(self, bell: Bell, fd: int, books: Books, inside: Inside) -> None:
        self.bell: Bell = bell
        self.fd: int = fd  # the descriptor that the event loop watches: readable after a ring
        # True once the receiver looks at the inlets. Written last of all steps of docking; until
        # then, each thread that wants to add an inlet does all these steps again.
        self.docked: bool = False
        self.all: dict[Inlet, object] = {}  # each with a key of its own, for ``_past``
        # True while the descriptor was readable, and neither cleared nor closed since. Only then do
        # we read from it: later its number may be another file's. In a forked child it is the
        # parent's, which would miss the data that the child reads.
        self.rung: bool = False
        self.inside: Inside = inside
        self.watch: Callable[[], object] | None = None  # ends the event loop's watch of ``fd``
        # True if the last entry was a question. Then the next one is likely to be a question, too,
        # which needs a closer look.
        self.asked_last: bool = False
        self._books = books
        self._gone = 0
        self._turn = False
        self._next = 0
        # The counts of inlets that are no longer in ``all``: name, dropped, late.
        self._past: dict[object, tuple[str | None, int, int]] = {}

    def add(self, lane: Lane, ring: Ring, unpack: Unpack | None, line: Line) -> Inlet:
        """Enter an inlet for *lane*. Raises if *lane* was closed."""
        inlet = Inlet(lane, ring, unpack, self._books, self.inside)
        self._forget_those_that_ended()
        refusal = self.inside.enter(inlet)
        if refusal is not None:
            inlet.refuse(refusal)
            raise refusal(inlet.lane)
        # Only now: ``_forget_those_that_ended`` takes an inlet for ended that is not ``inside``. No
        # thread can send through it yet, so no item is left in it if its lane is closed in between.
        self.all[inlet] = object()
        line.beside = Beside()
        if len(self.all) == 1 and inlet.as_it_is:
            line.beside = Beside(ring.receive, inlet.begin_turn, lane.source)
            # Another thread may add an inlet meanwhile: it enters its inlet, and *then* writes a
            # ``Beside()`` that has an iteration look closer. We have written ours, and *then* count
            # once more (a copy is a step on the dict). Either we find two inlets; or the other
            # thread enters its inlet after that, and writes last.
            if len(self.all.copy()) != 1:
                line.beside = Beside()
        return inlet

    def _forget_those_that_ended(self) -> None:
        for inlet, key in list(self.all.items()):
            if inlet in self.inside.waiters or inlet.ring.count() or inlet.asked:
                continue
            _, dropped, late, received = inlet.ring.counts()
            if received:
                continue  # the receiving thread enters this count in the books
            if dropped or late:
                # Enter it here before it leaves ``all``: see ``counts``. Two threads may do this:
                # both enter the same.
                self._past[key] = (inlet.lane.source.name, dropped, late)
            self.all.pop(inlet, None)

    # -- looking: before the receiver sleeps -------------------------------------------------------

    def arm(self) -> None:
        """Have the next item wake the receiver. In the receiving thread, which looks afterwards.

        The receiver arms this and the bell together. The descriptor is cleared before the arming,
        and not as soon as it was readable: threads wait for the items that have come. A thread that
        has made it readable since has put its item before, so the receiver finds the item. Or the
        thread is an asker that has given up: so ``tell_gone`` comes after each clear.
        """
        self.clear_descriptor()
        self.bell.arm()

    def clear_descriptor(self) -> None:
        """Make the descriptor unreadable, if it was readable and is still ours.

        The caller looks afterwards.
        """
        if self.rung:
            self.bell.clear(self.fd)
            self.rung = False

    def waiting(self) -> int:
        """How many items are in the rings. From any thread."""
        return sum([inlet.ring.count() for inlet in list(self.all)])

    def tell_gone(self) -> None:
        """Abandon the questions of askers that have given up. In the hub's thread, in a wake."""
        gone = self.bell.gone
        if gone != self._gone:
            self._gone = gone
            for inlet in list(self.all):
                inlet.tell_gone()

    # -- taking: in the receiving thread -----------------------------------------------------------

    def take(self, others_wait: bool) -> tuple[Source, Any] | None:
        """Receive the oldest item of one ring; None if there is none, or the line has its turn.

        The item is NOTHING if the entry has none to receive.
        """
        if others_wait:
            self._turn = not self._turn
            if self._turn:
                return None
        order = list(self.all)  # most hubs have one: no call for that
        for inlet in order if len(order) == 1 else self._in_turn(order):
            item = inlet.take()
            if item is not NOTHING:
                self.asked_last = type(item) is TOKEN
                source = inlet.lane.source
                received, item = self._books.receive(source, item)
                return source, item if received else NOTHING
        return None

    def _in_turn(self, order: list[Inlet]) -> list[Inlet]:
        """All inlets of *order*; each call begins with another one."""
        if len(order) > 1:
            self._next = (self._next + 1) % len(order)
            order = order[self._next :] + order[: self._next]
        return order

    def take_many(self, most: int | None, others_wait: bool) -> list[Any]:
        """Receive the items that are there now, at most *most*; half of it if the line has some."""
        if most is not None and others_wait:
            # One half for all inlets together, however many there are. If *most* is odd, or 1, they
            # get the larger half every other time.
            self._turn = not self._turn
            most = (most + self._turn) // 2
            if not most:
                return []  # before ``_in_turn`` moves on to the next inlet
        batch: list[Any] = []
        for inlet in self._in_turn(list(self.all)):
            if self._books.interrupt is not None:
                break  # it is raised before another item is taken
            there = inlet.ring.count()
            if most is not None:
                there = min(there, most - len(batch))
            if there:
                batch += self._drain(inlet, there)
            if inlet.closed:
                inlet.leave_if_done()
        return batch

    def _drain(self, inlet: Inlet, most: int) -> list[Any]:
        before, inlet.taking = inlet.taking, True  # see ``Inlet.leave_if_done``
        try:
            return self._receive_many(inlet, most)
        finally:
            inlet.taking = before

    def _receive_many(self, inlet: Inlet, most: int) -> list[Any]:
        source = inlet.lane.source
        items, special = inlet.ring.drain(most)
        if not special and inlet.as_it_is:
            source.account.received += len(items)
            self._books.received += len(items)
            return items
        opened: list[tuple[Source, Any]] = []
        for taken in items:
            item = inlet.open(taken)
            if item is not NOTHING:
                opened.append((source, item))
        return self._books.receive_all(opened)

    # -- handing back: from any thread -------------------------------------------------------------

    def hand_back(self, lane: Lane | None) -> None:
        """Hand back the items in the rings of *lane*; of all lanes, if *lane* is None.

        The rings are closed, so no item comes afterwards.
        """
        for inlet in list(self.all):
            if lane is not None and inlet.lane is not lane:
                continue
            while True:
                taken = inlet.ring.take()
                if taken is None:
                    break
                inlet.hand_back(taken)

    def clear(self) -> None:
        """Hand back all items, because the hub has ended: see ``Mailbox.lend``.

        From any thread; never waits.
        """
        self.hand_back(None)
        self.rung = False
        watch, self.watch = self.watch, None
        if watch is not None:
            watch()

    # -- statistics: from any thread ---------------------------------------------------------------

    def counts(self) -> dict[str | None, InletCounts]:
        """The counts of the inlets of each source, by name. From any thread.

        Each inlet is in one of two lists. It is entered in the second list before it is taken out
        of the first. We copy the first list first, so we find it. If it is in both, it counts once.
        """
        there = self.all.copy()
        past = self._past.copy()
        rows = [(inlet.lane.source.name, inlet.ring.counts()) for inlet in there]
        for key in past.keys() - set(there.values()):
            name, dropped, late = past[key]
            rows.append((name, (0, dropped, late, 0)))
        found: dict[str | None, InletCounts] = {}
        for name, counts in rows:
            before = found.get(name, NO_INLET)
            found[name] = InletCounts(*map(sum, zip(before, counts, strict=True)))
        return found
