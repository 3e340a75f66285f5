"""The sending face: every call, from every kind of thread, in every state of the hub.

All tests run the hub's side without waiting for anything in its event loop. So the same function
tests the hub of each backend and the polled one: it is called in the hub's own thread.
"""

from __future__ import annotations

import gc
import itertools
import math
import signal
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, Protocol, TypeAlias

import anyio
import pytest
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream, WouldBlock
from bytecodes import run_interrupted
from conftest import BACKENDS, PYPY, all_told, registered

import dss_anyio as dss
from dss_anyio.testing import CThread, threads, until

AnyHub: TypeAlias = "dss.Hub[Any] | dss.PolledHub[Any]"


class InHub(Protocol):
    def __call__(
        self, scenario: Callable[[AnyHub], object], *args: Any, **options: Any
    ) -> AnyHub: ...


@pytest.fixture(params=["polled", *BACKENDS])
def in_hub(request: pytest.FixtureRequest) -> InHub:
    """Call a function in the own thread of a hub that is open meanwhile; return the ended hub."""

    def run(scenario: Callable[[AnyHub], object], *args: Any, **options: Any) -> AnyHub:
        hubs: list[AnyHub] = []
        if request.param == "polled":
            with dss.open_polled_hub[Any](*args, **options) as polled_hub:
                hubs.append(polled_hub)
                scenario(polled_hub)
        else:

            async def main() -> None:
                async with dss.open_hub[Any](*args, **options) as hub:
                    hubs.append(hub)
                    scenario(hub)

            backend, backend_options = BACKENDS[request.param]
            anyio.run(main, backend=backend, backend_options=backend_options)
        return hubs[0]

    return run


def take(hub: AnyHub) -> list[Any]:
    """Everything that is there. Blocked senders that get room by it may put their items as well."""
    if isinstance(hub, dss.PolledHub):
        return hub.poll()
    items: list[Any] = []
    while True:
        try:
            items.append(hub.receive_nowait())
        except WouldBlock:
            return items


def take_one(hub: AnyHub) -> Any:
    if isinstance(hub, dss.PolledHub):
        (item,) = hub.poll(1)
        return item
    return hub.receive_nowait()


# -- the kinds of threads --------------------------------------------------------------------------


class Call:
    """A call that was made somewhere, and what became of it: a value, or an exception."""

    def __init__(self, func: Callable[[], object], blocked: Callable[[], object]) -> None:
        self._func = func
        self._blocked = blocked
        self._outcomes: list[object] = []
        self._finished = threading.Event()

    def __call__(self, *_: object) -> None:
        try:
            self._outcomes.append(self._func())
        except BaseException as exc:
            self._outcomes.append(exc)
        self._finished.set()

    def begin(self) -> None:
        """Wait until it has returned, or waits inside of the hub."""
        until(lambda: self._finished.is_set() or self._blocked())

    @property
    def outcome(self) -> object:
        assert self._finished.wait(10), "the call does not return"
        (outcome,) = self._outcomes
        return outcome


def own_thread(call: Call) -> None:
    call()


def foreign_thread(call: Call) -> None:
    threading.Thread(target=call, daemon=True).start()


def thread_that_c_made(call: Call) -> None:
    if sys.platform == "win32":
        pytest.skip("needs pthreads")
    _c_threads.append(CThread(call))


_c_threads: list[CThread[None]] = []


@pytest.fixture(autouse=True)
def join_c_threads() -> Iterator[None]:
    yield
    while _c_threads:
        _c_threads.pop().join()


def thread_of_another_loop(backend: str, call: Call) -> None:
    async def main() -> None:
        call()

    name, options = BACKENDS[backend]
    threading.Thread(
        target=partial(anyio.run, main, backend=name, backend_options=options), daemon=True
    ).start()


def signal_handler(call: Call) -> None:
    before = signal.signal(signal.SIGTERM, call)
    try:
        signal.raise_signal(signal.SIGTERM)
        call.outcome  # noqa: B018  # until the handler has run
    finally:
        signal.signal(signal.SIGTERM, before)


class Doomed:
    def __init__(self, call: Call) -> None:
        self.call = call

    def __del__(self) -> None:
        self.call()


def finalizer(call: Call) -> None:
    Doomed(call)


def finalizer_of_the_garbage_collector(call: Call) -> None:
    doomed = Doomed(call)
    doomed.cycle = doomed  # type: ignore[attr-defined]
    del doomed
    gc.collect(0)  # the youngest generation is enough, and quick


def weakref_callback(call: Call) -> None:
    class Nothing: ...

    nothing = Nothing()
    weakref.finalize(nothing, call)
    reference = weakref.ref(nothing, lambda _: None)
    del nothing
    assert reference() is None


HOME = {
    "own thread": own_thread,
    "signal handler": signal_handler,
    "finalizer": finalizer,
    "garbage collector": finalizer_of_the_garbage_collector,
    "weakref callback": weakref_callback,
}
ABROAD = {
    "foreign thread": foreign_thread,
    "thread that C made": thread_that_c_made,
    "thread of an asyncio loop": partial(thread_of_another_loop, "asyncio"),
    "thread of a uvloop loop": partial(thread_of_another_loop, "uvloop"),
    "thread of a trio loop": partial(thread_of_another_loop, "trio"),
}
if PYPY:  # it frees nothing at once, and has no uvloop
    del HOME["finalizer"], HOME["weakref callback"], ABROAD["thread of a uvloop loop"]
EVERYWHERE = {**HOME, **ABROAD}


def call_from(place: str, hub: AnyHub, func: Callable[[], object]) -> Call:
    """Call *func* there; it has returned, or it waits inside of the hub."""
    call = Call(func, hub.blocked)
    EVERYWHERE[place](call)
    call.begin()
    return call


# -- the calls -------------------------------------------------------------------------------------

Send: TypeAlias = Callable[["dss.Portal[Any]"], object]

AT_ONCE: dict[str, Send] = {
    "offer": lambda portal: portal.offer("item"),
    "send_nowait": lambda portal: portal.send_nowait("item"),
    "send_callback": lambda portal: portal.send_callback()("item"),
}
WAITING: dict[str, Send] = {
    "send": lambda portal: portal.send("item"),
    "send_many": lambda portal: portal.send_many(["item"]),
}
CALLS = {**AT_ONCE, **WAITING}


def is_error(outcome: object, expected: type[BaseException], said: str) -> bool:
    return type(outcome) is expected and said in str(outcome)


@pytest.mark.parametrize("place", EVERYWHERE)
def test_with_room_every_call_delivers_from_everywhere(in_hub: InHub, place: str) -> None:
    def scenario(hub: AnyHub) -> None:
        for name, send in CALLS.items():
            call = call_from(place, hub, lambda send=send: send(hub.portal))
            assert call.outcome is (True if name == "offer" else None), name
            assert take(hub) == ["item"], name
        assert hub.statistics().received == len(CALLS)

    in_hub(scenario, 1)


