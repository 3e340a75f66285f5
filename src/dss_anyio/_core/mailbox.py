"""The mailbox: any thread puts items in; one thread takes them out. It composes the rooms.

An item's way: a sender (``sender``) takes a place (``places``), puts the item into the line
(``line``) and looks into the bell (``bell``). The receiver takes an entry out of the line
(``taking``), gives its place back, and writes the item's fate into the books (``books``).
``registry`` has the lanes that may send, ``inside`` the threads and tasks that wait.

Rule 1: all state that threads share lives in this folder.
Rule 2: this folder knows no event loop and no socket. (``home`` holds what reaches the loop;
``request`` has two coroutines, which use anyio.)
Rule 3: no code of the user runs while we are between two states: no callback, and no destructor
either.
Rule 4: nothing here waits, except for ``Inside.wait_until_left``. No function that a sender or a
receiver calls takes a lock that could make it wait. (The end of a hub that has an inlet takes the
lock of the list of the threads that wait in C, for a few instructions each: see
``_native/sender.c``.) A call may be interrupted between two bytecodes: by another thread, or by a
signal handler or a finalizer on the same thread, which may send, too. In each of these places it
leaves a state from which all others can go on.

Where an inlet docks. An inlet is a ring into which threads without Python write (``inlets``). It is

* armed with the bell, in ``_receiving`` (``Sleepers``, ``Alarm.reset``);
* counted with the line (``entries``), and drained when items are taken (``taking``);
* handed back with the queued items of its lane (``take_back``; at the end, ``Inlets.clear``);
* refused as a waiter is (``Inside.refuse``);
* watched by the hub's loop, through its descriptor (``WayIn``).

An iteration, or a handler that is called in the wake, looks at the line by itself. When the line is
empty, it calls the mailbox, which looks at the inlets, too.

Another inlet is another ``Ring`` (the protocol in ``inlet``) that rings the ``Bell`` of
``Inlets``: give it to ``Inlets.add``, and all of that follows. ``Docks._inlets`` in ``_hub/docks``
makes the ``Inlets`` with the first one. It sets ``line.beside``, and ``line.tagged`` to True, so
that receivers look beyond the line. Then it calls ``_dock``, which has the descriptor watched
(``Hub._dock`` in ``_hub/hub``), or waited at (``PolledHub._dock`` in ``_hub/polled``).

Always true: sent = received + queued + dropped + undelivered, for the hub and for each name that a
source has, or has had (see ``books``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import ref

from .bell import Bell
from .books import NOTHING, Books
from .errors import Refusal, other_process
from .home import Home
from .inlets import Inlets
from .inside import Inside
from .line import ENDED, Beside, Line, Ticket
from .places import Places
from .policies import Overflow, make_places
from .question import Question
from .registry import Registry
from .reports import Reports
from .request import Request
from .source import UNREGISTERED, Lane, Root, Source
from .steps import IN_TURN, Once
from .taking import Taking
from .waiter import WaitForPlace


class Mailbox(Taking):
    """A bounded queue with all that belongs to it. See the head of this file."""

    __slots__ = (
        "__dict__",  # for attributes that few hubs have
        "__weakref__",
        "bell",
        "books",
        "ending",
        "home",
        "inlets",
        "inside",
        "lent",
        "line",
        "meeting",
        "overflow",
        "places",
        "registry",
        "reports",
        "root",
    )

    def __init__(self, limit: float, overflow: Overflow) -> None:
        self.line: Line = Line()
        self.bell: Bell = Bell(self.line.entries)
        self.books: Books = Books(self.bell)
        self.reports: Reports = self.books.reports
        self.places: Places = make_places(limit, overflow, self.line, self.bell, self.books)
        self.overflow: Overflow = overflow
        # The places where senders meet sleeping receivers, if there are any: see ``NoPlaces``.
        self.meeting: Places = self.places
        self.inside: Inside = Inside()
        # The lane of the hub's own portal.
        self.root: Lane = Root(UNREGISTERED, {} if self.places.tickets else None, self.places)
        self.registry: Registry = Registry(self.bell, self.inside, self.root)
        self.home: Home = Home()
        self.ending: Once[Any] = Once()  # the end that is under way: the first one counts
        self.lent: list[list[Any] | dict[int, Any] | Inlets] = []  # see ``lend``
        self.inlets: Inlets | None = None  # made with the first native sender

    # -- sending: from any thread, at any bytecode -------------------------------------------------

    def wait_for_place(self, waiter: WaitForPlace) -> None:
        """Enter *waiter*. When its wait has ended its ``wake`` is called, perhaps in here."""
        refusal = self.inside.enter(waiter)
        if refusal is None:
            waiter.lane.places.wait(waiter)
        else:
            waiter.refuse(refusal)

    def enter(self, question: Question) -> None:
        """Enter *question*; from now on the end of the hub settles it. Raises if it is refused."""
        refusal = self.inside.enter(question)
        if refusal is not None:
            question.settle("released", refusal)  # so it does not count as abandoned
            raise refusal(question.lane)

    def ask(self, question: Question, item: object) -> None:
        """Enter *question*, and put its request, or let it wait for a place. Never waits itself."""
        self.enter(question)
        lane = question.lane
        if lane.items is None:
            self.line.tagged = True  # before the request can be found
        request = Request(question, item)
        if lane.places.put(lane, request):
            question.look_again()
            return
        # Its acceptance wakes no thread: the asker waits for the answer.
        waiter = WaitForPlace(lane, request, question.call, _nobody)
        question.waiting = waiter
        refusal = lane.refusal  # read after the question knows that it waits: see ``refuse``
        if refusal is not None:
            question.refuse(refusal)
            return
        lane.places.wait(waiter)
        if question.settled:  # perhaps before its wait had begun
            lane.places.step_out(waiter)

    def leave(self, waiter: WaitForPlace | Question) -> None:
        """End the stay of *waiter*, whatever its outcome. In the thread or task that has waited."""
        waiting = waiter.waiting
        if waiting is not None:
            waiter.waiting = None  # for a question, that is its wait for a place, with its request
            waiting.lane.places.step_out(waiting)
        self.inside.leave(waiter)

    # -- lanes and their end: from any thread ------------------------------------------------------

    def make_places(self, limit: float | None, overflow: Overflow | None) -> Places:
        """Return the places for a source: the hub's if both are None. A single None: as the hub's.

        :raises ValueError: as ``policies.make_places``
        """
        if limit is None and overflow is None:
            return self.places
        limit = self.places.limit if limit is None else limit
        overflow = self.overflow if overflow is None else overflow
        places = make_places(limit, overflow, self.line, self.bell, self.books)
        return places if limit else self._meet(places)

    def _meet(self, places: Places) -> Places:
        """Let senders with 0 places of their own meet the receivers that sleep. See ``NoPlaces``.

        The receivers are the hub's, so all such senders share the seats, and wait in one line.
        """
        meeting = self.places
        if meeting.limit or not meeting.blocks:
            meeting = make_places(0, "block", self.line, self.bell, self.books)
            if not self.places.limit:
                meeting.free = self.places.free
            # Two threads may get here at once: both use the one that was entered first.
            meeting = self.__dict__.setdefault("meeting of sources", meeting)
            self.meeting = meeting
            self.bell.ring()  # receivers that sleep already make seats now
        if places.blocks:
            return meeting
        places.free = meeting.free
        return places

    def open_lane(self, source: Source, places: Places | None = None) -> Lane:
        """Open a way to send, with the hub's places if it is given no others."""
        self.line.tagged = True  # before its first turn can be found
        return self.registry.open_lane(source, self.places if places is None else places)

    def keep_lane(self, source: Source, limit: float | None, overflow: Overflow | None) -> Lane:
        """Make a lane with places of its own that belongs to no portal: see ``Registry``."""
        self.line.tagged = True  # before its first turn can be found
        return self.registry.keep_lane(source, self.make_places(limit, overflow))

    def take_back(self, lane: Lane) -> None:
        """Hand back everything that *lane* has queued, now. The caller has closed the lane."""
        if self.inlets is not None:
            self.inlets.hand_back(lane)
        if lane.places.tickets:
            items: dict[Ticket, Any] = lane.items
            while tickets := list(items):
                for ticket in tickets:
                    for item in lane.places.claim(ticket):
                        self.books.undeliver(lane.source, item)
            return
        while True:
            try:
                item = self.line.take_back(lane)
            except IndexError:
                if not self.ended:
                    self.bell.ring()  # for a polled hub: see ``Line.take_back``
                return
            lane.places.leave()
            self.books.undeliver(lane.source, item)

    # -- turns: in the receiving thread ------------------------------------------------------------

    def receive_beside(self) -> Any:
        """For an iteration: take an item from the inlets by a closer look. NOTHING if none."""
        taken = None if self.inlets is None or self.ended else self.inlets.take(False)
        return NOTHING if taken is None else taken[1]

    def begin_turn(self, beside: Beside) -> bool:
        """Let an iteration take the next IN_TURN items from the line, while the line has some.

        False if the hub has ended. If it ends after that, *beside* is replaced, and with it the
        turn.
        """
        if beside is ENDED or self.ended:
            return False
        beside.turn_ends = self.books.received + IN_TURN
        return True

    # -- the end: from any thread ------------------------------------------------------------------

    def end(self, refusal: Refusal) -> None:
        """Refuse all items, release all waiters; nothing is received any more. Idempotent.

        A callback of an asker's future may raise, for example SystemExit: that is raised last.
        """
        self.line.beside = ENDED  # from now on, iterations check ``ended``
        self.registry.end(refusal)

    @property
    def ended(self) -> bool:
        return self.registry.ended

    @property
    def refusal(self) -> Refusal | None:
        """Why no portal may send any more; None while portals may."""
        return self.registry.refusal

    def sweep(self) -> None:
        """Hand back all queued items, and those that may still come. The last step.

        A sender that was on its way into ``put`` when all lanes were refused may put its item even
        now. Then it finds our function in the bell, where each sender looks after putting, and
        sweeps. If it looked into the bell before our first line, its item was put by then, and we
        find it. It is the argument of the bell once more.
        """
        # Each sending thread holds the mailbox, so a weak reference will do.
        self.bell.close(partial(_sweep_again, ref(self)))
        if self.line.entries:
            self._hand_back_all()
        if self.root.items:
            self.take_back(self.root)
        for lane in [*self.registry.lanes]:
            self.take_back(lane)  # an item whose turn is yet to come, or was lost to a Ctrl-C
            lane.source.lanes.clear()  # break the reference cycle, so that no collector is needed
            lane.source.kept.clear()
        self._empty_lent()

    def lend(self, held: list[Any] | dict[int, Any] | Inlets) -> None:
        """Have *held* emptied when the hub has ended. From any thread.

        For what an object holds that lives as long as the process: it must not keep the user's
        objects for so long. And for the inlets, whose ``clear`` hands back. We enter *held*, and
        *then* read whether the hub was swept. The sweep closes the bell, and *then* empties the
        entries that it finds. So either it finds ours, or we read that the hub was swept.
        """
        self.lent.append(held)
        if self.swept:
            self._empty_lent()

    def _empty_lent(self) -> None:
        while self.lent:
            try:
                # The oldest first: the inlets hand back before their unpack functions are dropped.
                held = self.lent.pop(0)
            except IndexError:
                return  # another thread empties the list, too
            held.clear()

    @property
    def swept(self) -> bool:
        """Has the last step, ``sweep``, begun?"""
        return self.bell.last is not None

    def _hand_back_all(self) -> None:
        while True:
            try:
                entry = self.line.entries.popleft()
            except IndexError:
                return
            opened = self.open(entry)
            if opened is not None:
                self.books.undeliver(*opened)

    def forget(self) -> None:
        """In a forked child: the threads, the loop and the libraries are the parent's."""
        for source in self.registry.sources.values():
            source.retire("hub")
        for lane in self.registry.lanes:
            lane.source.on_undelivered = None  # the fork may come while items are handed back
            lane.places.forget()
        mine = self.inside.forget()
        self.bell.forget()
        self.places.forget()
        if self.inlets is not None:
            self.inlets.rung = False
        self.inlets = None  # its rings detect the fork by themselves
        self.end(other_process)
        self.registry.refusal = other_process  # also if the parent has begun to end the hub
        self.home.thread = None
        for waiter in mine:
            waiter.refuse(other_process)


def _sweep_again(alive: Callable[[], Mailbox | None], _: Bell) -> None:
    mailbox = alive()
    if mailbox is not None:
        mailbox.sweep()


def _nobody() -> None:
    pass
