"""How a loop is woken, how often, and how one is told that it was closed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from contextvars import ContextVar
from itertools import count
from typing import Any, TypeAlias

import anyio
import anyio.lowlevel
import pytest
from anyio.lowlevel import current_token
from bytecodes import run_interrupted
from conftest import BACKENDS
from test_receiver import asleep

import dss_anyio as dss
from dss_anyio._ending.ways_out import abandon_those_in, unwatch
from dss_anyio._hub import base
from dss_anyio._loops import on_asyncio
from dss_anyio._loops.way import CallSoon, Nap, WayIn, call_soon_here, way_into
from dss_anyio.testing import eventually, threads, until

ASYNCIO = [name for name in BACKENDS if name != "trio"]


def loop_of(backend: str) -> asyncio.AbstractEventLoop:
    if backend == "uvloop":
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


# -- What we take from anyio -----------------------------------------------------------------------


@pytest.mark.anyio
async def test_anyios_token_gives_us_the_loops_own_call(backend_name: str) -> None:
    native = current_token().native_token
    if backend_name == "asyncio":
        assert native is asyncio.get_running_loop()
        assert call_soon_here() == asyncio.get_running_loop().call_soon_threadsafe
    else:
        import trio

        assert native is trio.lowlevel.current_trio_token()
        assert call_soon_here() == trio.lowlevel.current_trio_token().run_sync_soon


@pytest.mark.anyio
async def test_the_loops_own_call_reaches_a_loop_that_sleeps_from_any_thread() -> None:
    called_in: list[threading.Thread] = []
    call_soon = call_soon_here()
    done = anyio.Event()

    def call() -> None:
        called_in.append(threading.current_thread())
        done.set()

    with threads(lambda: call_soon(call)), anyio.fail_after(10):
        await done.wait()
    assert called_in == [threading.current_thread()]


@pytest.mark.parametrize("backend", BACKENDS)
def test_calling_a_loop_that_is_gone_is_a_runtime_error(backend: str) -> None:
    async def main() -> Any:
        return call_soon_here()

    name, options = BACKENDS[backend]
    call_soon = anyio.run(main, backend=name, backend_options=options)
    with pytest.raises(RuntimeError):
        call_soon(lambda: pytest.fail("it was called"))


# -- How often a receiver is woken -----------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("senders", [1, 4])
async def test_a_burst_of_100_000_items_wakes_once(senders: int) -> None:
    """The receiver sleeps, and the loop is busy until all were sent."""
    received: list[int] = []
    async with dss.open_hub[int](float("inf")) as hub:

        async def receive() -> None:
            received.extend(await hub.receive_many())

        def send() -> None:
            for number in range(100_000 // senders):
                hub.portal.send_nowait(number)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            await asleep(hub)
            with threads(*[send] * senders) as started:
                for thread in started:
                    thread.join()
            assert hub.statistics().wakes == 1
        assert len(received) == 100_000
        assert hub.statistics().wakes == 1


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["receive", "iterate", "receive_many"])
async def test_a_receiver_that_is_awake_is_not_woken(how: str) -> None:
    async with dss.open_hub[int]() as hub:
        with anyio.move_on_after(0.001):
            await hub.receive()  # it has slept, and sleeps no more
        received: list[int] = []
        for burst in range(5):
            with threads(lambda: hub.portal.send_many(range(100))):
                pass
            if how == "receive":
                received += [await hub.receive() for _ in range(100)]
            elif how == "receive_many":
                received += await hub.receive_many()
            else:
                async for item in hub:
                    received.append(item)
                    if len(received) == 100 * (burst + 1):
                        break
        assert received == [*range(100)] * 5
        assert hub.statistics().wakes == 0


@pytest.mark.anyio
async def test_a_receiver_that_sleeps_is_woken_once_for_each_time_it_slept() -> None:
    call_soon = call_soon_here()
    async with dss.open_hub[int]() as hub:

        def send() -> None:
            for number in range(20):
                until(lambda: hub.statistics().tasks_waiting_receive)
                # It is about to sleep, and looks once more. When the loop is back, it sleeps.
                back = threading.Event()
                call_soon(back.set)
                assert back.wait(10)
                hub.portal.send_many([number] * 10)
                until(lambda: hub.statistics().received == 10 * (number + 1))

        with threads(send):
            for number in range(20):
                assert await hub.receive_many() == [number] * 10
        assert hub.statistics().wakes == 20


@pytest.mark.anyio
async def test_ten_receivers_and_ten_items_take_one_wake() -> None:
    async with dss.open_hub[int]() as hub:
        received: list[int] = []

        async def receive() -> None:
            received.append(await hub.receive())

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(receive)
            await asleep(hub, 10)
            with threads(*[lambda n=n: hub.portal.send(n) for n in range(10)]) as started:
                for thread in started:
                    thread.join()
            assert hub.statistics().wakes == 1
        assert sorted(received) == list(range(10))
        assert hub.statistics().wakes == 1


@pytest.mark.anyio
async def test_no_wake_is_left_behind_by_a_receiver_that_gave_up() -> None:
    """Nobody sleeps any more, so nobody is called."""
    async with dss.open_hub[int]() as hub:
        for number in range(10):
            with anyio.move_on_after(0.001):
                await hub.receive()
            with threads(lambda: hub.portal.send(number)):
                pass
            assert hub.receive_nowait() == number
        assert hub.statistics().wakes == 0


@pytest.mark.anyio
async def test_a_wake_that_arrives_when_nobody_sleeps_any_more_does_no_harm() -> None:
    async with dss.open_hub[int]() as hub:
        for number in range(20):
            with anyio.CancelScope() as scope:

                async def cancel() -> None:
                    await asleep(hub)
                    hub.portal.send(number)  # the wake is on its way
                    scope.cancel()

                hub.task_group.start_soon(cancel)
                assert await hub.receive() == number
            if scope.cancelled_caught:
                assert hub.receive_nowait() == number

        def send_when_it_sleeps() -> None:
            until(lambda: hub.statistics().tasks_waiting_receive)
            hub.portal.send(-1)

        with threads(send_when_it_sleeps):
            assert await hub.receive() == -1


# -- A receiver that was woken and is cancelled passes the wake on ---------------------------------

Receive: TypeAlias = Callable[[], Coroutine[Any, Any, int]]
Give: TypeAlias = Callable[[Callable[[], object]], None]

# Each of these receives, gives away what cancels it at once, and returns the item, or None if it
# was cancelled. With a deadline, "at once" means: the loop is kept busy until it is over, so that
# the loop then finds the wake and the deadline together.


async def by_a_scope(receive: Receive, give: Give) -> int | None:
    with anyio.CancelScope() as scope:
        give(scope.cancel)
        return await receive()
    return None


async def by_a_deadline(receive: Receive, give: Give) -> int | None:
    def come_close() -> None:
        scope.deadline = anyio.current_time() + 0.001
        busy(0.001)

    with anyio.CancelScope() as scope:
        give(come_close)
        return await receive()
    return None


async def by_a_scope_of_trio(receive: Receive, give: Give) -> int | None:
    import trio

    with trio.CancelScope() as scope:
        give(scope.cancel)
        return await receive()
    return None


async def by_a_deadline_of_trio(receive: Receive, give: Give) -> int | None:
    import trio

    def come_close() -> None:
        scope.deadline = trio.current_time() + 0.001
        busy(0.001)

    with trio.CancelScope() as scope:
        give(come_close)
        return await receive()
    return None


async def by_task_cancel(receive: Receive, give: Give) -> int | None:
    task = asyncio.ensure_future(receive())
    give(task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        return None


async def by_wait_for(receive: Receive, give: Give) -> int | None:
    before = time.monotonic()
    give(lambda: busy(before + 0.2 - time.monotonic()))
    try:
        return await asyncio.wait_for(receive(), 0.2)
    except asyncio.TimeoutError:
        return None


async def by_cancelling_wait_for(receive: Receive, give: Give) -> int | None:
    return await by_task_cancel(lambda: asyncio.wait_for(receive(), 30), give)


async def by_timeout(receive: Receive, give: Give) -> int | None:
    def come_close() -> None:
        with contextlib.suppress(RuntimeError):  # it has received already
            limit.reschedule(asyncio.get_running_loop().time() + 0.001)
        busy(0.001)

    try:
        async with asyncio.timeout(30) as limit:  # type: ignore[attr-defined]  # from 3.11 on
            give(come_close)
            return await receive()
    except asyncio.TimeoutError:
        return None


def busy(seconds: float) -> None:
    over = time.monotonic() + seconds
    until(lambda: time.monotonic() > over)


EVERYWHERE = [by_a_scope, by_a_deadline]
ON_ASYNCIO = [*EVERYWHERE, by_task_cancel, by_wait_for, by_cancelling_wait_for]
if sys.version_info >= (3, 11):
    ON_ASYNCIO.append(by_timeout)
ON_TRIO = [*EVERYWHERE, by_a_scope_of_trio, by_a_deadline_of_trio]


@pytest.mark.anyio
@pytest.mark.parametrize("means", dict.fromkeys([*ON_ASYNCIO, *ON_TRIO]), ids=lambda f: f.__name__)
async def test_a_receiver_that_was_woken_and_is_cancelled_passes_the_wake_on(
    means: Callable[[Receive, Give], Awaitable[int | None]], backend_name: str
) -> None:
    """Guards what ``Sleepers.sleep`` does when it is cancelled."""
    if means not in (ON_ASYNCIO if backend_name == "asyncio" else ON_TRIO):
        pytest.skip("that is a means of another backend")
    cancelled_after_it_was_woken = 0
    async with dss.open_hub[int]() as hub:
        for turns in range(4):
            cancels: list[Callable[[], object]] = []
            outcomes: dict[str, int | None] = {}

            async def luckier() -> None:  # asyncio resumes the first in the line at once
                outcomes["luckier"] = await hub.receive()

            async def first() -> None:
                outcomes["first"] = await means(hub.receive, cancels.append)

            async def second() -> None:
                outcomes["second"] = await hub.receive()

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(luckier)
                await asleep(hub, 1)
                tasks.start_soon(first)
                await asleep(hub, 2)
                tasks.start_soon(second)
                await asleep(hub, 3)
                hub.portal.send_many([0, 1])
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                woken = hub.statistics().tasks_waiting_receive == 1 and "first" not in outcomes
                cancels[0]()
                await eventually(lambda: "first" in outcomes)
                if outcomes["first"] is None:
                    cancelled_after_it_was_woken += woken
                    await eventually(lambda: len(outcomes) == 3)
                    received = {outcomes["luckier"], outcomes["second"]}
                else:
                    await asleep(hub, 1)
                    hub.portal.send(2)
                    await eventually(lambda: outcomes.get("second") == 2)
                    received = {outcomes["luckier"], outcomes["first"]}
                assert received == {0, 1}
            assert len(hub) == 0
    if means is by_task_cancel:  # the only one of which we know when it cancels
        assert cancelled_after_it_was_woken


@pytest.mark.anyio
async def test_several_that_were_woken_and_are_cancelled_pass_all_wakes_on(
    backend_name: str,
) -> None:
    if backend_name == "trio":
        pytest.skip("who was woken there receives, and there is no native cancellation")
    async with dss.open_hub[int]() as hub:
        lucky = asyncio.ensure_future(hub.receive())  # is resumed at once
        await asleep(hub, 1)
        doomed = [asyncio.ensure_future(hub.receive()) for _ in range(5)]
        await asleep(hub, 6)
        others = [asyncio.ensure_future(hub.receive()) for _ in range(5)]
        await asleep(hub, 11)
        hub.portal.send_many(range(6))
        await anyio.lowlevel.checkpoint()
        assert hub.statistics().tasks_waiting_receive == 5
        for task in doomed:
            task.cancel()
        await asyncio.wait(doomed)
        assert all(task.cancelled() for task in doomed)
        with anyio.fail_after(5):
            assert sorted(await asyncio.gather(lucky, *others)) == list(range(6))


# -- How a task sleeps -----------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["wake", "wake_now"])
@pytest.mark.parametrize("backend", ASYNCIO)
def test_a_task_that_a_signal_handler_cancels_while_it_is_woken_goes_on(
    backend: str, way: str
) -> None:
    """Guards ``on_asyncio.Nap``: asyncio.run has Ctrl-C cancel the task, at whatever bytecode."""
    outcomes: list[str] = []

    async def sleep(nap: Nap) -> None:
        try:
            await nap
        except asyncio.CancelledError:
            outcomes.append("cancelled")
            raise
        outcomes.append("woken")

    async def main() -> None:
        for at in count():
            nap = (await way_into_this())[0].make_nap()
            task = asyncio.ensure_future(sleep(nap))
            await asyncio.sleep(0)
            interrupted: list[bool] = []

            def wake() -> None:
                interrupted.append(run_interrupted(getattr(nap, way), task.cancel, at))

            asyncio.get_running_loop().call_soon(wake)
            done, _ = await asyncio.wait([task], timeout=5)
            assert done, f"nobody resumes the task if it is cancelled before bytecode {at}"
            if not interrupted[0]:
                return

    loop = loop_of(backend)
    loop.run_until_complete(main())
    loop.close()
    assert outcomes[0] == "cancelled"  # before the first bytecode
    assert outcomes[-1] == "woken"  # not at all


async def way_into_this() -> tuple[WayIn, CallSoon, int | None]:
    async with anyio.create_task_group() as tasks:
        return way_into(tasks, abandon_those_in, object())


@pytest.mark.anyio
async def test_a_nap_that_nobody_sleeps_or_that_was_cancelled_is_woken_to_no_effect() -> None:
    make_nap = (await way_into_this())[0].make_nap
    for way in ("wake", "wake_now"):
        getattr(make_nap(), way)()
        nap = make_nap()

        async def sleep(nap: Nap = nap) -> None:
            await nap

        with anyio.move_on_after(0.01) as scope:
            await sleep()
        assert scope.cancelled_caught
        getattr(nap, way)()
        getattr(nap, way)()


# -- A loop that is closed -------------------------------------------------------------------------


@pytest.fixture
def no_collection() -> Iterator[None]:
    """What we want to be told must not need the garbage collector."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