@pytest.mark.parametrize("place", EVERYWHERE)
def test_without_room_what_does_not_wait_says_so_everywhere(in_hub: InHub, place: str) -> None:
    def scenario(hub: AnyHub) -> None:
        hub.portal.send("full")
        outcomes = {
            name: call_from(place, hub, lambda send=send: send(hub.portal)).outcome
            for name, send in AT_ONCE.items()
        }
        assert outcomes["offer"] is False
        assert is_error(outcomes["send_nowait"], WouldBlock, "use send() to wait")
        assert outcomes["send_callback"] is None
        assert hub.statistics().dropped == 1, "a callback drops what it cannot send"
        assert take(hub) == ["full"]

    in_hub(scenario, 1)


@pytest.mark.parametrize("name", WAITING)
@pytest.mark.parametrize("place", ABROAD)
def test_without_room_what_waits_blocks_every_other_thread_until_there_is(
    in_hub: InHub, place: str, name: str
) -> None:
    def scenario(hub: AnyHub) -> None:
        hub.portal.send("full")
        call = call_from(place, hub, lambda: WAITING[name](hub.portal))
        (blocked,) = hub.blocked()
        assert blocked.call == name
        assert take_one(hub) == "full"
        assert call.outcome is None
        assert take(hub) == ["item"]

    in_hub(scenario, 1)


@pytest.mark.parametrize("timeout", [None, 0, 5.0, math.inf])
@pytest.mark.parametrize("place", HOME)
def test_without_room_what_waits_is_an_error_in_the_hubs_own_thread(
    in_hub: InHub, place: str, timeout: float | None
) -> None:
    calls: dict[str, Send] = {
        "send": lambda portal: portal.send("item", timeout=timeout),
        "send_many": lambda portal: portal.send_many(["fits", "item"], timeout=timeout),
    }

    def scenario(hub: AnyHub) -> None:
        for name, send in calls.items():
            hub.portal.send("first")
            if name == "send":
                hub.portal.send("second")
            call = call_from(place, hub, lambda send=send: send(hub.portal))
            assert is_error(call.outcome, RuntimeError, f"{name}() would block")
            assert is_error(call.outcome, RuntimeError, "send_nowait()")
            # It could not be awaited where there is no event loop.
            in_a_loop = isinstance(hub, dss.Hub)
            assert is_error(call.outcome, RuntimeError, "await portal.asend(item)") is in_a_loop
            assert len(take(hub)) == 2

    in_hub(scenario, 2)


def close_portal(hub: AnyHub) -> None:
    hub.portal.close()


def abort_portal(hub: AnyHub) -> None:
    hub.portal.abort()


def close_senders(hub: AnyHub) -> None:
    hub.close_senders()


def close_source(hub: AnyHub) -> None:
    hub.source("source").close()


def abort_source(hub: AnyHub) -> None:
    hub.source("source").abort()


REFUSALS: dict[str, tuple[Callable[[AnyHub], None], str, str]] = {
    "the portal was closed": (close_portal, "hub's own", "portal of {hub} was closed"),
    "the portal was aborted": (abort_portal, "hub's own", "portal of {hub} was aborted"),
    "the source was closed": (
        close_source,
        "source's",
        "portal of source 'source' in {hub} was closed",
    ),
    "the source was aborted": (
        abort_source,
        "source's",
        "portal of source 'source' in {hub} was aborted",
    ),
    "the senders were closed": (close_senders, "hub's own", "close_senders"),
    "the source's senders were closed": (close_senders, "source's", "close_senders"),
}


def check_refusals(
    place: str, hub: AnyHub, portal: dss.Portal[Any], error: type[BaseException], said: str
) -> None:
    before = hub.statistics()
    for name, send in CALLS.items():
        outcome = call_from(place, hub, lambda send=send: send(portal)).outcome
        if name == "offer":
            assert outcome is False
        elif name == "send_callback":
            assert outcome is None
        else:
            assert is_error(outcome, error, said), (name, outcome)
    after = hub.statistics()
    assert after.late == before.late + 1, "only a callback is counted"
    assert after == before._replace(late=after.late)


@pytest.mark.parametrize("refusal", REFUSALS)
@pytest.mark.parametrize("place", EVERYWHERE)
def test_a_portal_that_takes_nothing_any_more_says_so_everywhere(
    in_hub: InHub, place: str, refusal: str
) -> None:
    act, whose, said = REFUSALS[refusal]

    def scenario(hub: AnyHub) -> None:
        with hub.portal.clone() as clone:  # or the portal that is closed would be the last one
            source = hub.register("source")
            clone.send("full: that makes no difference")
            act(hub)
            portal = hub.portal if whose == "hub's own" else source
            check_refusals(place, hub, portal, ClosedResourceError, said.format(hub=hub.name))

    in_hub(scenario, 1)


@pytest.mark.parametrize("place", EVERYWHERE)
def test_a_hub_that_is_gone_takes_nothing_from_anywhere(in_hub: InHub, place: str) -> None:
    portals: list[dss.Portal[Any]] = []

    def scenario(hub: AnyHub) -> None:
        portals.extend([hub.portal, hub.portal.clone(), hub.register("source")])

    hub = in_hub(scenario)
    for portal in portals:
        check_refusals(place, hub, portal, BrokenResourceError, f"{hub.name} has ended")


@pytest.mark.parametrize("place", EVERYWHERE)
def test_looking_at_the_hub_works_everywhere_and_always(in_hub: InHub, place: str) -> None:
    def look(hub: AnyHub) -> list[object]:
        call = Call(lambda: [len(hub), hub.statistics(), hub.blocked(), repr(hub)], lambda: False)
        EVERYWHERE[place](call)
        assert isinstance(call.outcome, list), call.outcome
        return call.outcome

    def scenario(hub: AnyHub) -> None:
        hub.portal.send("item")
        length, statistics, blocked, text = look(hub)
        assert (length, blocked) == (1, [])
        assert isinstance(statistics, dss.HubStatistics)
        assert (statistics.queued, statistics.sent) == (1, 1)
        assert "open, 1 of 1 queued, 0 blocked" in str(text)
        with threads(lambda: hub.portal.send("waits")):
            until(hub.blocked)
            _, statistics, (blocked,), text = look(hub)  # type: ignore[misc]
            assert isinstance(statistics, dss.HubStatistics)
            assert statistics.tasks_waiting_send == 1
            assert blocked.call == "send"
            assert "1 blocked" in str(text)
            take_one(hub)
        hub.close_senders()
        assert "senders closed, 1 of 1 queued" in str(look(hub)[3])

    hub = in_hub(scenario, 1)
    length, statistics, blocked, text = look(hub)
    assert (length, blocked) == (0, [])
    assert isinstance(statistics, dss.HubStatistics)
    assert (statistics.received, statistics.undelivered, statistics.sent) == (1, 1, 2)
    assert "ended, 0 of 1 queued" in str(text)


