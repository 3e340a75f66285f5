"""The state that sending threads and the receiving thread share.

Rule 1: all of that state lives in this file, and in what it is made of (``_lane``).
Rule 2: this file knows of no event loop and of no socket.
Rule 3: nothing of the user's runs while we are between two states: not their callbacks, and not
their destructors either.
Rule 4: nothing here waits, and nothing takes a lock that could make it wait. Whoever is interrupted
between two bytecodes, by another thread or by a signal handler or a finalizer on the same thread
that sends too, has left a state that everybody else can go on from.

What the rules are built on (the assumptions):

* One call of a method of ``deque``, ``dict`` or ``list`` that runs no Python code on the way is one
  step: with the GIL because nothing else runs meanwhile, without it because the method holds the
  object's own mutex (PEP 703, "Container Thread-Safety"). All such steps on one object have an
  order, and what a thread wrote before its step is visible to all whose step comes later. A plain
  read (an attribute, a truth test) has no such power; we use it only after such a step.
* ``next()`` of an ``itertools.count`` is one step, too (without the GIL as well, since 3.13).
* What a step removes it returns, so no destructor runs inside one.
* A signal handler that *raises* between two of our bytecodes (Ctrl-C in the main thread) may cost
  the item or the place that is in hand. Nobody waits for it beyond the end of the hub.

What is true whenever nothing is in progress:

* ``len(items) <= limit``, and ``len(room) + len(items) == limit`` if ``limit`` is neither 0 nor
  infinite, all places were made (``_more_room``) and nothing was taken back;
* a sender is in ``waiting`` only while ``room`` is empty;
* if the receiver sleeps, ``items`` is empty and ``bell`` holds the function that wakes it;
* a lane has as many turns in ``items`` as items of its own, not counting ``husks``;
* accepted = received + queued + dropped + undelivered.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from itertools import repeat, starmap
from threading import get_ident
from typing import Any, Final, TypeAlias

from ._bounds import Bounds, Overflow, find_bounds, known_bounds
from ._counter import Counters
from ._errors import RAISE, Refusal, nothing_there, other_process, portal_aborted, twin
from ._lane import UNREGISTERED, Blocked, Lane, Source
from ._request import TOKEN, Question, Request, dequeue, is_over, is_queued, question_of

Ring: TypeAlias = Callable[["Mailbox"], object]  # what is in the bell
MOST_MISSES = 128  # husks, and items that cannot be decoded, in a row before the loop may run
MOST_REPORTS = 256  # errors that wait to be reported; what exceeds it is only counted
# Calls within calls, for what must not end half-way: to put an item; and with that, to drop one.
A_LITTLE_STACK, ENOUGH_STACK = 3, 12
OUT_OF_MEANS = (MemoryError, RecursionError)


class _Nothing:
    """The type of ``NOTHING``."""

    def __repr__(self) -> str:
        return "NOTHING"


NOTHING: Final = _Nothing()  # what a ``decode`` returns that has done everything: API 1.0


class Mailbox:
    """A bounded queue that any thread puts into and one thread takes from.

    It has *limit* places. A sender takes one out of ``room`` and puts its item into ``items``; the
    receiver takes the item and puts the place back. Each place is made once, so there are never
    more items than places, whoever is interrupted where.
    """

    __slots__ = (
        "_bounds",
        "_cut",
        "_interrupt",
        "_rest",
        "_ring",
        "bell",
        "blocked",
        "call_soon",
        "calls",
        "counts",
        "ended",
        "ending",
        "has_tasks",
        "home",
        "home_ident",
        "hub",
        "husks",
        "items",
        "lanes",
        "leaving",
        "limit",
        "loop",
        "plain",
        "queues",
        "received",
        "refusal",
        "reports",
        "room",
        "root",
        "sources",
        "stopping",
        "swept",
        "tagged",
        "vacated",
        "waiting",
        "wakes",
        "way_in",
    )

    def __init__(self, limit: float, overflow: Overflow) -> None:
        try:
            bounds = known_bounds(limit, overflow)
        except TypeError:
            bounds = find_bounds(limit, overflow)  # says what is wrong with it
        self._bounds: Bounds = bounds
        places, later, _, replaces, returns_places = bounds
        self.limit: float = limit
        # In the order of acceptance: an item of the hub's own portal, or the lane whose turn it is.
        self.items: deque[Any] = deque()
        self.room: list[None] | None = None if places is None else [None] * places
        self._rest: Iterator[None] | None = repeat(None, later) if later else None  # of the places
        # For whoever receives item by item: where the place of an item is put,
        self.vacated: list[None] | None = self.room if returns_places else None
        # and the look at everything that is out of the ordinary: while this is true, an entry that
        # is no lane is an item to be received just as it is.
        self.plain: bool = not replaces
        self.waiting: list[Blocked] = []  # those who wait for room, in their order
        self.blocked: dict[Blocked | Question, None] = {}  # everybody who is in a call that waits
        self.leaving: dict[threading.Event, None] = {}  # who wants to know that one has left
        self.root: Lane = Lane(UNREGISTERED, None)  # the hub's own portal sends through this one
        self.lanes: dict[Lane, bool] = {self.root: True}  # the open ones
        self.queues: dict[Lane, None] = {}  # those that may hold items of their own
        self.husks: list[None] = []  # one for each turn whose item was taken back
        self.sources: dict[str, Source] = {}  # the registered ones, oldest first
        self.stopping: dict[Source, threading.Event] = {}  # those that are being ended alone
        self.ending: dict[None, Any] = {}  # who ends it; for the next ones
        self.reports: list[tuple[str | None, BaseException]] = []  # at most MOST_REPORTS or so
        self.counts: Counters = Counters()  # of what is rare; and how requests have ended
        self.calls: list[Callable[[], object]] = []  # polled hub: what poll() is to call
        self.bell: dict[None, Ring] = {}
        self._ring: Ring | None = None  # what was last in there, except for ``sweep``
        self.refusal: Refusal | None = None  # why nobody may send any more
        self.received: int = 0  # written in the receiving thread only
        self.wakes: int = 0  # written only by the one who has taken the bell
        self.ended: bool = False
        self.swept: bool = False  # has its last step begun?
        self.tagged: bool = False  # has any lane but the root been opened?
        self._cut: bool = False  # was the root aborted?
        self._interrupt: BaseException | None = None  # came while a batch was being decoded
        # Set when the hub is opened: a weak reference to it, the thread that receives,
        self.hub: Callable[[], Any] = gone
        self.home: threading.Thread | None = None
        self.home_ident: int | None = None
        # the event loop (``_wake.WayIn``, and what identifies it), if it has one, and how to have a
        # function called soon in its thread.
        self.way_in: Any = None
        self.loop: int | None = None
        self.call_soon: Callable[[Callable[[], object]], object] | None = None
        self.has_tasks: bool = False

    # -- The bell: how a sleeping receiver is woken ------------------------------------------------
    #
    # The bell is a dict with one place. A receiver that is about to sleep puts a function into it,
    # acts on the queue in one step that changes nothing, and then looks at the queue once more. A
    # sender puts its item into the queue, in one step, and then looks into the bell; if there is a
    # function, it takes it out and calls it.
    #
    # No wake is lost: one of the two steps on the queue is the first. If it is the receiver's, the
    # sender finds the function; if it is the sender's, the receiver finds the item. Who has to tell
    # something else (``notify``) has done it, and then acts on the bell in one step, as the
    # receiver does when it arms it: the same argument.
    #
    # There is never more than one wake: ``dict.pop`` gives the function to one sender, and to no
    # other until the receiver, awake again, puts it back. Until then a sender looks into an empty
    # dict, for 4 ns. (A lock as a flag, tried with ``acquire(False)``, would do as well at twenty
    # times the price; without the GIL, a failed attempt does not even order memory.)
    #
    # The end of a mailbox uses the same place: see ``sweep``.

    def arm(self, ring: Ring) -> None:
        """Whoever puts something next calls *ring*. In the receiving thread."""
        self._ring = ring
        self.bell[None] = ring
        self.items.rotate(0)  # the step on the queue, between arming and looking
        if self.swept:
            self.sweep()  # another thread has ended it meanwhile, and we took its function's place

    def disarm(self) -> bool:
        """Take the function out again. False if a sender has it, and calls it or has called it."""
        return self.bell.pop(None, None) is not None

    def notify(self) -> None:
        """Something happened that a sleeping receiver must see. From any thread; never waits."""
        try:
            ring = self.bell.pop(None, None)
            if ring is not None:
                # Nobody else has it now, so it must not get lost. (Nothing is called to see to
                # that: if we are out of stack, that would fail as well.)
                try:
                    ring(self)
                except OUT_OF_MEANS:
                    self.bell[None] = ring  # the next sender tries again
        except BaseException:
            self.ring_anyway()
            raise

    def ring_anyway(self) -> None:
        """A signal handler has raised while we were at the bell: have we taken it, have we rung?

        Nobody knows; so ring, and leave it in the bell as well. Once too often does no harm.
        """
        if self._ring is not None:
            self.bell.setdefault(None, self._ring)(self)

    def mend(self, lane: Lane) -> None:
        """A signal handler has raised in a sender: is its turn there, has it rung? Nobody knows.

        Without a turn its item would be received in the turn of the next one, and so on. So put one
        more: at worst it is a husk that nobody has counted.
        """
        if lane.items is not None:
            try:
                if self._bounds.replaces and self.room is not None:
                    self.room.pop()  # there each turn has a place
                self.items.append(lane)
            except IndexError:
                pass
        self.ring_anyway()

    def _count_off(self) -> None:
        """A turn without an item was found."""
        try:
            self.husks.pop()
        except IndexError:
            pass  # see ``mend``

    # -- Sending: from any thread, at any bytecode -------------------------------------------------

    def put(self, lane: Lane, item: object) -> bool:
        """Accept *item*, or return False because there is no room. Never waits.

        The caller has read ``lane.refusal`` just before. If the mailbox ends between that and our
        last line, the item goes back to its source all the same: see ``sweep``.
        """
        # Read before ``room`` is: if nothing is left in here, all places are there, or in use.
        rest = self._rest
        room = self.room
        if room is not None and not room and rest is None and self._bounds.blocks:
            return False  # the most frequent reason to come here; whoever waits takes a better look
        reach(A_LITTLE_STACK)
        if room is not None:
            try:
                room.pop()
            except IndexError:
                if self._bounds.blocks:
                    if rest is None:
                        return False
                    self._more_room()
                    return self.put(lane, item)
                self._overflow(lane, item)
                return True
        try:
            self._append(lane, item)
            self.notify()
        except OUT_OF_MEANS:
            raise
        except BaseException:
            self.mend(lane)
            raise
        return True

    def _append(self, lane: Lane, item: object) -> None:
        """Put *item*, for which the caller has taken a place. MemoryError: it was not put."""
        own = lane.items
        try:
            if own is None:
                self.items.append(item)
            else:
                own.append(item)  # the item before the turn: whoever finds a turn finds an item
                try:
                    self.items.append(lane)
                except MemoryError:
                    self._take_out(own, item)
                    raise
        except MemoryError:
            self._give_up_place()
            raise

    def _take_out(self, own: deque[Any], item: object) -> None:
        """No memory for the turn of *item*, which is in its lane already.

        There is one item more than turns, so whoever finds a turn finds an item even now. If
        another one was put meanwhile, ours is received in its turn after all, and the other one
        with the next of this lane, or handed back with it at the end.
        """
        last = own.pop()
        if last is not item:
            own.append(last)

    def _give_up_place(self) -> None:
        """No memory for an item that had a place already: nobody may miss that."""
        if self.room is not None:
            self.room.append(None)
            if self.waiting:
                self.admit()

    def _more_room(self) -> None:
        """Have all the places in ``room``, or in use. From any thread.

        Most hubs never need more than a few, and to make and free 1,024 takes a microsecond. The
        rest of them is in an iterator that nothing takes from but this one step, which puts them
        into ``room``. Two may do that: the second one finds nothing left. Whoever forgets the
        iterator does so after that step; so who finds it forgotten finds all places made.
        """
        rest = self._rest
        if rest is not None:
            assert self.room is not None
            self.room.extend(rest)
            self._rest = None

    # ``put`` as one function for each portal, made when first asked for. It finds everything in its
    # own cells, and calls nothing of ours: at this rate that is half of what an item costs. The
    # argument is the same, step by step.

    def quick_sender(
        self,
        lane: Lane,
        otherwise: Callable[[Mailbox, Lane, Any], Any],
        accepted: object,
        failed: object = RAISE,
    ) -> Callable[[Any], Any]:
        """Return a function that puts an item and returns *accepted*.

        If the lane was closed, or there is no room, it returns what *otherwise* does with the item;
        after an error (out of memory, or of stack: before the item was accepted), *failed*.
        """
        append, bell, own = self.items.append, self.bell, lane.items
        take_place = None if self.room is None else self.room.pop

        def send(item: Any) -> Any:
            try:
                if lane.refusal is not None:
                    return otherwise(self, lane, item)
                if take_place is not None:
                    try:
                        take_place()
                    except IndexError:
                        return otherwise(self, lane, item)
                try:  # see ``_append``
                    if own is None:
                        append(item)
                    else:
                        own.append(item)
                        try:
                            append(lane)
                        except MemoryError:
                            self._take_out(own, item)
                            raise
                    if bell:  # see ``notify``
                        ring = bell.pop(None, None)
                        if ring is not None:
                            try:
                                ring(self)
                            except OUT_OF_MEANS:
                                bell[None] = ring
                except MemoryError:
                    self._give_up_place()
                    raise
                except BaseException:
                    self.mend(lane)
                    raise
            except Exception:
                if failed is RAISE:
                    raise
                return failed
            return accepted

        return send

    def quick_waiting_sender(
        self, lane: Lane, otherwise: Callable[[Mailbox, Lane, Any, float | None], None]
    ) -> Callable[..., None]:
        """The same with a time limit, which is for *otherwise*: the one that may wait."""
        append, bell, own = self.items.append, self.bell, lane.items
        take_place = None if self.room is None else self.room.pop

        # CPython 3.11 and later have a quick way to call a function, unless it has parameters for
        # keywords only: then each call takes 50 ns longer. So *timeout* is not one of these, and
        # *misplaced* gets what somebody gives by position.
        def send(item: Any, misplaced: None = None, timeout: float | None = None) -> None:
            if lane.refusal is not None or timeout is not None or misplaced is not None:
                if misplaced is not None:
                    raise TypeError(f"send() takes one item; did you mean timeout={misplaced!r}?")
                otherwise(self, lane, item, timeout)
                return
            if take_place is not None:
                try:
                    take_place()
                except IndexError:
                    otherwise(self, lane, item, None)
                    return
            try:  # see ``_append``
                if own is None:
                    append(item)
                else:
                    own.append(item)
                    try:
                        append(lane)
                    except MemoryError:
                        self._take_out(own, item)
                        raise
                if bell:  # see ``notify``
                    ring = bell.pop(None, None)
                    if ring is not None:
                        try:
                            ring(self)
                        except OUT_OF_MEANS:
                            bell[None] = ring
            except MemoryError:
                self._give_up_place()
                raise
            except BaseException:
                self.mend(lane)
                raise

        return send

    def put_many(self, lane: Lane, batch: list[Any], start: int) -> int:
        """Accept as many of *batch*, from index *start* on, as there is room for; return how many.

        They are put one after the other, with nobody else's in between, and cause one wake.
        """
        reach(A_LITTLE_STACK)
        many = len(batch) - start
        if self.room is not None:
            if not self._bounds.blocks:
                for index in range(start, len(batch)):
                    self.put(lane, batch[index])
                return many
            self._more_room()
            places: list[None] = []
            try:
                places.extend(starmap(self.room.pop, repeat((), many)))
            except IndexError:
                many = len(places)
        if many:
            try:
                whole = many == len(batch)
                self._put_in_place(lane, batch if whole else batch[start : start + many])
            except BaseException:
                if lane.items is None:
                    self.ring_anyway()
                else:
                    for _ in range(many):
                        self.mend(lane)
                raise
        return many

    def _put_in_place(self, lane: Lane, items: list[Any]) -> None:
        """Put *items*, for which the caller has taken as many places."""
        if lane.items is None:
            self.items.extend(items)
        else:
            lane.items.extend(items)
            self.items.extend(repeat(lane, len(items)))
        self.notify()

    def _overflow(self, lane: Lane, item: object) -> None:
        """Accept *item* although there was no room: something must be dropped.

        "drop_oldest" puts it into the place of the oldest one. If the queue turns out to be empty,
        where are the places? The receiver's hands are ruled out: it moves an item out and its place
        back in one single step (``_move``). So either they have just come back, or they are all in
        the hands of other senders, whose items come after ours: then ours is the oldest.
        """
        reach(ENOUGH_STACK)  # or an item and its place could get lost in our hands
        if self._bounds.replaces:
            assert self.room is not None
            try:
                entry = self.items.popleft()
            except IndexError:
                try:
                    self.room.pop()
                except IndexError:
                    pass
                else:
                    self._append(lane, item)
                    self.notify()
                    return
            else:
                # Nothing of the user's runs, and nothing is let go of, until its place is used.
                oldest = self._unwrap(entry)  # None for a husk: its place is as good
                try:
                    self._append(lane, item)
                    self.notify()
                finally:
                    if oldest is not None:
                        source, dropped, over = oldest
                        (self.undeliver if over else self.drop)(source, dropped)
                return
        self.drop(lane.source, item)

    def drop(self, source: Source, item: object) -> None:
        """*item* was accepted and is thrown out: count it, give it back. From any thread."""
        self.counts["dropped"].add_one()
        source.counts["dropped"].add_one()
        self._hand_back(source, item)

    # -- Waiting for room --------------------------------------------------------------------------
    #
    # No sender is forgotten. A sender enters ``waiting`` and then tries to take a place out of
    # ``room``. Whoever frees a place puts it into ``room`` and then looks at ``waiting``. Both act
    # on ``room`` in one step: if the sender's is the first, the other one finds it in ``waiting``;
    # if not, the sender finds the place. It is the same with ``blocked`` and the refusal of a lane:
    # whoever waits enters ``blocked`` and then reads the refusal; whoever ends a lane writes the
    # refusal and then copies ``blocked``.

    def wait_for_room(self, blocked: Blocked) -> None:
        """Enter *blocked*. When its wait has ended its ``wake`` is called, perhaps in here."""
        reach(A_LITTLE_STACK)  # for ``admit``, which may have somebody else's item in hand
        self.blocked[blocked] = None
        self.waiting.append(blocked)
        if blocked.lane.refusal is None:
            self.admit()
        else:
            blocked.refuse(blocked.lane.refusal)

    def enter(self, question: Question) -> None:
        """Enter *question*; from now on its end is sure. Raises if its lane was closed."""
        self.blocked[question] = None
        refusal = question.lane.refusal
        if refusal is not None:
            question.settle("released", refusal)  # so it does not count as given up
            raise refusal()

    def ask(self, question: Question, item: object) -> None:
        """Enter *question*, and put its request, or let it wait for room. Never waits itself."""
        self.enter(question)
        lane = question.lane
        if lane.items is None:
            # The items of the hub's own portal are not looked at when they are received; a
            # request has to be. So it comes by a lane of its own.
            self.tagged = True
            lane = Lane(lane.source, deque())
        request = Request(question, item)
        if not self.put(lane, request):
            # Nobody needs to be told when it is accepted: the asker waits for the answer.
            waiting = Blocked(lane, request, question.call, gone)
            self.waiting.append(waiting)
            question.waiting = waiting
            if question.lane.refusal is None:
                self.admit()
            else:
                question.refuse(question.lane.refusal)
                if question.settled:  # perhaps before it was in the line
                    self._step_out(waiting)
        else:
            self._look_again(question)

    def _look_again(self, question: Question) -> None:
        """Its request was put just now. Was its portal closed gracefully meanwhile?

        Then whoever receives may have seen the end of the stream before it was there, and does not
        look again. If not, it was put before the end could be seen.
        """
        refusal = question.lane.refusal
        if refusal is not None:
            question.settle("released", refusal)

    def leave(self, blocked: Blocked | Question) -> None:
        """Called by the one who has waited, whatever came of it."""
        waiting = blocked.waiting
        if waiting is not None:
            blocked.waiting = None  # for a question that is its place in the line; and its request
            self._step_out(waiting)
        self.blocked.pop(blocked, None)
        if self.leaving:
            for left in list(self.leaving):
                left.set()

    def _step_out(self, waiting: Blocked) -> None:
        if waiting.accepted:
            return  # so it was taken out of the line
        waiting.withdraw()
        try:
            self.waiting.remove(waiting)  # compares identities only: one step
        except ValueError:
            pass

    def admit(self) -> None:
        """Give free places to those who wait, in their order. From any thread."""
        room = self.room
        assert room is not None
        while self.waiting:
            try:
                room.pop()
            except IndexError:
                return
            while True:
                try:
                    blocked = self.waiting.pop(0)
                except IndexError:
                    room.append(None)  # and look again: somebody may have come while we held it
                    break
                if blocked.accept():  # else it waits no longer
                    item: Any = blocked.item
                    asks = type(item) is TOKEN and is_queued(item)  # not one that is sent on
                    question = question_of(item) if asks else None
                    self._put_in_place(blocked.lane, [item])
                    blocked.item = item = None  # forgotten when its receiver forgets it
                    if question is not None:
                        self._look_again(question)
                    blocked.wake()
                    break

    def _free(self, places: int) -> None:
        """Put *places* back. From any thread."""
        if self.vacated is not None:
            self.vacated.extend(repeat(None, places))
            if self.waiting:
                self.admit()

    def seat(self, sleepers: int, roused: int = 0) -> None:
        """With limit 0: let as many senders in as receivers sleep. In the receiving thread.

        What is queued is for the *roused* first: those who were woken and have not run since.
        A sender that took a place and has not put its item yet is not seen here. At worst an item
        waits for the next receiver, as it also does if its receiver is cancelled at that moment.
        """
        if self.limit == 0:
            assert self.room is not None
            wanted = max(0, sleepers - max(0, len(self) - roused))
            while len(self.room) > wanted:
                try:
                    self.room.pop()
                except IndexError:
                    break
            if len(self.room) < wanted:
                self.room.extend(repeat(None, wanted - len(self.room)))
                self.admit()

    def is_at_home(self) -> bool:
        """Is this the thread that receives? Idents are reused, so it has to be alive as well."""
        return get_ident() == self.home_ident and self.home is not None and self.home.is_alive()

    def come_home(self) -> None:
        """From now on this thread is the one that receives."""
        self.home = threading.current_thread()
        self.home_ident = get_ident()

    # -- Receiving: in the receiving thread --------------------------------------------------------

    def __len__(self) -> int:
        return max(0, len(self.items) - len(self.husks))

    def take(self) -> Any:
        """Take the oldest item. Never waits.

        :raises anyio.WouldBlock: if there is none, or none among the next 128 that were found: the
            receiver lets its event loop run then, and comes back
        """
        for _ in range(MOST_MISSES):
            try:
                entry = self._move(1).pop() if self._bounds.replaces else self.items.popleft()
            except IndexError:
                if self._meet_sender():
                    continue
                raise nothing_there() from None
            received, item = self.unfold(entry)
            if received:
                return item
        raise nothing_there()

    def unfold(self, entry: Any) -> tuple[bool, Any]:
        """Receive what the caller has taken out of ``items``. False if there is no item in it."""
        # ``_open``, written out: the path of most items of sources, and of requests.
        is_request = False
        if type(entry) is Lane:
            try:
                item = entry.items.popleft()  # type: ignore[union-attr]  # it has some
            except IndexError:
                self._count_off()
                return False, None
            source = entry.source
            is_request = type(item) is TOKEN
            over = entry.refusal is portal_aborted or (is_request and is_over(item))
        else:
            source, item, over = UNREGISTERED, entry, self._cut
        if over:
            self._free(1)
            self.undeliver(source, item)
            return False, None
        if self.vacated is not None:
            self.vacated.append(None)
            if self.waiting:
                self.admit()
        if source.decode is not None:
            return self._decode(source, item)
        if is_request:
            dequeue(item)
        source.received += 1
        self.received += 1
        return True, item

    def take_many(self, most: int | None) -> list[Any]:
        """Take what is there now, at most *most*. Never waits; the list may be empty."""
        if self._interrupt is not None:
            interrupt, self._interrupt = self._interrupt, None
            raise interrupt
        for _ in range(len(self.waiting)):  # those who come meanwhile wait for the next call
            if not self._meet_sender() or (most is not None and len(self.items) >= most):
                break
        batch: list[Any] = []
        for _ in range(MOST_MISSES):
            many = len(self.items) if most is None else min(most - len(batch), len(self.items))
            if self._bounds.replaces:
                entries = self._move(many)
            else:
                entries = list[Any]()
                try:
                    entries.extend(starmap(self.items.popleft, repeat((), many)))
                except IndexError:
                    pass  # a portal was aborted just now
            # Read after the entries were taken: a turn among them was put after this was written.
            if not self.tagged and not self._cut:
                self._free(len(entries))
                self.received += len(entries)
                return entries
            self._open_all(entries, batch)
            if not entries or (batch and (most is None or len(batch) == most or self._interrupt)):
                break
            # Husks, and what could not be decoded, are neither items nor the end of the queue.
        return batch

    def _open_all(self, entries: list[Any], batch: list[Any]) -> None:
        for entry in entries:
            opened = self._open(entry)
            if opened is not None:
                self._free(1)
                try:
                    received, item = self._decode(*opened)
                except BaseException as exc:
                    # Ctrl-C in the user's decode(). The others have left the queue and must reach
                    # the caller, so it is raised by the next call.
                    self._interrupt = exc
                else:
                    if received:
                        batch.append(item)
        if self._interrupt is not None and not batch:
            interrupt, self._interrupt = self._interrupt, None
            raise interrupt

    def _move(self, many: int) -> list[Any]:
        """Move up to *many* entries out, and their places back, each pair in one single step.

        ``append`` returns None, and a place is a None: so ``extend`` moves the entry and returns
        its place without a bytecode between them, at which a sender would find neither.
        """
        assert self.room is not None
        batch: list[Any] = []
        try:
            self.room.extend(map(batch.append, starmap(self.items.popleft, repeat((), many))))
        except IndexError:
            pass
        return batch

    def _meet_sender(self) -> bool:
        """With limit 0: let the one who has waited longest put its item. Is there one now?"""
        if self.limit or not self.waiting:
            return False
        assert self.room is not None
        self.room.append(None)
        self.admit()
        try:
            self.room.pop()
        except IndexError:
            pass  # used
        return len(self.items) > 0

    def _open(self, entry: Any) -> tuple[Source, Any] | None:
        """The source and the item of an entry, or None if nobody is to have it."""
        unwrapped = self._unwrap(entry)
        if unwrapped is None:
            return None
        source, item, over = unwrapped
        if over:
            self._free(1)
            self.undeliver(source, item)
            return None
        return source, item

    def _unwrap(self, entry: Any) -> tuple[Source, Any, bool] | None:
        """The source and the item of an entry, or None if it is a husk. From any thread.

        The third says that nobody is to have it: it was being sent when its portal was aborted,
        which has not seen it; or it is a request for whose answer nobody waits any more.
        """
        if type(entry) is not Lane:
            return UNREGISTERED, entry, self._cut
        assert entry.items is not None
        try:
            item = entry.items.popleft()
        except IndexError:
            self._count_off()
            return None
        over = entry.refusal is portal_aborted or (type(item) is TOKEN and is_over(item))
        return entry.source, item, over

    def _decode(self, source: Source, item: Any) -> tuple[bool, Any]:
        """Count the item as received and decode it; or count it as undelivered."""
        request: Request[Any] | None = None
        if type(item) is TOKEN and is_queued(item):
            request = item
        if source.decode is not None:
            try:
                decoded = source.decode(item if request is None else request.item)
            except BaseException as exc:
                reported = exc
                if request is not None:
                    reported = twin(exc)  # before it is the asker's
                    question_of(request).fail(exc)
                self.undeliver(source, item)
                if not isinstance(exc, Exception):
                    raise
                self.report(source.name, reported)
                return False, None
            if decoded is NOTHING:
                source.received += 1
                self.received += 1
                if request is not None:
                    dequeue(request)
                    question_of(request).settle("answered")
                return False, None
            if request is None:
                item = decoded
            else:
                request.item = decoded
        if request is not None:
            dequeue(request)
        source.received += 1
        self.received += 1
        return True, item

    # -- Portals, sources and their end: from any thread -------------------------------------------

    def open_lane(self, source: Source) -> Lane:
        """Open a way to send. After the end it is born closed."""
        self.tagged = True  # before its first turn can be found
        lane = Lane(source, deque())
        for old in list(self.queues):
            if old.refusal is not None and not old.items:
                self.queues.pop(old, None)
        self.queues[lane] = None
        if source is not UNREGISTERED:
            source.lanes[lane] = True
        self.lanes[lane] = True
        if self.refusal is not None:
            # Whoever refuses everybody writes the refusal and then copies ``lanes``.
            self._refuse(lane, self.refusal)
        return lane

    def close_lane(self, lane: Lane, refusal: Refusal) -> None:
        """Nothing more is sent through *lane*; those who wait in it are released. Idempotent.

        A source whose last lane this was is no longer registered.
        """
        self._refuse(lane, refusal)
        source = lane.source
        source.lanes.pop(lane, None)
        if (
            source.name is not None
            and not source.lanes
            and not self.ended
            and source.retire("portal")
        ):
            self.sources.pop(source.name, None)
            source.portal = None
            # One that was cloned just now has entered before it reads ``retired``, or finds it so.
            for other in list(source.lanes):
                self._refuse(other, refusal)

    def _refuse(self, lane: Lane, refusal: Refusal) -> None:
        if lane.refusal is None:
            lane.refusal = refusal
        for blocked in list(self.blocked):
            if blocked.lane is lane:
                blocked.refuse(refusal)
        # Last of all: the end of the hub looks into ``lanes``, and completes what a Ctrl-C has cut.
        if self.lanes.pop(lane, False) and not self.lanes:
            self.notify()  # the receiver has to see the end of the stream

    def refuse_all(self, refusal: Refusal) -> None:
        """Nothing more is sent at all; everybody who waits is released. Idempotent."""
        if not self.ended:
            self.refusal = refusal
        for lane in list(self.lanes):
            self._refuse(lane, refusal)

    def release(self, source: Source) -> None:
        """End *source* alone: close its portals, and release who waits there, for an answer, too.

        An asker may wait after its portal was closed, so it is not enough to look at the open ones.
        """
        for lane in self.lanes_of(source):
            self.close_lane(lane, portal_aborted)
        for blocked in list(self.blocked):
            if blocked.lane.source is source:
                blocked.refuse(portal_aborted)

    def lanes_of(self, source: Source) -> list[Lane]:
        return [lane for lane in list(self.queues) if lane.source is source]

    def end(self, refusal: Refusal) -> None:
        """As ``refuse_all``, and nobody is going to receive any more. Idempotent."""
        if not self.ended:
            self.refusal = refusal
            self.ended = True
        self.plain = False
        # ``_refuse`` for all of them at once, and for those who wait for an answer after their
        # portal was closed.
        for lane in list(self.lanes):
            if lane.refusal is None:
                lane.refusal = refusal
        for blocked in list(self.blocked):
            blocked.refuse(refusal)
        if self.lanes:
            # One that is being opened just now finds ``refusal``, and refuses itself.
            self.lanes.clear()
            self.notify()

    def take_back(self, lane: Lane) -> None:
        """What *lane* has queued goes back to its source, now. The lane was closed by the caller.

        The turns stay where they are, as husks; the receiver passes over them. With "drop_oldest"
        a husk keeps its place until then, or until it is the oldest (see ``Bounds``).
        """
        if lane.items is None:
            # From here on whoever finds an item of the hub's own portal gives it back. What there
            # is now: all of it, if nobody else has ever sent; else the receiving thread sorts it
            # out; in other threads, and with "drop_oldest", where an entry taken out for a moment
            # would look like room, it is found in its time.
            self._cut = True
            self.plain = False
            if not self.tagged:
                self._hand_back_all()
            elif self.is_at_home() and not self._bounds.replaces:
                self._sort_out()
            return
        while True:
            self.husks.append(None)  # before the receiver can find the turn without its item
            try:
                item = lane.items.popleft()
            except IndexError:
                self._count_off()
                if not self.ended:
                    self.notify()  # who has counted this husk may sleep in spite of an item
                return
            self._free(1)
            self.undeliver(lane.source, item)

    def _sort_out(self) -> None:
        """Give back the items of the hub's own portal from among the others'. Receiving thread."""
        turns: list[Lane] = []
        own: list[Any] = []
        try:
            while True:
                entry = self.items.popleft()
                (turns if type(entry) is Lane else own).append(entry)
        except IndexError:
            pass
        self.items.extendleft(reversed(turns))  # in front of what has come meanwhile
        self._free(len(own))
        for item in own:
            self.undeliver(UNREGISTERED, item)

    def sweep(self) -> None:
        """Hand back everything that is queued, and whatever may still come. The last step.

        A sender that was on its way into ``put`` when we refused everybody may put its item even
        now. Then it takes this function out of the bell, where any sender looks after putting, and
        sweeps itself. If it looked into the bell before our first line, its item was put by then,
        and we find it. It is the argument of the bell once more.
        """
        self.swept = True
        self.bell[None] = Mailbox.sweep
        self._ring = None
        self.items.rotate(0)  # as in ``arm``
        if self.items:
            self._hand_back_all()
        for lane in list(self.queues):
            self.take_back(lane)  # an item whose turn is yet to come, or was cost by a Ctrl-C
            lane.source.lanes.clear()  # they refer to each other: so nothing needs a collector

    def _hand_back_all(self) -> None:
        while True:
            try:
                entry = self._move(1).pop() if self._bounds.replaces else self.items.popleft()
            except IndexError:
                return
            opened = self._open(entry)
            if opened is not None:
                self._free(1)
                self.undeliver(*opened)

    def undeliver(self, source: Source, item: object) -> None:
        """*item* was accepted and nobody will receive it: count it, give it back."""
        self.counts["undelivered"].add_one()
        source.counts["undelivered"].add_one()
        self._hand_back(source, item)

    def _hand_back(self, source: Source, item: Any) -> None:
        if type(item) is TOKEN and is_queued(item):
            # Whoever asked is told, and still has what it asked. This is all its source hears.
            dequeue(item)
            question_of(item).settle("unanswered", "the request was dropped, the hub was full")
        elif source.on_undelivered is not None:
            try:
                source.on_undelivered(item)
            except BaseException as exc:
                self.report(source.name, exc)  # perhaps in a library's thread: nothing escapes

    def report(self, source: str | None, exc: BaseException) -> None:
        """An error that concerns the hub's side, wherever it happened. From any thread."""
        self.counts["errors"].add_one()
        if len(self.reports) < MOST_REPORTS:
            self.reports.append((source, exc))
        if not self.ended:  # then the bell holds ``sweep``, which may be what reports
            self.notify()

    @property
    def task_group(self) -> Any:
        """The task group of the hub, or None: if it has no event loop, or is gone."""
        # Not held here: portals hold the mailbox, and would hold what a closed loop left behind.
        hub = self.hub()
        return None if hub is None else hub._task_group

    # -- Calls in a polled hub ---------------------------------------------------------------------

    def call_at_poll(self, call: Callable[[], object]) -> None:
        """Have *call* called in the receiving thread by its next ``poll()``. From any thread."""
        self.calls.append(call)  # before the bell, as an item
        self.notify()

    def run_calls(self) -> None:
        """Call what has come by now. In the receiving thread; what it raises is Ctrl-C."""
        for _ in range(len(self.calls)):
            self.calls.pop(0)()

    @property
    def has_news(self) -> bool:
        """Is there something for a ``poll()``? Its end is something, too."""
        return bool(len(self) or self.calls or not self.lanes or self._interrupt is not None)

    def forget(self) -> None:
        """In a forked child: the threads, the loop and the libraries are the parent's."""
        for source in self.sources.values():
            source.retire("hub")
        self.bell.clear()
        self.blocked.clear()
        self.waiting.clear()
        self.calls.clear()
        self.end(other_process)
        self.home = None


def reach(depth: int) -> None:
    """Raise RecursionError now, while nothing has happened, if there is no stack for so many."""
    if depth:
        reach(depth - 1)


def gone() -> None:
    """In the place of a weak reference to a hub that is not there, yet or any more."""