class Told(list[tuple[int, threading.Thread]]):
    """By whom, and in which thread."""

    def __call__(self, witness: int) -> None:
        self.append((witness, threading.current_thread()))

    def watch(self, loop: asyncio.AbstractEventLoop) -> on_asyncio.WayIn:
        """The way in of a hub that is opened in *loop*."""

        async def main() -> on_asyncio.WayIn:
            async with anyio.create_task_group() as tasks:
                way_in, _, number = way_into(tasks, self, "a hub")
                assert isinstance(way_in, on_asyncio.WayIn)
                assert number == way_in.number
                return way_in

        return loop.run_until_complete(main())


@pytest.mark.parametrize("backend", ASYNCIO)
def test_closing_the_loop_tells_once_and_at_once_in_the_thread_that_closes_it(
    backend: str, no_collection: None
) -> None:
    told = Told()
    loop = loop_of(backend)
    [witness] = {told.watch(loop) for _ in range(3)}
    assert told == []
    with threads(loop.close) as [thread]:
        pass
    assert loop.is_closed()
    assert told == [(witness.number, thread)]
    loop.close()
    assert len(told) == 1


@pytest.mark.parametrize("backend", ASYNCIO)
def test_each_loop_is_watched_also_one_at_the_address_of_another(
    backend: str, no_collection: None
) -> None:
    told = Told()
    watched: list[int] = []
    for _ in range(20):
        loop = loop_of(backend)
        watched.append(told.watch(loop).number)
        loop.close()
        del loop
    assert [number for number, _ in told] == watched
    assert len(set(watched)) == 20