@pytest.mark.parametrize("place", EVERYWHERE)
def test_portals_are_opened_and_closed_from_everywhere(in_hub: InHub, place: str) -> None:
    def scenario(hub: AnyHub) -> None:
        def do() -> list[bool]:
            outcomes = []
            source = hub.register("source")
            clone = source.clone()
            for each in (source, clone):
                outcomes.append(each.offer("taken back"))
                each.abort()
            with hub.portal.clone() as portal:
                outcomes.append(portal.offer("item"))
            return outcomes

        assert call_from(place, hub, do).outcome == [True] * 3
        assert take(hub) == ["item"]
        statistics = hub.statistics()
        assert (statistics.undelivered, statistics.open_send_streams) == (2, 1)
        assert registered(hub) == []
        assert call_from(place, hub, hub.close_senders).outcome is None
        with pytest.raises(EndOfStream):
            take(hub)

    in_hub(scenario)


def test_each_thread_that_calls_is_what_it_is_called() -> None:
    """If a thread "that C made" was one of Python's, the tables above would prove less."""
    with dss.open_polled_hub[int]() as hub:
        mine = threading.get_ident()
        known = {thread.ident for thread in threading.enumerate()}

        def look() -> tuple[bool, bool]:
            ident = threading.get_ident()
            return ident == mine, ident in {thread.ident for thread in threading.enumerate()}

        for place in HOME:
            assert call_from(place, hub, look).outcome == (True, True)
        for place in ABROAD:
            assert call_from(place, hub, look).outcome == (False, place != "thread that C made")
        assert mine in known


# -- timeouts --------------------------------------------------------------------------------------

TIMED: dict[str, Callable[[dss.Portal[Any], Any], object]] = {
    "send": lambda portal, timeout: portal.send("item", timeout=timeout),
    "send_many": lambda portal, timeout: portal.send_many(["item"], timeout=timeout),
}


@pytest.mark.parametrize("name", TIMED)
@pytest.mark.parametrize("timeout", [0, 0.0, 1e-9, 0.02])
def test_a_send_without_room_in_time_is_not_accepted(name: str, timeout: float) -> None:
    with dss.open_polled_hub[str](1) as hub:
        hub.portal.send("full")

        def send() -> None:
            begun = time.monotonic()
            with pytest.raises(
                TimeoutError, match=r"no room within .* s in hub-\d+ for an item; it was not"
            ):
                TIMED[name](hub.portal, timeout)
            assert timeout <= time.monotonic() - begun < 5

        with threads(send):
            pass
        assert hub.blocked() == []
        assert hub.poll() == ["full"]
        assert hub.poll() == []
        assert hub.statistics().sent == 1


@pytest.mark.parametrize("name", TIMED)
@pytest.mark.parametrize("timeout", [None, 0, 0.0, 5, math.inf, 1e300])
def test_a_send_with_room_needs_no_time(name: str, timeout: Any) -> None:
    with dss.open_polled_hub[str](1) as hub:
        with threads(lambda: TIMED[name](hub.portal, timeout)):
            pass
        assert hub.poll() == ["item"]


@pytest.mark.parametrize("name", TIMED)
@pytest.mark.parametrize("timeout", [None, 20, 20.0, math.inf, 1e300])
def test_a_send_that_gets_room_in_time_is_accepted(name: str, timeout: float | None) -> None:
    with dss.open_polled_hub[str](1) as hub:
        hub.portal.send("full")
        with threads(lambda: TIMED[name](hub.portal, timeout)):
            until(hub.blocked)
            assert hub.poll() == ["full"]
        assert hub.poll() == ["item"]


def test_a_timeout_without_its_name_is_refused_and_sends_nothing() -> None:
    with dss.open_polled_hub[str]() as hub:
        for timeout in (1.5, 0, "item"):
            with pytest.raises(TypeError, match=f"did you mean timeout={timeout!r}"):
                hub.portal.send("item", timeout)  # type: ignore[misc]
        assert len(hub) == 0


@pytest.mark.parametrize("state", ["with room", "full", "ended"])
@pytest.mark.parametrize("name", TIMED)
def test_a_timeout_that_cannot_be_is_refused_whatever_the_hub_is_like(
    name: str, state: str
) -> None:
    hub = dss.open_polled_hub[str](1)
    if state == "full":
        hub.portal.send("full")
    if state == "ended":
        hub.close()
    for timeout in (-1, -0.001, -math.inf):
        with pytest.raises(ValueError, match="timeout must not be negative"):
            TIMED[name](hub.portal, timeout)
    with pytest.raises(ValueError, match="timeout must be a number of seconds, got nan"):
        TIMED[name](hub.portal, math.nan)
    for timeout in ("1", b"1", [], (), True, object(), 1j):
        with pytest.raises(TypeError, match="timeout must be a number of seconds or None"):
            TIMED[name](hub.portal, timeout)
    assert len(hub) == (state == "full")
    hub.close()


# -- many items ------------------------------------------------------------------------------------


def test_send_many_takes_any_iterable() -> None:
    with dss.open_polled_hub[int]() as hub:
        for items in ([1, 2], (1, 2), iter([1, 2]), (n for n in (1, 2)), {1: "a", 2: "b"}):
            hub.portal.send_many(items)
            assert hub.poll() == [1, 2]
        hub.portal.send_many([])
        assert hub.poll() == []


def test_send_many_of_nothing_still_says_that_the_portal_is_closed() -> None:
    with dss.open_polled_hub[int]() as hub:
        hub.portal.close()
        with pytest.raises(ClosedResourceError):
            hub.portal.send_many([])


def test_send_many_sends_nothing_if_its_iterable_fails() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise LookupError("in the iterable")

    with dss.open_polled_hub[int]() as hub:
        with pytest.raises(LookupError, match="in the iterable"):
            hub.portal.send_many(items())
        assert hub.poll() == []


def test_send_many_says_how_many_were_accepted() -> None:
    with dss.open_polled_hub[int](3) as hub:

        def time_out() -> None:
            with pytest.raises(TimeoutError, match=r"\(3 of 5 items were accepted\)"):
                hub.portal.send_many(range(5), timeout=0.01)

        with threads(time_out):
            pass
        with pytest.raises(RuntimeError, match=r"\(0 of 2 items were accepted\)"):
            hub.portal.send_many(range(2))
        assert hub.poll() == [0, 1, 2]

        def be_closed() -> None:
            with pytest.raises(ClosedResourceError, match=r"\(3 of 5 items were accepted\)"):
                hub.portal.send_many(range(5))

        with threads(be_closed):
            until(hub.blocked)
            hub.portal.close()
        assert hub.poll() == [0, 1, 2]
        assert hub.statistics().sent == 6


