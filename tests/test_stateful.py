"""Random programs on a real hub, step by step against a model that is obviously right.

Hypothesis makes up programs of sends, requests, replies, cancellations, closes, polls; after each
step the hub must say what the model says. When one fails, it is made as short as possible and
printed. This thread polls and does what cannot block; what blocks runs in threads of its own, and
the program goes on when they wait or have returned, which the model knows.

    HYPOTHESIS_PROFILE=long python -m pytest tests/test_stateful.py      twenty times as many
"""

from __future__ import annotations

import math
import os
import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import Any

import pytest
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream, WouldBlock
from anyio.from_thread import BlockingPortal, start_blocking_portal
from conftest import WITHOUT_GIL
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import dss_anyio as dss
from dss_anyio._loops import slices as _waiting
from dss_anyio._loops.slices import acquire
from dss_anyio.testing import until

settings.register_profile(
    "default",
    max_examples=50 if WITHOUT_GIL else 150,  # there, a forgotten request is noticed in a second
    stateful_step_count=30,
    deadline=None,
    database=None,
    print_blob=True,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
)
settings.register_profile("long", settings.get_profile("default"), max_examples=3000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


class RefusalError(Exception):
    """What a request is refused with."""


@dataclass(eq=False)
class Entry:
    """What the model knows of one item or request."""

    number: int
    portal: ModelPortal
    is_request: bool = False
    ending: str | None = None  # of a request; None while it is open
    call: Call | None = None  # the thread that waits, or has waited, with it
    future: Future[Any] | None = None
    token: dss.Request[Any] | None = None
    raises: type[BaseException] | None = None  # where it was asked, if its ending does not say that


@dataclass(eq=False)
class Bound:
    """How many items of those who share it may be queued, and what becomes of one more."""

    limit: float
    overflow: Any


@dataclass(eq=False)
class ModelPortal:
    real: dss.Portal[Any]
    source: str | None
    bound: Bound
    error: type[Exception] | None = None  # what is raised there, once it is closed

    @property
    def open(self) -> bool:
        return self.error is None


class Call(threading.Thread):
    """A call that may block, in a thread, and what came of it."""

    def __init__(self, func: Callable[[], Any]) -> None:
        super().__init__(daemon=True)
        self.func = func
        self.outcome: Any = None
        self.start()

    def run(self) -> None:
        try:
            self.outcome = self.func()
        except BaseException as exc:
            self.outcome = type(exc)

    def sleeps(self) -> bool:
        assert self.ident is not None
        frame = sys._current_frames().get(self.ident)
        return frame is not None and frame.f_code is acquire.__code__

    def returned(self) -> Any:
        soon(lambda: not self.is_alive())
        return self.outcome


patience = 10.0  # seconds


def soon(condition: Callable[[], object]) -> None:
    global patience
    try:
        until(condition, patience)
    except AssertionError:
        patience = 0.5  # it has failed; now it is tried again and again, to make it short
        raise


OUTCOMES = {
    "answered": "answer",
    "refused": RefusalError,
    "unanswered": dss.NoReplyError,
    "abandoned": CancelledError,
}
ENDINGS = [*OUTCOMES, "released"]


class Polled(RuleBasedStateMachine):
    @initialize(
        limit=st.sampled_from([0, 1, 2, 3, math.inf]),
        overflow=st.sampled_from(["block", "drop_oldest", "drop_newest"]),
    )
    def open(self, limit: float, overflow: Any) -> None:
        self.bound = Bound(limit, overflow if 0 < limit < math.inf else "block")
        self.errors: list[Any] = []
        self.hub = self.open_hub(
            limit, overflow=self.bound.overflow, on_error=lambda *error: self.errors.append(error)
        )
        self.receivers = [self.hub]
        self.receivers_open = [True]
        self.portals = [ModelPortal(self.hub.portal, None, self.bound)]
        self.error: type[Exception] | None = None  # what is raised to whoever opens a portal
        self.tagged = False  # has anything been sent, or opened, but the hub's own portal?
        self.numbers = 0
        self.queue: list[Entry] = []
        self.line: list[Entry] = []  # those who wait for room
        self.held: list[Entry] = []  # requests that were polled, and not settled by us
        self.requests: list[Entry] = []
        self.counts: Counter[str] = Counter()
        self.counts_of: dict[str | None, Counter[str]] = {None: self.counts}  # by source
        self.handed_back: list[int] = []
        self.really_handed_back: list[int] = []

    # -- what is different with an event loop ------------------------------------------------------

    def open_hub(self, *args: Any, **kwargs: Any) -> Any:
        return dss.open_polled_hub(*args, **kwargs)

    def here(self, func: Callable[..., Any], *args: Any) -> Any:
        """Call *func* in the thread that receives."""
        return func(*args)

    def receive(self, receiver: Any, most: int | None, something: bool) -> list[Any]:
        return receiver.poll(most)

    def close_receiver(self, receiver: Any) -> None:
        """If it is the last one, the hub ends."""
        receiver.close()

    hands_back_when_closed = True

    def leave_hub(self) -> None:
        self.hub.close()

    # -- the model ---------------------------------------------------------------------------------

    def new(self, portal: ModelPortal, is_request: bool = False) -> Entry:
        self.numbers += 1
        entry = Entry(self.numbers, portal, is_request)
        if is_request:
            self.requests.append(entry)
            self.tagged = self.tagged or portal.open
        return entry

    def room(self, bound: Bound) -> float:
        return bound.limit - sum(entry.portal.bound is bound for entry in self.queue)

    @property
    def ended(self) -> bool:
        return not any(self.receivers_open)

    def accepts(self, entry: Entry) -> bool:
        """Put *entry* into the model's queue if the hub has to accept it."""
        bound = entry.portal.bound
        if self.room(bound) > 0:
            self.queue.append(entry)
        elif bound.overflow == "drop_newest":
            self.drop(entry)
        elif bound.overflow == "drop_oldest":
            oldest = next(each for each in self.queue if each.portal.bound is bound)
            self.queue.remove(oldest)
            self.drop(oldest)
            self.queue.append(entry)
        else:
            return False
        return True

    def drop(self, entry: Entry) -> None:
        # What nobody would have received is not what had to give way.
        self.count(entry, "dropped" if entry.ending is None else "undelivered")
        self.give_back(entry)

    def give_back(self, entry: Entry) -> None:
        if entry.is_request:
            self.settle(entry, "unanswered")
        elif entry.portal.source is not None:
            self.handed_back.append(entry.number)

    def count(self, entry: Entry, what: str) -> None:
        for source in {None, entry.portal.source}:
            self.counts_of[source][what] += 1

    def undeliver(self, entry: Entry) -> None:
        self.count(entry, "undelivered")
        self.give_back(entry)

    def settle(self, entry: Entry, ending: str, raises: type[BaseException] | None = None) -> bool:
        if entry.ending is not None:
            return False
        entry.ending = ending
        entry.raises = raises
        self.count(entry, ending)
        return True

    def admit(self, bound: Bound) -> None:
        """A place has become free: let the one in who has waited longest for one of these."""
        for entry in self.line:
            if entry.portal.bound is bound and self.room(bound) > 0:
                self.line.remove(entry)
                self.queue.append(entry)
                return

    def close_model(self, portal: ModelPortal, error: type[Exception]) -> None:
        if portal.open:
            portal.error = error
        for entry in [each for each in self.line if each.portal is portal]:
            self.line.remove(entry)
            if entry.is_request:
                self.settle(entry, "released", error)
            else:
                assert entry.call is not None
                assert entry.call.returned() is error

    def abort_model(self, portal: ModelPortal) -> None:
        self.close_model(portal, ClosedResourceError)
        for entry in self.requests:
            if entry.portal is portal:
                self.settle(entry, "released", ClosedResourceError)
        if portal is self.portals[0]:
            return  # it has no hook: what it has queued is received
        for entry in [each for each in self.queue if each.portal is portal]:
            self.undeliver(entry)
            self.queue.remove(entry)
            self.admit(portal.bound)

    def end_model(self) -> None:
        """Nobody is going to receive any more."""
        for portal in self.portals:
            self.close_model(portal, BrokenResourceError)
        for entry in self.requests:
            self.settle(entry, "released", BrokenResourceError)
        self.error = BrokenResourceError

    def hand_back_model(self) -> None:
        for entry in self.queue:
            self.undeliver(entry)
        self.queue.clear()

    # -- sending -----------------------------------------------------------------------------------

    @rule(
        which=st.integers(0, 9), how=st.sampled_from(["offer", "send_nowait", "send", "callback"])
    )
    def send(self, which: int, how: str) -> None:
        portal = self.portals[which % len(self.portals)]
        entry = self.new(portal)
        accepted = portal.open and self.accepts(entry)
        if how == "offer":
            assert self.here(portal.real.offer, entry.number) is accepted
        elif how == "callback":
            had = self.hub.statistics()
            self.here(portal.real.send_callback(), entry.number)
            if portal.open and not accepted:  # counted as dropped, and handed back
                self.drop(entry)
            assert (self.hub.statistics().late > had.late) is not portal.open
        else:
            expected: Any = portal.error
            if portal.open and not accepted:
                expected = WouldBlock if how == "send_nowait" else RuntimeError
            func = getattr(portal.real, how)
            assert self.here(raised_by, func, entry.number) is expected

    @rule(which=st.integers(0, 9), many=st.integers(0, 5))
    def send_many(self, which: int, many: int) -> None:
        portal = self.portals[which % len(self.portals)]
        entries = [self.new(portal) for _ in range(many)]
        accepted = 0
        if portal.open:
            for entry in entries:
                if not self.accepts(entry):
                    break
                accepted += 1
        try:
            self.here(portal.real.send_many, [entry.number for entry in entries])
        except (ClosedResourceError, BrokenResourceError, RuntimeError) as exc:
            assert isinstance(exc, portal.error or RuntimeError)
            assert re.search(rf"\({accepted} of {many} items", str(exc))
            assert not portal.open or accepted < many
        else:
            assert accepted == many

    @rule(which=st.integers(0, 9))
    def send_in_a_thread(self, which: int) -> None:
        portal = self.portals[which % len(self.portals)]
        entry = self.new(portal)
        self.begin(entry, lambda: portal.real.send(entry.number))

    @rule(which=st.integers(0, 9))
    def request_in_a_thread(self, which: int) -> None:
        portal = self.portals[which % len(self.portals)]
        entry = self.new(portal, is_request=True)
        self.begin(entry, lambda: portal.real.request(entry.number))

    def begin(self, entry: Entry, func: Callable[[], Any]) -> None:
        blocked = len(self.hub.blocked())
        queued = self.hub.statistics().sent
        entry.call = Call(func)
        if not entry.portal.open:
            self.not_asked(entry)
            assert entry.call.returned() is entry.portal.error
        elif not self.accepts(entry):
            self.line.append(entry)
            soon(lambda: len(self.hub.blocked()) == blocked + 1)
            soon(lambda: self.hub.statistics().tasks_waiting_send == len(self.line))
            # It is in the line, and looks for room once more. A place that it holds meanwhile is
            # not there for others.
            soon(entry.call.sleeps)
        elif entry.is_request:
            soon(lambda: self.hub.statistics().sent == queued + 1)
        else:
            assert entry.call.returned() is None

    def not_asked(self, entry: Entry) -> None:
        self.requests = [each for each in self.requests if each is not entry]
        entry.ending = "not asked"

    @rule(which=st.integers(0, 9))
    def request_without_waiting(self, which: int) -> None:
        portal = self.portals[which % len(self.portals)]
        entry = self.new(portal, is_request=True)
        if not portal.open:
            self.not_asked(entry)
            expected: Any = portal.error
        else:
            self.accepts(entry)
            # Nobody answers meanwhile; but if it was dropped, that has come first.
            self.settle(entry, "abandoned", TimeoutError)
            expected = self.expected(entry)
        entry.call = Call(lambda: portal.real.request(entry.number, timeout=0))
        assert entry.call.returned() is expected

    @rule(which=st.integers(0, 9))
    def request_soon(self, which: int) -> None:
        portal = self.portals[which % len(self.portals)]
        if not portal.open:
            assert self.here(raised_by, portal.real.request_soon, 0) is portal.error
            return
        entry = self.new(portal, is_request=True)
        if not self.accepts(entry):
            self.line.append(entry)
        entry.future = self.here(portal.real.request_soon, entry.number)

    @precondition(lambda self: any(each.future for each in self.requests))
    @rule(which=st.integers(0, 99))
    def cancel_a_future(self, which: int) -> None:
        entries = [each for each in self.requests if each.future is not None]
        entry = entries[which % len(entries)]
        assert entry.future is not None
        self.settle(entry, "abandoned")
        assert entry.future.cancel() is (entry.ending == "abandoned")
        if entry in self.line:
            self.line.remove(entry)

    # -- receiving and answering -------------------------------------------------------------------

    @rule(which=st.integers(0, 9), most=st.sampled_from([None, 1, 2]))
    def poll(self, which: int, most: int | None) -> None:
        which %= len(self.receivers)
        receiver = self.receivers[which]
        if not self.receivers_open[which]:
            assert raised_by(self.receive, receiver, most, False) is ClosedResourceError
            return
        expected: list[Entry] = []
        if self.bound.limit == 0:
            while self.line and (most is None or len(self.queue) < most):
                entry = next((each for each in self.line if each.portal.bound.limit == 0), None)
                if entry is None:
                    break
                self.line.remove(entry)
                self.queue.append(entry)
        while self.queue and (not expected or len(expected) < (most or 0)):
            many = len(self.queue) if most is None else min(most - len(expected), len(self.queue))
            batch, self.queue = self.queue[:many], self.queue[many:]
            for entry in batch:
                if entry.ending is None:
                    expected.append(entry)
                else:
                    self.undeliver(entry)  # whoever asked has gone, or the portal it came by
                self.admit(entry.portal.bound)
            if not self.tagged:
                break  # there is nothing among them to be passed over, so one look is enough
        if not expected and not any(portal.open for portal in self.portals):
            with pytest.raises(EndOfStream):
                self.receive(receiver, most, False)
            return
        polled = self.receive(receiver, most, bool(expected))
        for entry in expected:
            self.count(entry, "received")
        assert [getattr(each, "item", each) for each in polled] == [
            each.number for each in expected
        ]
        for entry, item in zip(expected, polled, strict=True):
            if entry.is_request:
                entry.token = item
                self.held.append(entry)

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 99), how=st.sampled_from(["answered", "refused", "unanswered"]))
    def settle_one(self, which: int, how: str) -> None:
        entry = self.held.pop(which % len(self.held))
        token, entry.token = entry.token, None
        assert token is not None
        assert token.abandoned is (entry.ending in ("abandoned", "released"))
        wins = self.settle(entry, how)
        if how == "answered":
            assert token.reply("answer") is wins
            assert token.reply("another") is False
        elif how == "refused":
            assert token.reply_error(RefusalError()) is wins
        del token
        self.here(int)  # without the GIL, the list it came in goes when its maker runs

    # -- opening and closing -----------------------------------------------------------------------

    @precondition(lambda self: len(self.portals) < 6)
    @rule(
        which=st.integers(0, 9),
        clone=st.booleans(),
        limit=st.sampled_from([None, None, 1, 2, math.inf]),
        overflow=st.sampled_from([None, "block", "drop_oldest", "drop_newest"]),
    )
    def open_portal(self, which: int, clone: bool, limit: float | None, overflow: Any) -> None:
        if not clone:
            name = f"source {which % 3}"  # so some are registered again after their end
            self.tagged = True
            is_registered = any(each.open and each.source == name for each in self.portals)
            if self.error is not None or is_registered:
                assert raised_by(self.hub.register, name) is (self.error or ValueError)
                return
            self.counts_of.setdefault(name, Counter())
            bound = self.bound
            if limit is not None:
                bound = Bound(limit, overflow or bound.overflow)
            real = self.hub.register(
                name,
                on_undelivered=self.really_handed_back.append,
                max_buffer_size=limit,
                overflow=None if limit is None else overflow,
            )
            self.portals.append(ModelPortal(real, name, bound))
            return
        portal = self.portals[which % len(self.portals)]
        if portal.open:
            self.tagged = True
            self.portals.append(ModelPortal(portal.real.clone(), portal.source, portal.bound))
        else:
            assert raised_by(portal.real.clone) is portal.error

    @rule(which=st.integers(0, 9))
    def close_portal(self, which: int) -> None:
        portal = self.portals[which % len(self.portals)]
        self.here(portal.real.close)
        self.close_model(portal, ClosedResourceError)

    @rule(which=st.integers(0, 9))
    def abort_portal(self, which: int) -> None:
        portal = self.portals[which % len(self.portals)]
        self.here(portal.real.abort)
        self.abort_model(portal)

    @precondition(lambda self: self.numbers > 5)
    @rule()
    def close_senders(self) -> None:
        self.hub.close_senders()
        if not self.ended:
            for portal in self.portals:
                self.close_model(portal, ClosedResourceError)
            self.error = ClosedResourceError

    @precondition(lambda self: self.numbers > 10)
    @rule(which=st.integers(0, 9))
    def close_a_receiver(self, which: int) -> None:
        which %= len(self.receivers)
        self.close_receiver(self.receivers[which])
        was_ended = self.ended
        self.receivers_open[which] = False
        if self.ended and not was_ended:
            self.end_model()
            if self.hands_back_when_closed:
                self.hand_back_model()

    # -- what is always true -----------------------------------------------------------------------

    @invariant()
    def the_books_agree(self) -> None:
        counts = self.hub.statistics()
        assert counts.queued == len(self.hub) == len(self.queue)
        assert all(self.room(portal.bound) >= 0 for portal in self.portals)
        assert counts.received == self.counts["received"]
        assert counts.dropped == self.counts["dropped"]
        assert counts.undelivered == self.counts["undelivered"]
        assert counts.tasks_waiting_send == len(self.line)
        assert self.errors == []
        assert sorted(self.really_handed_back) == sorted(self.handed_back)
        self.the_requests_are(counts.requests, self.counts, self.requests)
        assert counts.sources.keys() == self.counts_of.keys() - {None}
        for name, source in counts.sources.items():
            model = self.counts_of[name]
            waiting = [each for each in self.queue if each.portal.source == name]
            assert source.queued == len(waiting), name
            for fate in ("received", "dropped", "undelivered"):
                assert getattr(source, fate) == model[fate], (name, fate)
            asked = [each for each in self.requests if each.portal.source == name]
            self.the_requests_are(source.requests, model, asked)

    def the_requests_are(
        self, counted: dss.RequestStatistics, model: Counter[str], asked: list[Entry]
    ) -> None:
        for ending in ENDINGS:
            assert getattr(counted, ending) == model[ending], ending
        assert counted.open == sum(each.ending is None for each in asked)

    @invariant()
    def nobody_waits_who_should_not(self) -> None:
        for entry in self.requests:
            if entry.ending is None:
                continue
            if entry.future is not None and entry.future.done():
                assert outcome_of(entry.future) is self.expected(entry)
            elif entry.call is not None:
                assert entry.call.returned() is self.expected(entry)
        waiting = [each for each in self.line if each.call and not each.is_request]
        askers = [each for each in self.requests if each.ending is None]
        soon(lambda: len(self.hub.blocked()) == len(waiting) + len(askers))

    def expected(self, entry: Entry) -> Any:
        assert entry.ending is not None
        return entry.raises or OUTCOMES[entry.ending]

    def teardown(self) -> None:
        if not hasattr(self, "hub"):
            return
        self.leave_hub()
        if not self.ended:
            self.end_model()
        self.hand_back_model()
        self.the_books_agree()
        self.nobody_waits_who_should_not()
        assert self.hub.blocked() == []
        counts = self.hub.statistics()
        assert counts.queued == 0
        assert counts.sent == counts.received + counts.dropped + counts.undelivered
        assert counts.requests.open == 0