@pytest.mark.parametrize("backend", ASYNCIO)
def test_a_loop_that_refuses_to_be_closed_goes_on(backend: str) -> None:
    told = Told()
    loop = loop_of(backend)
    told.watch(loop)

    async def main() -> None:
        with pytest.raises(RuntimeError):
            loop.close()

    loop.run_until_complete(main())
    assert told == []
    loop.close()
    assert len(told) == 1


def test_a_loop_that_is_destroyed_without_having_been_closed_tells_as_well() -> None:
    """Of asyncio: one of uvloop that has run is never destroyed, if it is not closed."""
    told = Told()
    loop = loop_of("asyncio")
    number = told.watch(loop).number
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is unclosed, and says so
        del loop
        gc.collect()
    assert [witness for witness, _ in told] == [number]


@pytest.mark.parametrize("backend", ASYNCIO)
def test_others_may_put_something_in_place_of_a_loops_close_before_and_after_us(
    backend: str,
) -> None:
    calls: list[str] = []
    told = Told()
    loop = loop_of(backend)

    def put(name: str) -> None:
        close = loop.close

        def call() -> None:
            calls.append(name)
            close()

        loop.close = call  # type: ignore[method-assign]

    put("first")
    first = loop.close
    told.watch(loop).leave_loop("a hub")
    assert loop.close is first
    gone = told.watch(loop)
    put("second")
    second = loop.close
    gone.leave_loop("a hub")
    assert loop.close is second, "it may call us"
    number = told.watch(loop).number
    loop.close()
    assert loop.is_closed()
    assert calls == ["second", "first"]
    assert [witness for witness, _ in told] == [number]