def test_send_many_waits_as_often_as_it_has_to() -> None:
    with dss.open_polled_hub[int](3) as hub:
        received: list[int] = []
        with threads(lambda: hub.portal.send_many(range(50), timeout=20)):
            while len(received) < 50:
                received += hub.poll(2)
        assert received == list(range(50))


def test_the_timeout_of_send_many_is_for_all_items_together() -> None:
    with dss.open_polled_hub[int](1) as hub:
        received: list[int] = []

        def send() -> None:
            with pytest.raises(TimeoutError, match=r"of 1000000 items were accepted"):
                hub.portal.send_many(range(1_000_000), timeout=0.05)

        with threads(send) as (thread,):
            while thread.is_alive():
                received += hub.poll()
        received += hub.poll()
        assert received == list(range(len(received)))
        assert hub.statistics().sent == len(received)


# -- being released --------------------------------------------------------------------------------


def begin_asend(backend: str, portal: dss.Portal[Any], item: object) -> None:
    name, options = BACKENDS[backend]

    async def main() -> None:
        await portal.asend(item)

    anyio.run(main, backend=name, backend_options=options)


BLOCKING: dict[str, Callable[[dss.Portal[Any]], object]] = {
    "send": lambda portal: portal.send("waits"),
    "send with a timeout": lambda portal: portal.send("waits", timeout=60),
    "send_many": lambda portal: portal.send_many(["waits"]),
    "asend on asyncio": lambda portal: begin_asend("asyncio", portal, "waits"),
    "asend on uvloop": lambda portal: begin_asend("uvloop", portal, "waits"),
    "asend on trio": lambda portal: begin_asend("trio", portal, "waits"),
}


@pytest.mark.parametrize("call", BLOCKING)
@pytest.mark.parametrize(
    ("how", "error"),
    [
        ("the portal is closed", ClosedResourceError),
        ("the portal is aborted", ClosedResourceError),
        ("the senders are closed", ClosedResourceError),
        ("the hub is closed", BrokenResourceError),
        ("the hub is forgotten", BrokenResourceError),
    ],
)
def test_who_is_blocked_is_released_with_an_error_when(
    how: str, error: type[Exception], call: str
) -> None:
    hubs = [dss.open_polled_hub[str](1)]
    portal = hubs[0].portal
    portal.send("full")
    released: list[BaseException] = []
    left = hubs[0]._mailbox.inside.waiters

    def wait() -> None:
        with pytest.raises(error) as raised:
            BLOCKING[call](portal)
        released.append(raised.value)

    with threads(wait):
        until(lambda: left)
        if how == "the portal is closed":
            portal.close()
        elif how == "the portal is aborted":
            portal.abort()
        elif how == "the senders are closed":
            hubs[0].close_senders()
        elif how == "the hub is closed":
            hubs[0].close()
        else:
            with pytest.warns(ResourceWarning, match="Unclosed <PolledHub"):
                hubs.clear()
    assert len(released) == 1
    assert not left
    for hub in hubs:
        hub.close()
        assert hub.statistics().sent == 1


def test_each_thread_that_is_released_gets_an_exception_of_its_own() -> None:
    hub = dss.open_polled_hub[int](1)
    hub.portal.send(1)
    raised: list[BaseException] = []

    def wait() -> None:
        with pytest.raises(BrokenResourceError) as info:
            hub.portal.send(2)
        raised.append(info.value)

    with threads(wait, wait, wait):
        until(lambda: len(hub.blocked()) == 3)
        hub.close()
    assert len(set(map(id, raised))) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="needs pthread_kill")
def test_ctrl_c_ends_a_send_that_waits_and_its_item_was_not_accepted() -> None:
    hub = dss.open_polled_hub[str](1)
    hub.portal.send("full")
    main = threading.get_ident()
    with threads(hub.poll):  # this moves the hub to another thread
        pass
    hub.portal.send("full")

    def interrupt() -> None:
        until(hub.blocked)
        signal.pthread_kill(main, signal.SIGINT)

    with threads(interrupt), pytest.raises(KeyboardInterrupt):
        hub.portal.send("interrupted")
    assert hub.blocked() == []
    assert hub.poll() == ["full"]
    assert hub.poll() == []
    hub.close()


@pytest.mark.skipif(sys.platform == "win32", reason="needs pthread_kill")
def test_a_signal_handler_may_send_while_the_thread_it_interrupts_waits_in_send() -> None:
    hub = dss.open_polled_hub[str](2)
    with threads(hub.poll):
        pass
    main = threading.get_ident()
    hub.portal.send_many(["full", "full"])
    outcomes: list[bool] = []

    def handler(*_: object) -> None:
        outcomes.append(hub.portal.offer("from the handler"))

    def interrupt() -> None:
        until(hub.blocked)
        signal.pthread_kill(main, signal.SIGTERM)
        until(lambda: outcomes)
        assert hub.poll(1) == ["full"]

    before = signal.signal(signal.SIGTERM, handler)
    try:
        with threads(interrupt):
            hub.portal.send("waits", timeout=10)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert outcomes == [False], "the hub is as full as it was"
    assert hub.poll() == ["full", "waits"]
    hub.close()


# -- asend -----------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_asend_in_the_hubs_own_loop_waits_for_room() -> None:
    async with dss.open_hub[int](1) as hub, anyio.create_task_group() as tasks:
        await hub.portal.asend(1)
        tasks.start_soon(hub.portal.asend, 2)
        await anyio.wait_all_tasks_blocked()
        assert [call.call for call in hub.blocked()] == ["asend"]
        assert await hub.receive() == 1
        assert await hub.receive() == 2


@pytest.mark.parametrize("other", BACKENDS)
def test_asend_from_another_loop_waits_for_room_and_does_not_block_that_loop(
    other: str,
) -> None:
    hub: dss.PolledHub[int] = dss.open_polled_hub(1)
    ticks: list[int] = []

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            await hub.portal.asend(1)
            tasks.start_soon(hub.portal.asend, 2)
            await anyio.wait_all_tasks_blocked()
            ticks.append(len(hub.blocked()))

    name, options = BACKENDS[other]
    with threads(lambda: anyio.run(main, backend=name, backend_options=options)):
        until(lambda: ticks)
        assert ticks == [1]
        assert hub.poll() == [1]
    assert hub.poll() == [2]
    hub.close()


@pytest.mark.anyio
@pytest.mark.parametrize("other", BACKENDS)
async def test_asend_crosses_from_any_loop_to_any_other(other: str) -> None:
    async with dss.open_hub[int](1) as hub:

        async def main() -> None:
            for item in range(20):
                await hub.portal.asend(item)
            hub.portal.close()

        name, options = BACKENDS[other]
        with threads(lambda: anyio.run(main, backend=name, backend_options=options)):
            assert [item async for item in hub] == list(range(20))


