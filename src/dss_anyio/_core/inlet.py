"""An inlet: the queue of one native sender, whose threads never enter Python, as the core sees it.

Invariant: each asker gets the outcome of its question; each handler is cancelled when its asker
gives up.

An asker is an object in C. Its own thread may end it (its time is over), or the ring may (it was
closed). When the receiver takes it out of the ring, we make a question for it (``AskedInC``). The
thread that settles the question wakes the asker. If the asker has gone before, the question counts
as abandoned. ``inlets`` composes the inlets of a hub.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, cast

from .books import NOTHING, Books
from .errors import Refusal, is_graceful
from .inside import Inside
from .question import Question
from .request import Request
from .source import Account, Lane
from .steps import TURN, Counters
from .waiter import Waiter

# Made from a raw item: the item itself; the function that makes bytes of an answer (None: the
# answer has to be bytes); and True if a refusal is reported on the hub's side, because the asker
# does not see it.
Unpacked: TypeAlias = "tuple[Any, Callable[[Any], bytes] | None, bool]"
Unpack: TypeAlias = Callable[[Any], Unpacked]

RAW: tuple[type[Any], ...] = (bytes, memoryview)  # the types of items that do not ask
OK, REFUSED, UNANSWERED, RELEASED = 0, -5, -6, -7  # of dss_anyio.h


class Bell(Protocol):
    """``Bell`` in ``_native/module.c``: wakes one hub for all of its inlets."""

    failures: int
    gone: int

    def arm(self) -> None: ...
    def open(self) -> int: ...
    def connect(self, place: int, fd: int) -> None: ...
    def clear(self, fd: int) -> None: ...
    def close(self) -> None: ...


class Ask(Protocol):
    """``Ask`` in ``_native/items.c``: a thread that waits for an answer in C."""

    data: bytes | None  # None: ``decode`` makes it
    waits: bool
    gone: bool
    left: float | None

    def decode(self) -> bytes | None: ...

    def settle(self, status: int, answer: bytes) -> bool: ...


class Ring(Protocol):
    """``Ring`` in ``_native/module.c``: the queue."""

    address: int
    capsule: Any

    def receive(self) -> bytes | None: ...
    def begin_turn(self, most: int, account: Account, books: Books) -> int: ...
    def take(self) -> Any: ...
    def drain(self, most: int) -> tuple[list[Any], bool]: ...
    def count(self) -> int: ...
    def counts(self) -> tuple[int, int, int, int]: ...
    def close(self, graceful: bool) -> None: ...
    def blocked(self) -> list[tuple[str, float, int]]: ...


class Inlet(Waiter):
    """One native sender, as the core sees it."""

    __slots__ = (
        "_inside",
        "as_it_is",
        "asked",
        "books",
        "closed",
        "requests",
        "ring",
        "taking",
        "unpack",
    )

    def __init__(
        self, lane: Lane, ring: Ring, unpack: Unpack | None, books: Books, inside: Inside
    ) -> None:
        super().__init__(lane, "native_sender", _nobody)
        self.ring: Ring = ring
        self.unpack: Unpack | None = unpack
        # Is an entry of the ring the item itself, unless it asks or was delivered?
        self.as_it_is: bool = unpack is None and lane.source.decode is None
        self.asked: dict[AskedInC, None] = {}  # the questions that are not settled
        self.closed: bool = False  # True once the ring accepts nothing any more
        # True while the receiving thread may hold an entry that it has taken out of the ring and
        # that is not in ``asked`` yet. Only the receiving thread writes it. It restores the value
        # from before, because a ``decode`` may receive, too. (If Ctrl-C leaves it True, we stay
        # inside until the hub ends, which does no harm.)
        self.taking: bool = False
        self.books: Books = books
        # The counters of its questions.
        self.requests: Counters = books.requests_of(lane.source)
        self._inside = inside

    # -- the end: from any thread ------------------------------------------------------------------

    def refuse(self, refusal: Refusal) -> None:
        """Its portal or the hub was closed. After a graceful close, accepted entries go on."""
        graceful = is_graceful(refusal)
        self.ring.close(graceful)
        self.closed = True
        if graceful:
            self.leave_if_done()
            return
        # The ring has released the askers. Now cancel the handlers of their questions.
        for question in list(self.asked):
            question.settle("released", refusal)
        self._inside.leave(self)

    def leave_if_done(self) -> None:
        """Leave ``inside`` once it is closed and empty: no later event concerns it.

        From any thread. If it left too early, no later end would reach it, and an asker could wait
        for ever. So it is not enough that the lane refuses: until the ring is closed, another entry
        may come into it. After that, an asker moves from the ring into the receiving thread's hand
        (``taking``), and from there into ``asked``. It enters each place before it leaves the one
        before. We look in the same order. So if it left a place before we looked there, we find it
        in a later one, unless it is settled. The receiving thread looks again when its hand is
        empty.
        """
        if self.closed and not self.ring.count() and not self.taking and not self.asked:
            self._inside.leave(self)

    # -- taking out of the ring: in the thread that receives or hands back -------------------------

    def take(self) -> Any:
        """Take out the oldest item, or request; NOTHING if there is none."""
        before = self.taking
        while True:
            self.taking = True
            try:
                taken = self.ring.take()
                item = NOTHING if taken is None else self.open(taken)
            finally:
                self.taking = before
            if item is not NOTHING:
                return item
            if taken is None:
                break
        self.begin_turn()
        if self.closed:
            self.leave_if_done()
        return NOTHING

    def begin_turn(self) -> bool:
        """Let ``Ring.receive`` return one turn of items. False if the turn before returned none.

        ``Ring.receive`` counts the items that it returns. This enters that count in the books, in
        C, so that Ctrl-C does not come in between. (Another thread that reads the counts meanwhile
        may find these items in both.)
        """
        return self.ring.begin_turn(TURN, self.lane.source.account, self.books) > 0

    def open(self, taken: Any) -> Any:
        """Return the item of the entry *taken* out of the ring: the entry itself, or a request.

        NOTHING if there is no item to receive: its asker has gone, or the library has done
        everything in its decode. Then its fate is in the books.
        """
        if isinstance(taken, RAW):
            return taken if self.unpack is None else self._unpacked(taken)[0]
        # A ``Delivery`` has no data. The data of an ``Ask`` are None if ``decode`` is to make them.
        item = data = getattr(taken, "data", NOTHING)
        if data is NOTHING or data is None:
            try:
                item = taken.decode()
            except RuntimeError as exc:
                self.books.report(self.lane.source, exc)
                self.books.count_undelivered(self.lane.source)
                return NOTHING
            if item is None:
                self._count_without_item(data is None and taken.gone)
                return NOTHING
            if data is NOTHING:
                return item
        encode, report = None, False
        if self.unpack is not None:
            item, encode, report = self._unpacked(item)
        question = AskedInC(self, taken, encode, report)
        # Make its token before other objects hold the question. If Ctrl-C strikes after that, or
        # memory runs out, the token is forgotten, and its destructor ends the question.
        request = Request(question, item)
        # We enter the question, and *then* look whether its asker still waits. The thread that
        # closes the lane releases all askers, and *then* copies the questions.
        self.asked[question] = None
        refusal = self.lane.refusal
        if refusal is not None and not is_graceful(refusal):
            question.settle("released", refusal)  # the close may have come during ``decode``
        elif taken.waits:
            return request
        else:
            question.look_after_the_asker()
        self.books.undeliver(self.lane.source, request)
        return NOTHING

    def _count_without_item(self, gone: bool) -> None:
        """Count an entry that has no item: its asker has *gone*, or its decode has done it all."""
        if gone:
            self.books.count_undelivered(self.lane.source)
        else:
            self.lane.source.account.received += 1
            self.books.received += 1

    def hand_back(self, taken: Any) -> None:
        """Hand back the entry *taken* out of the ring, which no receiver will get."""
        if isinstance(taken, RAW):
            item = taken if self.unpack is None else self._unpacked(taken)[0]
            self.books.undeliver(self.lane.source, item)
            return
        # A library's own function is called when *taken* is destroyed. An ``Ask`` is not decoded
        # any more, but counted like every question.
        if hasattr(taken, "waits"):
            refusal = self.lane.refusal
            # If the ring was closed without grace, it has released the askers in it.
            gave_up = not taken.waits and (refusal is None or is_graceful(refusal))
            question = AskedInC(self, taken, None, False)
            question.settle("abandoned" if gave_up else "released", refusal)
        self.books.count_undelivered(self.lane.source)

    def _unpacked(self, raw: Any) -> Unpacked:
        assert self.unpack is not None
        try:
            return self.unpack(raw)
        except Exception as exc:
            self.books.report(self.lane.source, exc)
        return raw, None, False

    def tell_gone(self) -> None:
        """Abandon the questions whose askers have given up, which cancels their handlers."""
        for question in list(self.asked):
            question.look_after_the_asker()

    def forget(self, question: AskedInC) -> bool:
        """Take out *question*, which is settled. False if it was taken out before."""
        there = self.asked.pop(question, question) is None
        if self.closed:
            self.leave_if_done()
        return there


class AskedInC(Question):
    """The question of a thread that waits in C, with the means to wake that thread."""

    __slots__ = ("_ask", "_encode", "_inlet", "_report")

    def __init__(
        self, inlet: Inlet, ask: Ask, encode: Callable[[Any], bytes] | None, report: bool
    ) -> None:
        Question.__init__(self, inlet.lane, "dss_ask", self._wake_in_c, None, inlet.requests)
        self._inlet = inlet
        self._ask = ask
        self._encode = encode
        self._report = report

    def _wake_in_c(self) -> bool:
        """Wake the asker, because the question was settled. False if the asker has gone."""
        ending, value = self._outcome[None]
        status, answer = UNANSWERED, b""
        if ending == "answered":
            try:
                status, answer = OK, (self._encode or _as_bytes)(value)
            except BaseException as exc:  # the handler's answer cannot be made into bytes
                self._inlet.books.report(self.lane.source, exc)
                status, answer = REFUSED, _text_of(exc)
        elif ending == "refused":
            status, answer = REFUSED, _text_of(value)
            if self._report:
                self._inlet.books.report(self.lane.source, value)
        elif ending == "released":
            status = RELEASED  # the ring has done it already
        there = self._ask.settle(status, answer) or ending == "released"
        self._inlet.forget(self)  # last: if Ctrl-C strikes in here, we are called once more
        self._wake = _nobody  # it refers to us
        return there

    @property
    def remaining(self) -> float | None:
        return self._ask.left

    def look_after_the_asker(self) -> None:
        """Abandon the question if its asker has gone."""
        if not self._ask.waits and self._inlet.forget(self):
            self.settle("abandoned")


def _as_bytes(value: object) -> bytes:
    if value is None:
        return b""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(cast("bytes", value))
    raise TypeError(f"the answer to dss_ask must be bytes, or None for no bytes, not {value!r}")


def _text_of(exc: BaseException) -> bytes:
    try:
        return f"{type(exc).__name__}: {exc}".encode(errors="replace")
    except Exception:
        return type(exc).__name__.encode(errors="replace")


def _nobody() -> None:
    pass