def test_a_loop_whose_close_cannot_be_replaced_takes_hubs_as_well() -> None:
    class Loop(asyncio.SelectorEventLoop):
        @property
        def close(self) -> Any:
            return super().close

    received: list[int] = []

    async def main() -> None:
        async with dss.open_hub[int]() as hub:
            with threads(lambda: hub.portal.send(1)):
                received.append(await hub.receive())

    loop = Loop()
    loop.run_until_complete(main())
    loop.close()
    assert received == [1]


class Timers:
    """A loop whose timers are Qt's: at most 2**31 milliseconds. Those that it was given."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.set: list[float] = []
        self._call_at = loop.call_at
        self._loop = loop
        for name in ("call_at", "call_later"):
            setattr(loop, name, getattr(self, name))

    def call_at(self, when: float, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        self.set.append(when - self._loop.time())
        if self.set[-1] * 1000 > 2**31 - 1:
            raise OverflowError("more than a QTimer takes")
        return self._call_at(when, *args, **kwargs)

    def call_later(self, delay: float, *args: Any, **kwargs: Any) -> asyncio.TimerHandle:
        return self.call_at(self._loop.time() + delay, *args, **kwargs)


@pytest.mark.parametrize("backend", ASYNCIO)
def test_hubs_set_no_timer_in_their_loop_and_leave_nothing_in_it(backend: str) -> None:
    """Qt's refuse long ones; some tests fire all timers, or complain of those that are left."""
    stopped: list[int] = []
    loop = loop_of(backend)
    timers = Timers(loop)
    before = {**vars(loop)}

    async def main() -> None:
        async with dss.open_hub[int]() as hub, dss.open_hub[int]() as other:
            async with hub.open_source(
                "library", lambda portal: portal.send(1), stopped.append, stop_timeout=10**9
            ):
                assert await hub.receive() == 1
            hub.register("another", stop=lambda: stopped.append(1))
            other.task_group.start_soon(asyncio.Event().wait)
        assert vars(loop).keys() == before.keys()

    loop.run_until_complete(main())
    assert stopped == [None, 1]
    assert timers.set == []
    loop.close()


