"""An inlet: one queue of threads that never enter Python, as the core sees it.

Invariant: who asks through it hears of its question's end, and who works on an answer hears when
the asker has gone.

An asker lies in C, and has two sides that may end it: its own thread (its time is over), or the
ring (it was closed). What is made for it here, when it is taken out of the ring, is a question
(``AskedInC``). Whoever settles that wakes the asker; and if the asker has gone before, the question
counts as abandoned. The room that composes inlets is ``inlets``.
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

# What a raw item is; how an answer to it becomes bytes (None: it has to be bytes); and whether a
# refusal of it is reported on the hub's side, because nobody else gets to see it.
Unpacked: TypeAlias = "tuple[Any, Callable[[Any], bytes] | None, bool]"
Unpack: TypeAlias = Callable[[Any], Unpacked]

RAW: tuple[type[Any], ...] = (bytes, memoryview)  # what is no ``Ask``
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
        # Is what is in the ring the item, unless it asks or is delivered?
        self.as_it_is: bool = unpack is None and lane.source.decode is None
        self.asked: dict[AskedInC, None] = {}  # the questions that are not settled
        self.closed: bool = False  # does the ring accept nothing any more?
        # May who receives have in hand what has left the ring and is not in ``asked`` yet? Written
        # by who receives, who puts back what was there before: a ``decode`` may receive, too. (If
        # Ctrl-C leaves it True, we stay inside until the hub ends, which does no harm.)
        self.taking: bool = False
        self.books: Books = books
        # Where its questions are counted.
        self.requests: Counters = books.requests_of(lane.source)
        self._inside = inside

    # -- the end: from any thread ------------------------------------------------------------------

    def refuse(self, refusal: Refusal) -> None:
        """Its portal or the hub was closed. After a graceful close, what was accepted goes on."""
        graceful = is_graceful(refusal)
        self.ring.close(graceful)
        self.closed = True
        if graceful:
            self.leave_if_done()
            return
        # Those who ask were released by the ring; now those who work on an answer are told.
        for question in list(self.asked):
            question.settle("released", refusal)
        self._inside.leave(self)

    def leave_if_done(self) -> None:
        """After a graceful close, and once it is empty, there is nothing left to be told of.

        From any thread. Who leaves too early hears of no later end, and what asks would wait for
        ever. So it is not enough that the lane refuses: before the ring is closed, something may
        come into it. After that, what asks moves from the ring into the hand of who receives, and
        from there into ``asked``; each time it is there before it is no longer here. We look in the
        order in which it moves, so what has left one place before we look there is found in a
        later one, unless it is settled. Who receives looks again when its hand is empty.
        """
        if self.closed and not self.ring.count() and not self.taking and not self.asked:
            self._inside.leave(self)

    # -- what comes out of the ring: in the thread that receives or hands back ---------------------

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
        """``Ring.receive`` may return as many as a turn has. False if it has returned none so far.

        It counts what it returns, and here that is entered in the books; in C, so that Ctrl-C does
        not come in between. (Who looks from another thread meanwhile may find it in both.)
        """
        return self.ring.begin_turn(TURN, self.lane.source.account, self.books) > 0

    def open(self, taken: Any) -> Any:
        """The item of what was *taken* out of the ring: itself, or a request.

        NOTHING if there is none to receive: nobody waits for an answer any more, or the library has
        done everything in its decode. Then its fate is in the books.
        """
        if isinstance(taken, RAW):
            return taken if self.unpack is None else self._unpacked(taken)[0]
        # A ``Delivery`` has no data. What asks has None, if ``decode`` is to make them.
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
        # Its token is made before others hold the question: if Ctrl-C strikes after that, or there
        # is no memory, the token is forgotten, and ends it.
        request = Request(question, item)
        # It is entered, and *then* we look whether it still has an asker. Who closes the lane
        # releases all askers, and *then* copies the questions.
        self.asked[question] = None
        refusal = self.lane.refusal
        if refusal is not None and not is_graceful(refusal):
            question.settle("released", refusal)  # also one that was being decoded just then
        elif taken.waits:
            return request
        else:
            question.look_after_the_asker()
        self.books.undeliver(self.lane.source, request)
        return NOTHING

    def _count_without_item(self, gone: bool) -> None:
        """The library has done everything in its decode; or the asker has *gone* before."""
        if gone:
            self.books.count_undelivered(self.lane.source)
        else:
            self.lane.source.account.received += 1
            self.books.received += 1

    def hand_back(self, taken: Any) -> None:
        """Nobody will receive what was *taken* out of the ring."""
        if isinstance(taken, RAW):
            item = taken if self.unpack is None else self._unpacked(taken)[0]
            self.books.undeliver(self.lane.source, item)
            return
        # The library's own function hears of it when *taken* is destroyed. What asks is not decoded
        # any more, but counted like every question.
        if hasattr(taken, "waits"):
            refusal = self.lane.refusal
            # If it was refused at once, the ring has released whoever waited in it.
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
        """Have the work on those questions cancelled whose askers have given up."""
        for question in list(self.asked):
            question.look_after_the_asker()

    def forget(self, question: AskedInC) -> bool:
        """*question* is settled. False if it was forgotten before."""
        there = self.asked.pop(question, question) is None
        if self.closed:
            self.leave_if_done()
        return there


class AskedInC(Question):
    """The question of a thread that waits in C, and what it takes to wake that."""

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
        """It was settled: wake its asker. False if that has gone."""
        ending, value = self._outcome[None]
        status, answer = UNANSWERED, b""
        if ending == "answered":
            try:
                status, answer = OK, (self._encode or _as_bytes)(value)
            except BaseException as exc:  # a wrong answer is an error on our side, of any kind
                self._inlet.books.report(self.lane.source, exc)
                status, answer = REFUSED, _text_of(exc)
        elif ending == "refused":
            status, answer = REFUSED, _text_of(value)
            if self._report:
                self._inlet.books.report(self.lane.source, value)
        elif ending == "released":
            status = RELEASED  # by the ring already
        there = self._ask.settle(status, answer) or ending == "released"
        self._inlet.forget(self)  # last: if Ctrl-C strikes in here, we are called once more
        self._wake = _nobody  # it refers to us
        return there

    @property
    def remaining(self) -> float | None:
        return self._ask.left

    def look_after_the_asker(self) -> None:
        """If it has gone, nobody wants the answer any more."""
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