@pytest.mark.anyio
async def test_asend_that_is_cancelled_has_sent_nothing() -> None:
    async with dss.open_hub[int](1) as hub:
        await hub.portal.asend(1)
        with anyio.move_on_after(0.01) as scope:
            await hub.portal.asend(2)
        assert scope.cancelled_caught
        assert hub.blocked() == []
        assert hub.receive_nowait() == 1
        with pytest.raises(WouldBlock):
            hub.receive_nowait()
        assert hub.statistics().sent == 1


@pytest.mark.anyio
async def test_asend_is_a_checkpoint_and_sends_nothing_in_a_cancelled_scope() -> None:
    async with dss.open_hub[int](1) as hub:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await hub.portal.asend(1)
        assert scope.cancelled_caught
        assert len(hub) == 0


@pytest.mark.anyio
async def test_asend_says_that_the_portal_is_closed_or_the_hub_gone() -> None:
    async with dss.open_hub[int](1) as hub:
        clone = hub.portal.clone()
        clone.close()
        with pytest.raises(ClosedResourceError, match=r"portal of hub-\d+ was closed"):
            await clone.asend(1)
    with pytest.raises(BrokenResourceError, match=r"^hub-\d+ has ended"):
        await hub.portal.asend(1)


@pytest.mark.anyio
async def test_asend_is_released_when_the_hub_of_its_own_loop_ends() -> None:
    errors: list[BaseException] = []

    async def send(portal: dss.Portal[int]) -> None:
        with pytest.raises(BrokenResourceError) as raised:
            await portal.asend(2)
        errors.append(raised.value)

    async with anyio.create_task_group() as tasks:
        async with dss.open_hub[int](1) as hub:
            await hub.portal.asend(1)
            tasks.start_soon(send, hub.portal)
            await anyio.wait_all_tasks_blocked()
    assert len(errors) == 1


# -- who is blocked --------------------------------------------------------------------------------


def test_blocked_says_who_waits_for_what_since_when_and_where(in_hub: InHub) -> None:
    def scenario(hub: AnyHub) -> None:
        hub.portal.send("full")
        source = hub.register("camera")
        assert hub.blocked() == []

        def send_many() -> None:
            until(lambda: len(hub.blocked()) == 1)
            hub.portal.send_many(["second"])

        with threads(lambda: source.send("first"), send_many) as (first, second):
            first.name = "the camera's thread"
            until(lambda: len(hub.blocked()) == 2)
            one, two = hub.blocked()
            assert one == ("camera", "send", one.seconds, first.ident, "the camera's thread", "hub")
            assert two == (None, "send_many", two.seconds, second.ident, second.name, "hub")
            assert one.seconds > two.seconds > 0
            assert hub.blocked()[0].seconds > one.seconds
            assert take_one(hub) == "full"
            until(lambda: [call.call for call in hub.blocked()] == ["send_many"])
            assert take_one(hub) == "first"
        assert hub.blocked() == []

    in_hub(scenario, 1)


def test_blocked_shows_a_thread_that_python_has_not_made_without_a_name() -> None:
    with dss.open_polled_hub[str](1) as hub:
        hub.portal.send("full")
        call = call_from("thread that C made", hub, lambda: hub.portal.send("waits"))
        (blocked,) = hub.blocked()
        assert blocked.thread_name is None
        assert blocked.thread not in {thread.ident for thread in threading.enumerate()}
        hub.poll()
        assert call.outcome is None


@pytest.mark.parametrize("place", ABROAD)
def test_a_thread_that_has_timed_out_is_not_blocked_any_more(place: str) -> None:
    with dss.open_polled_hub[str](1) as hub:
        hub.portal.send("full")
        call = Call(lambda: hub.portal.send("waits", timeout=0.01), lambda: False)
        EVERYWHERE[place](call)
        assert isinstance(call.outcome, TimeoutError)
        assert hub.blocked() == []


# -- callables for a library -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "item"),
    [(("one",), "one"), ((), ()), ((1, 2), (1, 2)), (((1, 2),), (1, 2)), ((None,), None)],
)
def test_a_callback_sends_its_argument_or_a_tuple_of_several(
    args: tuple[Any, ...], item: object
) -> None:
    with dss.open_polled_hub[Any]() as hub:
        assert hub.portal.send_callback()(*args) is None
        assert hub.poll() == [item]


def test_a_callback_sends_what_pack_makes_of_its_arguments() -> None:
    def pack(*args: int, **kwargs: int) -> tuple[tuple[int, ...], dict[str, int]]:
        return args, kwargs

    with dss.open_polled_hub[Any]() as hub:
        callback = hub.portal.send_callback(pack)
        callback()
        callback(1, 2, three=3)
        assert hub.poll() == [((), {}), ((1, 2), {"three": 3})]


@pytest.mark.parametrize("pack", [0, "pack", (), object()])
def test_pack_must_be_callable(pack: Any) -> None:
    with (
        dss.open_polled_hub[Any]() as hub,
        pytest.raises(TypeError, match="pack must be callable or None, not"),
    ):
        hub.portal.send_callback(pack)


def test_keywords_without_pack_are_an_error_on_the_hubs_side() -> None:
    errors: list[BaseException] = []
    with dss.open_polled_hub[Any](on_error=lambda exc, _: errors.append(exc)) as hub:
        assert hub.portal.send_callback()(1, two=2) is None
        assert hub.poll() == []
    (error,) = errors
    assert is_error(error, TypeError, "give the callback a pack function")


class Odd(BaseException):
    pass


PACK_ERRORS: list[type[BaseException]] = [
    ValueError,
    MemoryError,
    StopIteration,
    WouldBlock,
    KeyboardInterrupt,
    SystemExit,
    GeneratorExit,
    Odd,
]