@pytest.mark.anyio
async def test_an_opening_that_fails_leaves_no_scope_entered_and_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    hubs: list[dss.Hub[int]] = []

    def fail(hub: Any) -> None:
        hubs.append(hub)
        raise MemoryError

    monkeypatch.setattr(base, "openings", [fail])
    native = current_token().native_token
    before = getattr(native, "close", None)
    with anyio.CancelScope():
        with pytest.raises(MemoryError):
            await dss.open_hub[int]().__aenter__()
    await anyio.lowlevel.checkpoint()
    assert getattr(native, "close", None) == before
    assert hubs[0].portal.offer(1) is False
    with pytest.raises(RuntimeError, match="not open"):
        hubs[0].task_group  # noqa: B018


@pytest.mark.parametrize("backend", ASYNCIO)
def test_a_hub_that_is_garbage_leaves_nothing_in_its_loop_either(
    backend: str, no_collection: None
) -> None:
    loop = loop_of(backend)

    async def main() -> None:
        hub = dss.open_hub[int]()
        await hub.__aenter__()
        assert type(loop.close) is on_asyncio.WayIn
        del hub._task_group  # anyio's has a scope that this task has entered; it is the task's now
        with pytest.warns(ResourceWarning):
            del hub
        await asyncio.sleep(0)
        assert type(loop.close) is not on_asyncio.WayIn

    loop.run_until_complete(main())
    loop.close()


@pytest.mark.parametrize("backend", ASYNCIO)
def test_closing_the_loop_ends_the_hubs_in_it_and_no_other(
    backend: str, no_collection: None
) -> None:
    """Guards the number of the loop in ``abandon_those_in``."""
    hubs: list[dss.Hub[int]] = []
    loops = [loop_of(backend), loop_of(backend)]

    async def main(loop: asyncio.AbstractEventLoop) -> None:
        async with dss.open_hub[int]():
            pass  # one that has ended
        for _ in range(2):
            hubs.append(await dss.open_hub[int]().__aenter__())
        loop.call_soon(loop.stop)
        await asyncio.Event().wait()

    tasks = [loop.create_task(main(loop)) for loop in loops]
    with dss.open_polled_hub[int]() as polled:
        for loop in loops:
            loop.run_forever()
        loops[0].close()
        assert [hub.portal.offer(1) for hub in hubs] == [False, False, True, True]
        assert polled.portal.offer(1)
        loops[1].close()
        assert [hub.portal.offer(1) for hub in hubs] == [False] * 4
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("backend", ASYNCIO)
def test_the_watch_holds_nothing_of_the_task_that_has_begun_it(
    backend: str, no_collection: None
) -> None:
    class Something:
        pass

    variable: ContextVar[Something] = ContextVar("variable")

    async def main() -> weakref.ref[Something]:
        something = Something()
        variable.set(something)
        async with dss.open_hub[int]():
            pass
        return weakref.ref(something)

    loop = loop_of(backend)
    found = loop.run_until_complete(main())
    assert found() is None
    loop.close()