def raised_by(func: Callable[..., Any], *args: Any) -> type[BaseException] | None:
    try:
        func(*args)
    except Exception as exc:
        return type(exc)
    return None


def outcome_of(future: Future[Any]) -> Any:
    try:
        return future.result(0)
    except (Exception, CancelledError) as exc:
        return type(exc)


LOOPS: dict[str, BlockingPortal] = {}


@pytest.fixture(scope="module", autouse=True)
def short_slices() -> Iterator[None]:
    """Without the GIL, a thread that has forgotten a request lets go of it when it has waited."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_waiting, "SLICE", 0.02)
        yield


@pytest.fixture(scope="module", autouse=True)
def loops() -> Iterator[None]:
    with start_blocking_portal("asyncio") as asyncio, start_blocking_portal("trio") as trio:
        LOOPS.update(asyncio=asyncio, trio=trio)
        yield


class InALoop(Polled):
    """The hub is in an event loop that runs in another thread, where it is received from."""

    backend = "asyncio"

    def open_hub(self, *args: Any, **kwargs: Any) -> Any:
        self.loop = LOOPS[self.backend]
        self.opened = self.loop.wrap_async_context_manager(dss.open_hub[Any](*args, **kwargs))
        return self.opened.__enter__()

    def here(self, func: Callable[..., Any], *args: Any) -> Any:
        return self.loop.call(func, *args)

    def receive(self, receiver: Any, most: int | None, something: bool) -> list[Any]:
        if something:
            return self.here(receiver.receive_many, most)
        raised = self.here(raised_by, receiver.receive_nowait)
        if raised is not WouldBlock:
            assert raised is not None
            raise raised
        return []

    def close_receiver(self, receiver: Any) -> None:
        self.here(receiver.close)

    hands_back_when_closed = False  # what is queued then waits for the end of the block

    def leave_hub(self) -> None:
        self.opened.__exit__(None, None, None)

    @precondition(lambda self: len(self.receivers) < 4)
    @rule(which=st.integers(0, 9))
    def clone_a_receiver(self, which: int) -> None:
        which %= len(self.receivers)
        if self.receivers_open[which]:
            self.receivers.append(self.here(self.receivers[which].clone))
            self.receivers_open.append(True)
        else:
            assert self.here(raised_by, self.receivers[which].clone) is ClosedResourceError


class InTrio(InALoop):
    backend = "trio"


TestPolled = Polled.TestCase
TestInAsyncio = InALoop.TestCase
TestInTrio = InTrio.TestCase