@pytest.mark.parametrize("place", EVERYWHERE)
def test_an_exception_in_pack_goes_to_the_hubs_side_and_nowhere_else(
    place: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    told: list[tuple[object, ...]] = []

    def on_error(exc: BaseException, source: str | None) -> None:
        told.append((type(exc), source, threading.get_ident()))

    def pack(error: type[BaseException]) -> object:
        raise error("in pack")

    with dss.open_polled_hub[Any](on_error=on_error) as hub:
        callback = hub.register("source").send_callback(pack)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            for error in PACK_ERRORS:
                assert call_from(place, hub, partial(callback, error)).outcome is None
        assert told == [], "not in the library's thread"
        all_told(hub, told, len(PACK_ERRORS))
        assert told == [(error, "source", threading.get_ident()) for error in PACK_ERRORS]
        statistics = hub.statistics()
        assert (statistics.errors, statistics.sent, statistics.late) == (len(PACK_ERRORS), 0, 0)
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_a_callback_that_finds_no_room_drops_its_item_and_gives_it_back(in_hub: InHub) -> None:
    dropped: list[str] = []

    def scenario(hub: AnyHub) -> None:
        source = hub.register("source", on_undelivered=dropped.append)
        callback = source.send_callback()
        for item in ("first", "second", "third"):
            assert callback(item) is None
        assert dropped == ["second", "third"]
        statistics = hub.statistics()
        assert (statistics.sent, statistics.queued, statistics.dropped) == (3, 1, 2)
        assert statistics.sources["source"][:4] == (0, 1, 2, 0)
        assert take(hub) == ["first"]

    in_hub(scenario, 1)
    assert dropped == ["second", "third"]


@pytest.mark.parametrize("end", ["of the portal", "of the senders", "of the hub"])
def test_a_callback_after_the_end_calls_nothing_and_is_counted(end: str) -> None:
    calls: list[object] = []

    def pack(*args: object) -> object:
        calls.append(args)
        return args

    hub = dss.open_polled_hub[Any]()
    source = hub.register("source", on_undelivered=calls.append)
    callback = source.send_callback(pack)
    {"of the portal": source.close, "of the senders": hub.close_senders, "of the hub": hub.close}[
        end
    ]()
    for _ in range(5):
        assert callback("late") is None
    source.offer("an offer is not counted")
    hub.close()
    statistics = hub.statistics()
    assert calls == []
    assert (statistics.late, statistics.sent, statistics.dropped) == (5, 0, 0)


def test_a_callback_outlives_the_hub_the_portal_and_the_loop() -> None:
    callbacks: list[Callable[..., None]] = []

    async def main() -> None:
        async with dss.open_hub[Any]() as hub:
            callbacks.append(hub.portal.send_callback())
            callbacks.append(hub.register("source").send_callback(lambda: 1 // 0))

    for name, options in BACKENDS.values():
        anyio.run(main, backend=name, backend_options=options)
    gc.collect()
    assert [callback() for callback in callbacks] == [None] * 6


# -- clones, and the end of portals ----------------------------------------------------------------


def test_the_stream_ends_after_the_last_portal_was_closed(in_hub: InHub) -> None:
    def scenario(hub: AnyHub) -> None:
        source = hub.register("source")
        clone = hub.portal.clone()
        hub.portal.send(1)
        hub.portal.close()
        source.send(2)
        source.close()
        assert take(hub) == [1, 2]
        assert take(hub) == []
        clone.send(3)
        clone.close()
        assert take_one(hub) == 3
        for _ in range(2):
            with pytest.raises(EndOfStream):
                take(hub)
        assert hub.statistics().open_send_streams == 0

    in_hub(scenario)


def test_a_portal_is_closed_by_its_with_block_and_closing_it_again_does_nothing() -> None:
    with dss.open_polled_hub[int]() as hub:
        with hub.portal.clone() as portal:
            assert isinstance(portal, dss.Portal)
            portal.send(1)
        assert hub.statistics().open_send_streams == 1
        portal.close()
        with portal:
            pass
        assert hub.statistics().open_send_streams == 1
        with pytest.raises(LookupError, match="in the block"), hub.portal.clone() as portal:
            raise LookupError("in the block")
        assert not portal.offer(2)
        assert hub.poll() == [1]


def test_a_clone_is_of_the_same_source_and_closed_separately() -> None:
    with dss.open_polled_hub[str]() as hub:
        source = hub.register("source", decode=str.upper)
        clone = source.clone()
        assert repr(clone) == repr(source)
        clone.send("a")
        source.close()
        assert registered(hub) == ["source"]
        clone.send("b")
        assert hub.statistics().sources["source"][:4] == (0, 2, 0, 0)
        clone.close()
        assert registered(hub) == []
        assert hub.poll() == ["A", "B"]


def test_a_portal_that_was_closed_cannot_be_cloned() -> None:
    hub = dss.open_polled_hub[int]()
    source, clone = hub.register("source"), hub.portal.clone()
    source.close()
    clone.abort()
    with pytest.raises(ClosedResourceError, match="was closed"):
        source.clone()
    with pytest.raises(ClosedResourceError, match="was aborted"):
        clone.clone()
    hub.close_senders()
    with pytest.raises(ClosedResourceError, match="close_senders"):
        hub.portal.clone()
    hub.close()
    other = dss.open_polled_hub[int]()
    other.close()
    with pytest.raises(BrokenResourceError, match=r"^hub-\d+ has ended"):
        other.portal.clone()


def test_a_portal_that_was_forgotten_is_loud() -> None:
    with dss.open_polled_hub[int]() as hub:
        with pytest.warns(ResourceWarning, match=r"Unclosed <Portal of hub-\d+: open>"):
            hub.portal.clone()
        source = hub.register("source")
        with pytest.warns(
            ResourceWarning, match=r"Unclosed <Portal of source 'source' in hub-\d+: open>"
        ):
            source.clone()
        hub.register("kept by the hub")
        closed = hub.portal.clone()
        closed.close()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            del closed
            gc.collect()


def test_a_portal_shows_whose_it_is_and_whether_it_is_open() -> None:
    with dss.open_polled_hub[int](name="audio") as hub:
        source = hub.register("source")
        assert repr(hub.portal) == "<Portal of hub 'audio': open>"
        assert repr(source) == "<Portal of source 'source' in hub 'audio': open>"
        source.close()
        assert repr(source) == "<Portal of source 'source' in hub 'audio': closed>"
    assert repr(hub.portal) == "<Portal of hub 'audio': closed>"


# -- abort -----------------------------------------------------------------------------------------


def test_abort_takes_back_what_the_portal_has_queued_before_it_returns(in_hub: InHub) -> None:
    back: list[tuple[str, int]] = []

    def scenario(hub: AnyHub) -> None:
        source = hub.register(
            "source", on_undelivered=lambda item: back.append((item, threading.get_ident()))
        )
        source.send_many(["a", "b"])
        hub.portal.send("kept")
        source.send("c")
        source.abort()
        mine = threading.get_ident()
        assert back == [("a", mine), ("b", mine), ("c", mine)]
        source.abort()
        source.close()
        assert len(back) == 3
        assert len(hub) == 1
        assert take(hub) == ["kept"]
        statistics = hub.statistics()
        assert (statistics.received, statistics.undelivered, statistics.sent) == (1, 3, 4)

    in_hub(scenario, 4)
    assert len(back) == 3


def test_aborting_a_clone_takes_back_its_own_items_only() -> None:
    with dss.open_polled_hub[str]() as hub:
        back: list[str] = []
        source = hub.register("source", on_undelivered=back.append)
        clone = source.clone()
        source.send("source 1")
        clone.send("clone 1")
        source.send("source 2")
        clone.send("clone 2")
        clone.abort()
        assert back == ["clone 1", "clone 2"]
        assert registered(hub) == ["source"], "it is still registered"
        assert hub.statistics().sources["source"][:4] == (0, 2, 0, 2)
        source.send("source 3")
        assert hub.poll() == ["source 1", "source 2", "source 3"]
        source.abort()
        assert registered(hub) == []
    assert back == ["clone 1", "clone 2"]


def test_aborting_a_clone_of_the_hubs_own_portal_leaves_the_portal_alone() -> None:
    with dss.open_polled_hub[str]() as hub:
        clone = hub.portal.clone()
        hub.portal.send("own 1")
        clone.send("clone")
        hub.portal.send("own 2")
        clone.abort()
        assert hub.portal.offer("own 3")
        assert hub.poll() == ["own 1", "own 2", "own 3"]
        assert hub.statistics().undelivered == 1


@pytest.mark.parametrize("overflow", ["block", "drop_oldest", "drop_newest"])
@pytest.mark.parametrize("limit", [6, math.inf])
def test_aborting_the_hubs_own_portal_closes_it_and_its_items_are_received(
    in_hub: InHub, limit: float, overflow: str
) -> None:
    """It has no ``on_undelivered`` to which they could go."""

    def scenario(hub: AnyHub) -> None:
        source = hub.register("source")
        for item in range(6):
            (hub.portal, source)[item % 2].send(item)
        hub.portal.abort()
        with pytest.raises(ClosedResourceError):
            hub.portal.send("late")
        assert take(hub) == [0, 1, 2, 3, 4, 5], "in their order"
        source.send_many([7, 8, 9, 10, 11, 12])
        assert take(hub) == [7, 8, 9, 10, 11, 12], "a place was lost"
        hub.portal.abort()
        source.close()
        with pytest.raises(EndOfStream):
            take(hub)
        statistics = hub.statistics()
        assert (statistics.received, statistics.undelivered, statistics.sent) == (12, 0, 12)

    in_hub(scenario, limit, overflow=overflow)


def test_aborting_the_hubs_own_portal_releases_those_who_wait_in_it() -> None:
    with dss.open_polled_hub[Any](2) as hub:
        hub.portal.send("queued")
        asked = hub.portal.request_soon("asked")

        def send() -> None:
            with pytest.raises(ClosedResourceError):
                hub.portal.send("blocked")

        with threads(send):
            until(lambda: len(hub.blocked()) == 2)
            hub.portal.abort()
        with pytest.raises(ClosedResourceError):
            asked.result(10)
        assert hub.poll() == ["queued"], "nobody wants an answer to the request any more"
        assert hub.statistics().requests.released == 1
        assert hub.statistics().undelivered == 1


def test_aborting_a_portal_that_was_closed_takes_back_what_it_left() -> None:
    with dss.open_polled_hub[str]() as hub:
        back: list[str] = []
        source = hub.register("source", on_undelivered=back.append)
        source.send_many(["a", "b", "c"])
        assert hub.poll(1) == ["a"]
        source.close()
        assert back == []
        source.abort()
        assert back == ["b", "c"]
        assert hub.poll() == []
        with pytest.raises(ClosedResourceError, match="was aborted"):
            source.send("d")


def test_aborting_a_portal_after_close_senders_takes_back_what_it_has_queued() -> None:
    with dss.open_polled_hub[str]() as hub:
        back: list[str] = []
        source = hub.register("source", on_undelivered=back.append)
        source.send("a")
        hub.close_senders()
        source.abort()
        assert back == ["a"]
        with pytest.raises(EndOfStream):
            hub.poll()


def test_aborting_a_portal_after_the_hub_has_ended_does_nothing() -> None:
    back: list[str] = []
    with dss.open_polled_hub[str]() as hub:
        source = hub.register("source", on_undelivered=back.append)
        source.send("a")
    assert back == ["a"]
    source.abort()
    hub.portal.abort()
    assert back == ["a"]
    with pytest.raises(BrokenResourceError):
        source.send("b")


def test_an_error_in_on_undelivered_does_not_keep_abort_from_the_rest() -> None:
    errors: list[tuple[str, str | None]] = []
    back: list[int] = []

    def on_undelivered(item: int) -> None:
        back.append(item)
        raise KeyboardInterrupt if item == 1 else LookupError

    with dss.open_polled_hub[int](
        on_error=lambda exc, source: errors.append((type(exc).__name__, source))
    ) as hub:
        source = hub.register("source", on_undelivered=on_undelivered)
        source.send_many([1, 2, 3])
        source.abort()
        assert back == [1, 2, 3]
        assert errors == []
        all_told(hub, errors, 3)
        assert errors == [
            ("KeyboardInterrupt", "source"),
            ("LookupError", "source"),
            ("LookupError", "source"),
        ]


def test_the_items_of_one_sender_keep_their_order_when_one_of_its_portals_is_aborted() -> None:
    with dss.open_polled_hub[int]() as hub:
        portals = [hub.portal, hub.register("a"), hub.register("b"), hub.portal.clone()]
        for item in range(40):
            portals[item % 4].send(item)
        portals[1].abort()
        for item in range(40, 80):
            portals[item % 4].offer(item)
        assert hub.poll(10) + hub.poll() == [item for item in range(80) if item % 4 != 1]
        portals[3].close()


# -- sources ---------------------------------------------------------------------------------------


def test_a_source_is_found_by_its_name_until_it_is_closed(in_hub: InHub) -> None:
    def scenario(hub: AnyHub) -> None:
        for end in (dss.Portal.close, dss.Portal.abort):
            portal = hub.register("source")
            assert hub.source("source") is portal
            end(portal)
            with pytest.raises(LookupError, match="no source named 'source' is registered"):
                hub.source("source")

    in_hub(scenario)


def test_an_unknown_source_is_an_error_that_names_the_known_ones() -> None:
    with dss.open_polled_hub[int]() as hub:
        with pytest.raises(LookupError, match="registered are: none"):
            hub.source("source")
        hub.register("a")
        hub.register("b")
        with pytest.raises(LookupError, match="registered are: 'a', 'b'"):
            hub.source("source")


def test_a_name_is_taken_while_its_source_is_registered(in_hub: InHub) -> None:
    def scenario(hub: AnyHub) -> None:
        first = hub.register("name")
        with pytest.raises(ValueError, match="a source named 'name' is registered already"):
            hub.register("name")
        assert hub.source("name") is first
        assert hub.statistics().open_send_streams == 2
        first.send(1)
        first.close()
        second = hub.register("name", decode=lambda item: -item)
        second.send(1)
        assert hub.statistics().sources["name"].queued == 2, "the counts of a name add up"
        assert take(hub) == [1, -1]

    in_hub(scenario)


def test_a_name_is_given_once_if_it_is_asked_for_at_any_bytecode_of_its_registration() -> None:
    """Guards ``sources.setdefault`` in ``register``: who enters a name first has it."""
    for at in itertools.count():
        with dss.open_polled_hub[int]() as hub:
            portals: list[dss.Portal[int]] = []
            refused: list[ValueError] = []

            def register(
                hub: dss.PolledHub[int] = hub,
                portals: list[dss.Portal[int]] = portals,
                refused: list[ValueError] = refused,
            ) -> None:
                try:
                    portals.append(hub.register("name"))
                except ValueError as exc:
                    refused.append(exc)

            interrupted = run_interrupted(register, register, at)
            assert (len(portals), len(refused)) == (1, interrupted)
            assert hub.source("name") is portals[0]
            assert hub.statistics().open_send_streams == 2
        if not interrupted:
            assert at > 20
            return


@pytest.mark.parametrize(
    ("name", "hooks", "said"),
    [
        (None, {}, "the name of a source must be a string, not None"),
        (1, {}, "the name of a source must be a string, not 1"),
        (b"name", {}, "the name of a source must be a string"),
        ("name", {"stop": 1}, "stop must be callable or None, not 1"),
        ("name", {"decode": "json"}, "decode must be callable or None, not 'json'"),
        ("name", {"on_undelivered": []}, "on_undelivered must be callable or None"),
    ],
)
def test_what_cannot_be_registered_leaves_nothing_behind(
    name: Any, hooks: dict[str, Any], said: str
) -> None:
    with dss.open_polled_hub[int]() as hub:
        before = hub.statistics()
        with pytest.raises(TypeError, match=said):
            hub.register(name, **hooks)
        assert hub.statistics() == before


def test_nothing_can_be_registered_where_nothing_can_be_sent(in_hub: InHub) -> None:
    def scenario(hub: AnyHub) -> None:
        hub.close_senders()
        with pytest.raises(ClosedResourceError, match="close_senders"):
            hub.register("source")
        assert registered(hub) == []

    hub = in_hub(scenario)
    with pytest.raises(BrokenResourceError, match=r"^hub-\d+ has ended"):
        hub.register("source")
    assert registered(hub) == []


def test_wherever_the_hub_ends_registering_returns_a_portal_or_says_so() -> None:
    """Another thread may end the hub, and take the portal from the source, at any bytecode."""
    for at in itertools.count():
        cancelled: list[bool] = []
        portals: list[Any] = []
        hub = dss.open_polled_hub[int]()

        def register() -> None:
            try:
                portals.append(hub.register("source", stop=lambda: cancelled.append(True)))
            except BrokenResourceError:
                portals.append(None)

        interrupted = run_interrupted(register, hub.close, at, only_shared=True)
        hub.close()
        # Who is told that it is not registered stops the library itself.
        assert isinstance(portals[0], dss.Portal) == bool(cancelled)
        assert len(cancelled) <= 1
        if not interrupted:
            break


def test_cancel_is_for_those_who_are_still_there_when_the_hub_ends(in_hub: InHub) -> None:
    cancelled: list[str] = []

    def scenario(hub: AnyHub) -> None:
        for name in ("closed", "aborted", "first", "second", "third"):
            hub.register(name, stop=partial(cancelled.append, name))
        hub.source("closed").close()
        hub.source("aborted").abort()
        assert cancelled == []

    in_hub(scenario)
    assert cancelled == ["third", "second", "first"]


# -- the graceful end ------------------------------------------------------------------------------


def test_after_close_senders_the_receiver_gets_what_there_is_and_then_the_end(
    in_hub: InHub,
) -> None:
    cancelled: list[str] = []

    def scenario(hub: AnyHub) -> None:
        source = hub.register("source", stop=lambda: cancelled.append("source"))
        hub.portal.send(1)
        source.send(2)
        hub.close_senders()
        hub.close_senders()
        assert not source.offer(3)
        assert hub.statistics().open_send_streams == 0
        assert registered(hub) == ["source"]
        assert take_one(hub) == 1
        assert take_one(hub) == 2
        with pytest.raises(EndOfStream):
            take_one(hub)
        assert cancelled == []

    hub = in_hub(scenario)
    assert cancelled == ["source"]
    assert hub.statistics().undelivered == 0
    hub.close_senders()
    with pytest.raises(ClosedResourceError, match="close_senders"):
        hub.portal.send("the first reason remains")


# -- the names -------------------------------------------------------------------------------------


def test_a_hub_shows_its_name_and_its_state(in_hub: InHub) -> None:
    shown: list[str] = []

    def scenario(hub: AnyHub) -> None:
        shown.append(repr(hub))
        hub.portal.send(1)
        hub.register("source")
        shown.append(repr(hub))
        hub.close_senders()
        shown.append(repr(hub))

    hub = in_hub(scenario, 3, name="sensors")
    kind = type(hub).__name__
    assert hub.name == "sensors"
    assert shown == [
        f"<{kind} 'sensors': open, 0 of 3 queued, 0 blocked, 0 sources>",
        f"<{kind} 'sensors': open, 1 of 3 queued, 0 blocked, 1 sources>",
        f"<{kind} 'sensors': senders closed, 1 of 3 queued, 0 blocked, 1 sources>",
    ]
    assert repr(hub) == f"<{kind} 'sensors': ended, 0 of 3 queued, 0 blocked, 0 sources>"


def test_hubs_without_a_name_get_one_each() -> None:
    with dss.open_polled_hub[int](math.inf) as one, dss.open_polled_hub[int]() as other:
        assert one.name != other.name
        assert f"{one.name!r}: open, 0 of inf queued" in repr(one)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": 1}, "name must be a string or None, not 1"),
        ({"name": b"hub"}, "name must be a string or None"),
        ({"on_error": "log"}, "on_error must be callable or None, not 'log'"),
    ],
)
@pytest.mark.parametrize("open_hub", [dss.open_hub, dss.open_polled_hub])
def test_a_hub_that_cannot_be_opened_is_refused_quietly(
    open_hub: Callable[..., object], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(TypeError, match=said):
        open_hub(**options)
    gc.collect()  # nothing was opened, so nothing is unclosed


def test_an_empty_hub_is_still_a_hub(in_hub: InHub) -> None:
    def scenario(hub: AnyHub) -> None:
        assert hub
        assert len(hub) == 0

    in_hub(scenario)


def test_a_clone_that_meets_the_last_close_is_registered_or_closed() -> None:
    """At each bytecode of either, the other one: nothing is open that the hub does not know."""

    def clone() -> None:
        with suppress(ClosedResourceError):
            clones.append(source.clone())

    for first, second in (("clone", "close"), ("close", "clone")):
        for at in itertools.count():
            clones: list[dss.Portal[int]] = []
            with dss.open_polled_hub[int]() as hub:
                source = hub.register("source")
                acts: dict[str, Callable[[], None]] = {"clone": clone, "close": source.close}
                interrupted = run_interrupted(acts[first], acts[second], at, only_shared=True)
                is_open = "source" in registered(hub)
                assert [each.offer(1) for each in clones] == [is_open] * len(clones)
            if not interrupted:
                break
        assert at > 3