def test_a_trio_run_cannot_end_before_its_tasks_and_is_not_watched() -> None:
    async def main() -> None:
        _, _, loop = await way_into_this()
        assert loop is None

    anyio.run(main, backend="trio")


@pytest.mark.parametrize("backend", ASYNCIO)
def test_a_thread_is_released_when_the_loop_is_closed_under_the_hub(
    backend: str, no_collection: None
) -> None:
    loop = loop_of(backend)
    hubs: list[dss.Hub[int]] = []
    cancelled = threading.Event()
    handed_back: list[int] = []

    async def main() -> None:
        async with dss.open_hub[int](1) as hub:
            hub.register("library", stop=cancelled.set, on_undelivered=handed_back.append)
            hubs.append(hub)
            hub.source("library").send(1)
            loop.call_soon(loop.stop)
            await asyncio.Event().wait()

    task: Any = loop.create_task(main())
    loop.run_forever()
    portal = hubs[0].portal
    errors: list[type[Exception]] = []

    def send() -> None:
        with pytest.raises(anyio.BrokenResourceError) as caught:
            portal.send(2)
        errors.append(caught.type)

    async def asend() -> None:
        with pytest.raises(anyio.BrokenResourceError) as caught:
            await portal.asend(3)
        errors.append(caught.type)

    with threads(send, lambda: anyio.run(asend, backend="trio"), timeout=5):
        until(lambda: len(hubs[0].blocked()) == 2)
        loop.close()
    assert len(errors) == 2
    assert cancelled.wait(5)
    until(lambda: handed_back == [1])
    assert not portal.offer(3)
    task._log_destroy_pending = False  # asyncio would complain of the task, and rightly so


@pytest.mark.leaves_something  # anyio keeps a task that is never resumed, and that keeps its hub
@pytest.mark.parametrize("backend", ASYNCIO)
def test_a_hub_whose_receiver_sleeps_in_a_closed_loop_ends_as_well(
    backend: str, no_collection: None
) -> None:
    """Here it is the wake that fails: the loop was closed between looking and calling it."""
    loop = loop_of(backend)
    hubs: list[dss.Hub[int]] = []

    async def main() -> None:
        async with dss.open_hub[int]() as hub:
            hubs.append(hub)
            unwatch(hub._mailbox.home.hub, None)  # nobody tells us
            await hub.receive()

    task: Any = loop.create_task(main())
    until_asleep(loop, hubs)
    loop.close()
    assert hubs[0].portal.offer(1) in (True, False)  # never raises
    assert hubs[0].portal.offer(2) is False
    counts = hubs[0].statistics()
    assert counts.sent == counts.queued + counts.undelivered
    task._log_destroy_pending = False


def until_asleep(loop: asyncio.AbstractEventLoop, hubs: list[dss.Hub[int]]) -> None:
    async def wait() -> None:
        await eventually(lambda: hubs and hubs[0].statistics().tasks_waiting_receive)

    loop.run_until_complete(wait())


def test_what_is_put_after_the_end_is_handed_back_also_if_a_receiver_is_destroyed_then() -> None:
    """Guards ``Bell.disarm``: the closed loop has left a receiver behind, which goes only now."""
    handed_back: list[int] = []
    loop = asyncio.new_event_loop()
    kept: list[Any] = []

    async def main() -> None:
        async with dss.open_hub[int]() as hub:
            portal = hub.register("library", on_undelivered=handed_back.append)
            receiver = hub.receive()
            kept.extend((portal, hub._mailbox, hub._sleepers, receiver))
            receiver.send(None)  # type: ignore[arg-type]  # to its checkpoint
            receiver.send(None)  # type: ignore[arg-type]  # it sleeps
            loop.stop()
            await asyncio.sleep(3600)

    task = loop.create_task(main())
    loop.run_forever()
    loop.close()
    portal, mailbox, _, receiver = kept
    until(lambda: mailbox.swept)
    receiver.close()
    lane = portal._lane
    lane.places.put(lane, 1)  # as a sender that has found its portal open before
    assert handed_back == [1]
    assert not lane.items
    task.get_coro().close()  # type: ignore[union-attr]
