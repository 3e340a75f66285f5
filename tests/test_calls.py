"""Functions that other threads call in the hub's thread: as with anyio's portal, and beyond.

What is asked of both is run on both, so that ours is seen to behave in the same way.
"""

from __future__ import annotations

import asyncio
import gc
import os
import select
import signal
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.abc
import anyio.from_thread
import anyio.lowlevel
import pytest
import sniffio
from anyio import BrokenResourceError, ClosedResourceError
from bytecodes import run_interrupted
from conftest import ANYIO, BACKENDS, strike

import dss_anyio as dss
from dss_anyio import NoReplyError
from dss_anyio._core.errors import twin
from dss_anyio._core.question import Question
from dss_anyio.testing import eventually, threads, until

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup


class Trouble(Exception):  # noqa: N818
    """What a function raises."""


variable: ContextVar[str] = ContextVar("variable", default="unset")


# -- the same checks, on anyio's portal and on ours ------------------------------------------------


@pytest.fixture(params=["anyio's", "ours"])
def portal(request: pytest.FixtureRequest, anyio_backend: Any) -> Iterator[Any]:
    """A portal into an event loop in a thread of its own."""
    backend, options = anyio_backend
    if request.param == "ours":
        with dss.start_hub(backend=backend, backend_options=options) as hub:
            yield hub.portal
            assert hub.blocked() == []
    else:
        with anyio.from_thread.start_blocking_portal(backend, options) as portal:
            yield portal


async def add(one: int, other: int) -> int:
    await anyio.lowlevel.checkpoint()
    return one + other


async def fail() -> None:
    await anyio.lowlevel.checkpoint()
    raise Trouble("in the loop")


def fail_at_once() -> None:
    raise Trouble("in the loop")


class Sleeper:
    """A coroutine function that is there until it is cancelled."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.cancelled = threading.Event()

    async def __call__(self) -> None:
        self.started.set()
        try:
            await anyio.sleep_forever()
        except BaseException:
            self.cancelled.set()
            raise


def test_call_runs_a_coroutine_function(portal: Any) -> None:
    assert portal.call(add, 1, 2) == 3


def test_call_runs_a_plain_function_in_the_threads_loop(portal: Any) -> None:
    here = threading.get_ident()
    assert portal.call(threading.get_ident) == portal.call(threading.get_ident) != here


def test_a_plain_function_may_use_what_belongs_to_its_event_loop(
    portal: Any, backend_name: str
) -> None:
    assert portal.call(sniffio.current_async_library) == backend_name
    assert portal.call(anyio.current_time) > 0
    assert portal.call(anyio.Event).statistics().tasks_waiting == 0


def test_call_awaits_what_a_plain_function_returns(portal: Any) -> None:
    assert portal.call(lambda: add(1, 2)) == 3


@pytest.mark.parametrize("func", [fail, fail_at_once])
def test_call_raises_what_the_function_raises_with_both_sides_to_be_seen(
    portal: Any, func: Callable[[], Any]
) -> None:
    with pytest.raises(Trouble, match="in the loop") as caught:
        portal.call(func)
    names = [each.name for each in traceback.extract_tb(caught.value.__traceback__)]
    assert {func.__name__, "call"} <= set(names)


def test_an_exception_does_not_end_the_portal(portal: Any) -> None:
    for func in (fail, fail_at_once):
        with pytest.raises(Trouble):
            portal.call(func)
        with pytest.raises(Trouble):
            portal.start_task_soon(func).result(10)
    assert portal.call(add, 1, 2) == 3


def test_many_threads_call_at_once(portal: Any) -> None:
    results: list[int] = []

    def call() -> None:
        for number in range(50):
            results.append(portal.call(add, number, 0))
            results.append(portal.call(int, number))

    with threads(*[call] * 8):
        pass
    assert sorted(results) == sorted(2 * 8 * list(range(50)))


def test_start_task_soon_returns_a_future(portal: Any) -> None:
    future = portal.start_task_soon(add, 1, 2)
    assert isinstance(future, Future)
    assert future.result(10) == 3
    assert portal.start_task_soon(int, "3").result(10) == 3
    assert isinstance(portal.start_task_soon(fail).exception(10), Trouble)
    assert future.done()
    assert not future.cancelled()
    assert not future.cancel()


def test_cancelling_the_future_cancels_the_task(portal: Any) -> None:
    if ANYIO < (4, 16) and not isinstance(portal, dss.Portal):
        pytest.skip("before 4.16, anyio's portal does not tell who waits for the future")
    sleeper = Sleeper()
    future = portal.start_task_soon(sleeper)
    assert sleeper.started.wait(10)
    assert future.cancel()
    assert sleeper.cancelled.wait(10)
    with pytest.raises(CancelledError):
        future.result(10)
    assert wait([future], 10).done == {future}
    assert portal.call(add, 1, 2) == 3


def test_a_done_callback_is_called(portal: Any) -> None:
    done: list[Any] = []
    portal.start_task_soon(add, 1, 2).add_done_callback(done.append)
    until(lambda: done)
    assert done[0].result() == 3


def test_a_task_has_a_name(portal: Any) -> None:
    async def name() -> Any:
        return anyio.get_current_task().name

    assert portal.start_task_soon(name, name="my task").result(10) == "my task"
    if isinstance(portal, dss.Portal):
        assert "name" in portal.start_task_soon(name).result(10)

    async def name_started(*, task_status: anyio.abc.TaskStatus[Any]) -> None:
        task_status.started(anyio.get_current_task().name)

    future, value = portal.start_task(name_started, name="my task")
    assert value == "my task"
    assert future.result(10) is None


def test_start_task_returns_what_started_was_called_with(portal: Any) -> None:
    async def start(one: int, *, task_status: anyio.abc.TaskStatus[int]) -> str:
        task_status.started(one + 1)
        await anyio.lowlevel.checkpoint()
        return "result"

    future, value = portal.start_task(start, 1)
    assert value == 2
    assert future.result(10) == "result"


def test_start_task_may_start_with_nothing(portal: Any) -> None:
    async def start(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        task_status.started()

    future, value = portal.start_task(start)
    assert value is None
    assert future.result(10) is None


def test_start_task_raises_what_is_raised_before_it_has_started(portal: Any) -> None:
    async def start(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        await anyio.lowlevel.checkpoint()
        raise Trouble(task_status)

    with pytest.raises(Trouble):
        portal.start_task(start)


def test_start_task_puts_what_is_raised_later_into_the_future(portal: Any) -> None:
    async def start(*, task_status: anyio.abc.TaskStatus[int]) -> None:
        task_status.started(1)
        raise Trouble

    future, value = portal.start_task(start)
    assert value == 1
    assert isinstance(future.exception(10), Trouble)


def test_a_task_that_never_calls_started_is_a_runtime_error(portal: Any) -> None:
    async def start(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        assert task_status is not None

    with pytest.raises(RuntimeError, match=r"without.*started|task_status\.started"):
        portal.start_task(start)


def test_cancelling_the_future_of_a_started_task_cancels_it(portal: Any) -> None:
    cancelled = threading.Event()

    async def start(*, task_status: anyio.abc.TaskStatus[int]) -> None:
        task_status.started(5)
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    future, value = portal.start_task(start)
    assert value == 5
    assert future.cancel()
    assert cancelled.wait(10)
    with pytest.raises(CancelledError):
        future.result(10)


def test_a_function_sees_the_context_variables_of_the_caller(portal: Any) -> None:
    async def look() -> str:
        await anyio.lowlevel.checkpoint()
        seen = variable.get()
        variable.set("set in the loop")
        return seen

    variable.set("of the caller")
    assert portal.call(variable.get) == "of the caller"
    assert portal.call(look) == "of the caller"
    assert portal.start_task_soon(look).result(10) == "of the caller"
    assert variable.get() == "of the caller"

    async def start(*, task_status: anyio.abc.TaskStatus[str]) -> None:
        task_status.started(variable.get())

    assert portal.start_task(start)[1] == "of the caller"


class Managed:
    """An async context manager that notes what becomes of it, and in which task."""

    def __init__(self, *, swallow: bool = False, fail: str = "") -> None:
        self.swallow = swallow
        self.fail = fail
        self.log: list[str] = []
        self.tasks: set[int] = set()

    async def __aenter__(self) -> str:
        self.tasks.add(anyio.get_current_task().id)
        self.log.append("entered")
        await anyio.lowlevel.checkpoint()
        if self.fail == "enter":
            raise Trouble("enter")
        return "value"

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: object
    ) -> bool:
        self.tasks.add(anyio.get_current_task().id)
        self.log.append(f"left {None if exc_type is None else exc_type.__name__}")
        if self.fail == "exit":
            raise Trouble("exit")
        if not isinstance(exc_val, (type(None), Exception)):
            return False  # a cancellation
        await anyio.lowlevel.checkpoint()
        return self.swallow


def test_an_async_context_manager_lives_in_one_task(portal: Any) -> None:
    managed = Managed()
    with portal.wrap_async_context_manager(managed) as value:
        assert value == "value"
        assert managed.log == ["entered"]
        assert portal.call(add, 1, 2) == 3
    assert managed.log == ["entered", "left None"]
    assert len(managed.tasks) == 1


def test_an_exception_of_its_block_reaches_it_and_goes_on(portal: Any) -> None:
    managed = Managed()
    error = KeyError("block")
    with pytest.raises(KeyError) as caught, portal.wrap_async_context_manager(managed):
        raise error
    assert caught.value is error
    assert managed.log == ["entered", "left KeyError"]


def test_it_may_swallow_the_exception_of_its_block(portal: Any) -> None:
    managed = Managed(swallow=True)
    with portal.wrap_async_context_manager(managed):
        raise KeyError
    assert managed.log == ["entered", "left KeyError"]


def test_what_it_raises_itself_is_raised(portal: Any) -> None:
    managed = Managed(fail="enter")
    with pytest.raises(Trouble, match="enter"), portal.wrap_async_context_manager(managed):
        pass
    assert managed.log == ["entered"]
    managed = Managed(fail="exit")
    with pytest.raises(Trouble, match="exit"), portal.wrap_async_context_manager(managed):
        pass
    assert managed.log == ["entered", "left None"]


def test_a_generator_made_into_a_context_manager_is_one_too(portal: Any) -> None:
    log: list[Any] = []

    @asynccontextmanager
    async def managed() -> AsyncIterator[int]:
        async with anyio.create_task_group() as tasks:  # must be left in the task that entered it
            tasks.start_soon(anyio.sleep_forever)
            try:
                yield 5
            except Trouble as exc:
                log.append(exc)
                raise
            finally:
                tasks.cancel_scope.cancel()

    with portal.wrap_async_context_manager(managed()) as value:
        assert value == 5
    with (
        pytest.raises((Trouble, ExceptionGroup)),
        portal.wrap_async_context_manager(managed()),
    ):
        raise Trouble
    assert len(log) == 1


def test_calling_in_its_own_thread_is_refused(portal: Any) -> None:
    async def call() -> None:
        with pytest.raises(RuntimeError):
            portal.call(int)

    portal.call(call)


def test_a_task_may_be_started_in_its_own_thread(portal: Any) -> None:
    def start() -> Future[int]:
        future: Future[int] = portal.start_task_soon(add, 1, 2)
        return future

    if isinstance(portal, dss.Portal):  # anyio's does so as well, but deprecates nothing else here
        assert portal.call(start).result(10) == 3


def test_after_its_end_a_call_is_an_error_and_does_not_hang(anyio_backend: Any) -> None:
    backend, options = anyio_backend
    with anyio.from_thread.start_blocking_portal(backend, options) as theirs:
        pass
    with pytest.raises(RuntimeError):
        theirs.call(int)
    with dss.start_hub(backend=backend, backend_options=options) as hub:
        ours = hub.portal
    for call in (ours.call, ours.start_task_soon, ours.start_task):
        begun = time.monotonic()
        with pytest.raises(BrokenResourceError):
            call(int)
        assert time.monotonic() - begun < 1
    with (
        pytest.raises(BrokenResourceError),
        ours.wrap_async_context_manager(Managed()),
    ):
        pass


# -- beyond: how calls end -------------------------------------------------------------------------


async def in_threads(*funcs: Callable[[], Any]) -> list[Any]:
    """What *funcs* return or raise, each in a thread; the list is filled in the order they end."""
    outcomes: list[Any] = []

    def keep(func: Callable[[], Any]) -> None:
        try:
            outcomes.append(func())
        except BaseException as exc:
            outcomes.append(exc)

    for func in funcs:
        threading.Thread(target=keep, args=(func,), daemon=True).start()
    return outcomes


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["left", "exception", "cancelled scope", "close", "abort"])
async def test_whoever_waits_for_a_call_is_released_at_the_end(way: str) -> None:
    error = ClosedResourceError if way == "abort" else BrokenResourceError
    sleepers = [Sleeper() for _ in range(4)]

    async def start(*, task_status: Any) -> None:
        await sleepers[1]()
        task_status.started()

    futures: list[Future[Any]] = []
    outcomes: list[Any] = []
    with anyio.CancelScope() as scope:
        try:
            async with dss.open_hub[Any]() as hub:
                portal = hub.register("library") if way == "abort" else hub.portal
                outcomes = await in_threads(
                    lambda: portal.call(sleepers[0]), lambda: portal.start_task(start)
                )
                futures.append(portal.start_task_soon(sleepers[2]))
                await eventually(lambda: all(each.started.is_set() for each in sleepers[:3]))
                calls = sorted(each.call for each in hub.blocked())
                assert calls == ["call", "start_task", "start_task", "start_task_soon"]
                assert hub.statistics().requests == (0, 0, 0, 0, 0, 0)
                if way == "exception":
                    raise KeyError
                if way == "cancelled scope":
                    scope.cancel()
                    await anyio.sleep_forever()
                elif way in ("close", "abort"):
                    hub.close() if way == "close" else portal.abort()
                    await eventually(lambda: len(outcomes) == 2)
                    await eventually(lambda: all(each.cancelled.is_set() for each in sleepers[:3]))
        except KeyError:
            assert way == "exception"
    until(lambda: len(outcomes) == 2)
    # The tasks of a cancelled scope are cancelled before the hub that is in it begins to end.
    errors = {error, NoReplyError} if way == "cancelled scope" else {error}
    assert {type(each) for each in outcomes} | {type(futures[0].exception(5))} <= errors
    assert all(each.cancelled.is_set() for each in sleepers[:3])
    until(lambda: not hub.blocked())
    assert hub.statistics().requests == (0, 0, 0, 0, 0, 0)


@pytest.mark.anyio
@pytest.mark.parametrize("way", ["close", "close_senders"])
async def test_a_call_that_has_begun_goes_on_when_its_portal_is_closed(way: str) -> None:
    go_on = anyio.Event()

    async def work() -> str:
        await go_on.wait()
        return "done"

    async with dss.open_hub[Any]() as hub:
        portal = hub.register("library")
        future = portal.start_task_soon(work)
        await anyio.wait_all_tasks_blocked()
        portal.close() if way == "close" else hub.close_senders()
        for call in (portal.start_task_soon, portal.call):
            with pytest.raises((ClosedResourceError, RuntimeError)):
                call(int)
        go_on.set()
        await eventually(future.done)
        assert future.result() == "done"


@pytest.mark.anyio
async def test_calls_do_not_pass_through_the_queue() -> None:
    """Nobody receives, and the hub is full."""
    async with dss.open_hub[Any](1) as hub:
        hub.portal.send("full")
        assert await anyio.to_thread.run_sync(hub.portal.call, add, 1, 2) == 3
        assert await anyio.to_thread.run_sync(hub.portal.call, int, "3") == 3
        assert (len(hub), hub.statistics().sent) == (1, 1)


@pytest.mark.anyio
async def test_calls_in_the_hubs_own_thread_fail_at_once() -> None:
    async with dss.open_hub[Any]() as hub:
        for name, call in (
            ("call", lambda: hub.portal.call(int)),
            ("call", lambda: hub.portal.call(add, 1, 2)),
            ("start_task", lambda: hub.portal.start_task(add)),
            ("start_task", lambda: hub.portal.wrap_async_context_manager(Managed()).__enter__()),
        ):
            with pytest.raises(RuntimeError, match=rf"{name}\(\) would block the very thread"):
                call()
        assert hub.blocked() == []
        future = hub.portal.start_task_soon(add, 1, 2)
        await eventually(future.done)
        assert future.result() == 3


@pytest.mark.anyio
async def test_a_call_may_call_another_thread_that_calls_again() -> None:
    async with dss.open_hub[Any]() as hub:

        async def outer() -> int:
            return await anyio.to_thread.run_sync(hub.portal.call, add, 1, 2)

        assert await anyio.to_thread.run_sync(hub.portal.call, outer) == 3


def test_a_hub_that_is_not_open_cannot_call() -> None:
    hub = dss.open_hub[Any]()
    for call in (hub.portal.call, hub.portal.start_task_soon, hub.portal.start_task):
        with pytest.raises(RuntimeError, match="not open"):
            call(int)
    assert hub.blocked() == []


@pytest.mark.parametrize("func", [None, 5, "text"])
def test_what_is_no_function_cannot_be_called(func: Any, portal: Any) -> None:
    with pytest.raises(TypeError):
        portal.call(func)
    with pytest.raises(TypeError):
        portal.start_task_soon(func).result(10)


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_a_cancellation_inside_leaves_the_caller_without_a_reply(kind: str) -> None:
    async with dss.open_hub[Any]() as hub:
        cancelled = anyio.get_cancelled_exc_class()

        async def cancel_itself() -> None:
            with anyio.CancelScope() as scope:
                scope.cancel()
                try:
                    await anyio.sleep_forever()
                except cancelled:
                    pass
            # Not from the outside: the task simply ends like this.
            raise asyncio.CancelledError

        def plain() -> None:
            raise asyncio.CancelledError

        if kind == "async" and issubclass(cancelled, asyncio.CancelledError):
            outcomes = await in_threads(lambda: hub.portal.call(cancel_itself))
        else:
            outcomes = await in_threads(lambda: hub.portal.call(plain))
        await eventually(lambda: outcomes)
        assert type(outcomes[0]) is NoReplyError


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_program_reaches_the_caller_of_a_plain_function(
    error: type[BaseException],
) -> None:
    def leave() -> None:
        raise error

    with dss.start_hub() as hub:
        with pytest.raises(error):
            hub.portal.call(leave)
        assert hub.portal.call(add, 1, 2) == 3


def test_what_ends_a_program_in_a_task_reaches_the_caller_and_ends_the_hub(
    anyio_backend: Any,
) -> None:
    """As a task of any task group does. Each has one of its own: see ``twin``."""
    backend, options = anyio_backend

    async def leave() -> None:
        await anyio.lowlevel.checkpoint()
        raise SystemExit(3) from ValueError("why")

    caught: list[BaseException] = []
    with (
        pytest.raises((SystemExit, BaseExceptionGroup)) as raised,
        dss.start_hub(backend=backend, backend_options=options) as hub,
    ):
        try:
            hub.portal.call(leave)
        except BaseException as exc:
            caught.append(exc)
        until(lambda: not hub.portal.offer(1))
    ended_by: BaseException = raised.value
    while isinstance(ended_by, BaseExceptionGroup):
        [ended_by] = ended_by.exceptions
    assert caught[0] is not ended_by
    for each in (caught[0], ended_by):
        assert (type(each), each.args) == (SystemExit, (3,))
        assert isinstance(each.__cause__, ValueError)
        assert "leave" in functions_in(each)
    assert "call" in functions_in(caught[0])
    assert "call" not in functions_in(ended_by)


def functions_in(exc: BaseException) -> list[str]:
    """Those that *exc* has come by."""
    return [frame.name for frame in traceback.extract_tb(exc.__traceback__)]


def test_an_exception_that_cannot_be_copied_is_what_both_get() -> None:
    class Leaving(SystemExit):
        def __init__(self, why: str, *, code: int) -> None:
            super().__init__(why)
            self.code = code

    def leave() -> None:
        raise Leaving("why", code=3)

    leaving = Leaving("why", code=3)
    assert twin(leaving) is leaving
    with dss.start_hub() as hub, pytest.raises(Leaving) as caught:
        hub.portal.call(leave)
    assert caught.value.code == 3


@pytest.mark.anyio
async def test_a_call_whose_future_was_cancelled_before_its_turn_never_begins() -> None:
    called: list[int] = []
    async with dss.open_hub[Any]() as hub:
        futures = [hub.portal.start_task_soon(called.append, number) for number in range(3)]
        assert futures[1].cancel()
        await eventually(futures[2].done)
        assert called == [0, 2]
        assert hub.blocked() == []


@pytest.mark.skipif(sys.platform == "win32", reason="needs pthread_kill")
@pytest.mark.parametrize("how", ["ctrl_c", "async exception"])
@pytest.mark.parametrize("call", ["call", "start_task"])
def test_a_caller_that_is_struck_cancels_its_task(call: str, how: str, anyio_backend: Any) -> None:
    backend, options = anyio_backend
    sleeper = Sleeper()
    here = threading.get_ident()

    async def start(*, task_status: Any) -> None:
        await sleeper()
        task_status.started()

    out = threading.Event()

    def strike_here() -> None:
        assert sleeper.started.wait(10)
        if how == "ctrl_c":
            signal.pthread_kill(here, signal.SIGINT)
            return
        strike(here, Trouble, out)

    with dss.start_hub(backend=backend, backend_options=options) as hub:
        with (
            threads(strike_here),
            pytest.raises(KeyboardInterrupt if how == "ctrl_c" else Trouble),
        ):
            try:
                if call == "call":
                    hub.portal.call(sleeper)
                else:
                    hub.portal.start_task(start)
            finally:
                out.set()
        assert sleeper.cancelled.wait(10)
        until(lambda: not hub.blocked())
        assert hub.portal.call(add, 1, 2) == 3


def test_started_twice_is_a_mistake_of_the_task() -> None:
    async def start(*, task_status: Any) -> None:
        task_status.started(1)
        task_status.started(2)

    with dss.start_hub() as hub:
        future, value = hub.portal.start_task(start)
        assert value == 1
        with pytest.raises(RuntimeError, match="called before"):
            future.result(10)


@pytest.mark.anyio
async def test_a_context_manager_in_the_hub_is_left_at_the_end() -> None:
    """The ``with`` block is in another thread, which leaves it later."""
    managed = Managed()
    inside = threading.Event()
    leave = threading.Event()

    def use(portal: dss.Portal[Any]) -> None:
        with portal.wrap_async_context_manager(managed):
            inside.set()
            leave.wait(10)

    async with dss.open_hub[Any]() as hub:
        outcomes = await in_threads(lambda: use(hub.portal))
        await eventually(inside.is_set)
    assert managed.log[0] == "entered"
    assert managed.log[1].startswith("left Cancelled")
    assert len(managed.tasks) == 1
    leave.set()
    until(lambda: outcomes)
    assert isinstance(outcomes[0], BrokenResourceError)


def test_a_call_that_nobody_awaits_is_forgotten_without_a_warning(anyio_backend: Any) -> None:
    """The hub ends before the task has begun; a coroutine that is never awaited would warn."""
    backend, options = anyio_backend
    for _ in range(20):
        with dss.start_hub(backend=backend, backend_options=options) as hub:
            futures = [hub.portal.start_task_soon(add, 1, 2) for _ in range(20)]
        for future in futures:
            assert future.exception(10) is None or isinstance(
                future.exception(), BrokenResourceError
            )
    gc.collect()


def test_the_result_of_a_call_is_not_kept() -> None:
    class Result:
        pass

    with dss.start_hub() as hub:
        gc.collect()
        gc.disable()
        try:
            for func in (Result, asyncify(Result)):
                ref = weakref.ref(hub.portal.call(func))

                def is_gone(ref: Any = ref) -> bool:
                    # Without the GIL an object goes when the thread that made it comes along.
                    hub.portal.call(int)
                    return ref() is None

                until(is_gone, 2)
        finally:
            gc.enable()


def asyncify(func: Callable[[], Any]) -> Callable[[], Any]:
    async def call() -> Any:
        await anyio.lowlevel.checkpoint()
        return func()

    return call


# -- beyond: from another event loop ---------------------------------------------------------------
#
# anyio's own tests of ``call_async`` are run on ours, too: see suite_of_anyio.py.


@pytest.fixture
def elsewhere(anyio_backend: Any) -> Iterator[dss.Hub[Any]]:
    """A hub in a thread of its own, for a test in an event loop."""
    backend, options = anyio_backend
    with dss.start_hub(backend=backend, backend_options=options) as hub:
        yield hub
        assert hub.blocked() == []


@pytest.mark.anyio
async def test_an_event_loop_calls_in_the_one_of_the_hub(elsewhere: dss.Hub[Any]) -> None:
    portal = elsewhere.portal
    variable.set("of the caller")
    for func in (threading.get_ident, asyncify(threading.get_ident)):
        assert await portal.call_async(func) == portal.call(threading.get_ident)
    assert await portal.call_async(add, 1, 2) == 3
    assert await portal.call_async(asyncify(variable.get)) == "of the caller"
    for failing in (fail, fail_at_once):
        with pytest.raises(Trouble, match="in the loop"):
            await portal.call_async(failing)
    with pytest.raises(TypeError, match="a function is needed, not 5"):
        await portal.call_async(5)  # type: ignore[arg-type]


@pytest.mark.anyio
async def test_the_hubs_own_tasks_may_call_like_this_too() -> None:
    async with dss.open_hub[Any]() as hub:
        assert await hub.portal.call_async(add, 1, 2) == 3
        assert await hub.portal.call_async(int, "5") == 5


@pytest.mark.anyio
async def test_what_is_called_off_before_its_turn_never_begins(elsewhere: dss.Hub[Any]) -> None:
    """Nor is it waited for: the loop that has to get to it may be busy for long."""
    busy, go_on = threading.Event(), threading.Event()
    called: list[int] = []

    def hold_up() -> None:
        busy.set()
        go_on.wait(10)

    elsewhere.portal.start_task_soon(hold_up)
    await eventually(busy.is_set)
    with anyio.CancelScope() as scope:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(elsewhere.portal.call_async, called.append, 1)
            await eventually(lambda: [each.call for each in elsewhere.blocked()][1:])
            scope.cancel()
    assert [each.call for each in elsewhere.blocked()] == ["start_task_soon"]
    go_on.set()
    assert await elsewhere.portal.call_async(int) == 0
    assert called == []


@pytest.mark.anyio
@pytest.mark.parametrize("native", [False, True])
async def test_a_cancelled_call_is_left_when_its_task_has_ended(
    native: bool, elsewhere: dss.Hub[Any], backend_name: str
) -> None:
    if native and backend_name != "asyncio":
        pytest.skip("trio has no second way to cancel")
    clean_up = threading.Event()
    sleeper = Sleeper()
    ended: list[str] = []

    async def work() -> None:
        try:
            await sleeper()
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.to_thread.run_sync(clean_up.wait, 10)
            ended.append("task")

    async def call() -> None:
        try:
            await elsewhere.portal.call_async(work)
        finally:
            ended.append("caller")

    if native:
        task = asyncio.get_running_loop().create_task(call())
        await eventually(sleeper.started.is_set)
        for _ in range(3):  # no shield of anyio's holds these back
            task.cancel()
            await asyncio.sleep(0)
        await eventually(sleeper.cancelled.is_set)
        assert ended == []
        clean_up.set()
        with pytest.raises(asyncio.CancelledError):
            await task
    else:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await eventually(sleeper.started.is_set)
            tasks.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await eventually(sleeper.cancelled.is_set)
                assert ended == []
                clean_up.set()
    assert ended == ["task", "caller"]


@pytest.mark.anyio
async def test_the_end_of_the_hub_releases_who_calls_from_another_loop(anyio_backend: Any) -> None:
    backend, options = anyio_backend
    with dss.start_hub(backend=backend, backend_options=options) as hub:
        sleeper = Sleeper()
        caught: list[type[BaseException]] = []

        async def call() -> None:
            try:
                await hub.portal.call_async(sleeper)
            except BrokenResourceError as exc:
                caught.append(type(exc))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            await eventually(sleeper.started.is_set)
            hub.portal.start_task_soon(hub.close)
    assert caught == [BrokenResourceError]
    with pytest.raises(BrokenResourceError):
        await hub.portal.call_async(int)


@pytest.mark.anyio
async def test_an_event_loop_calls_a_plain_function_in_a_thread_that_polls() -> None:
    with dss.open_polled_hub[Any]() as hub:
        results: list[int] = []

        async def call() -> None:
            results.append(await hub.portal.call_async(int, "5"))
            with pytest.raises(RuntimeError, match="has no event loop"):
                await hub.portal.call_async(add, 1, 2)
            results.append(6)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(call)
            while len(results) < 2:
                hub.poll()
                await anyio.lowlevel.checkpoint()
        assert results == [5, 6]
        with anyio.move_on_after(0.01):  # nobody polls: it is not waited for
            await hub.portal.call_async(results.append, 7)
        hub.poll()
        assert results == [5, 6]


def test_wherever_it_is_called_off_whoever_works_on_it_is_told_once() -> None:
    """Guards the look at ``_called_off`` in ``Question.watch``."""
    at = 0
    told = [0]
    while told:
        with dss.open_polled_hub[Any]() as hub:
            question = Question(hub.portal._lane, "call_async", lambda: None)
        told = []
        if not run_interrupted(
            lambda: question.watch(lambda: told.append(at)),  # noqa: B023
            question.call_off,
            at,
        ):
            assert told == []
            break
        assert told == [at]
        at += 1
    assert at > 10


# -- beyond: a polled hub --------------------------------------------------------------------------


def test_a_polled_hub_calls_a_plain_function_at_its_next_poll() -> None:
    """How a worker reaches a GUI's thread."""
    with dss.open_polled_hub[Any]() as hub:
        called: list[int] = []

        def work() -> None:
            called.append(hub.portal.call(threading.get_ident))

        with threads(work):
            assert hub.wait(10)
            assert called == []
            assert [each.call for each in hub.blocked()] == ["call"]
            assert hub.poll() == []
            until(lambda: called)
        assert called == [threading.get_ident()]
        future = hub.portal.start_task_soon(int, "5")
        assert not future.done()
        hub.poll()
        assert future.result(0) == 5
        assert hub.statistics().requests == (0, 0, 0, 0, 0, 0)
        assert hub.statistics().sent == 0


def readable(descriptor: int, timeout: float = 0.0) -> bool:
    return bool(select.select([descriptor], [], [], timeout)[0])


def test_a_call_wakes_a_wait_and_a_select() -> None:
    with dss.open_polled_hub[Any]() as hub:
        descriptor = hub.fileno()
        assert not readable(descriptor)
        outcome: list[Any] = []
        with threads(lambda: outcome.append(hub.portal.call(int, "5"))):
            assert readable(descriptor, 10)
            assert hub.wait(0)
            hub.poll()
            until(lambda: outcome)
        assert outcome == [5]
        assert not readable(descriptor)
        assert not hub.wait(0)


def test_a_call_that_was_there_before_the_descriptor_makes_it_readable() -> None:
    """Guards ``PolledHub._catch_up``."""
    with dss.open_polled_hub[Any]() as hub:
        future = hub.portal.start_task_soon(int)
        assert readable(hub.fileno(), 1)
        hub.poll()
        assert future.done()


def test_a_call_that_is_left_by_one_that_raises_makes_the_descriptor_readable() -> None:
    """Guards the order in ``poll``: Ctrl-C in one call must not cost the others their wake."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    with dss.open_polled_hub[Any]() as hub:
        descriptor = hub.fileno()
        futures = [hub.portal.start_task_soon(func) for func in (interrupt, int)]
        hub.portal.send("item")
        with pytest.raises(KeyboardInterrupt):
            hub.poll()
        assert isinstance(futures[0].exception(0), KeyboardInterrupt)
        assert readable(descriptor, 1)
        assert hub.poll() == ["item"]
        assert futures[1].result(0) == 0


def test_a_call_from_within_a_call_runs_at_the_next_poll() -> None:
    with dss.open_polled_hub[Any]() as hub:
        futures: list[Future[int]] = []
        first = hub.portal.start_task_soon(
            lambda: futures.append(hub.portal.start_task_soon(int, "5"))
        )
        descriptor = hub.fileno()
        hub.poll()
        assert first.done()
        assert not futures[0].done()
        assert readable(descriptor, 10)
        hub.poll()
        assert futures[0].result(0) == 5


def test_an_exception_of_a_call_is_the_callers_and_not_polls() -> None:
    with dss.open_polled_hub[Any]() as hub:
        futures = [hub.portal.start_task_soon(func) for func in (fail_at_once, int)]
        hub.portal.send("item")
        assert hub.poll() == ["item"]
        assert isinstance(futures[0].exception(0), Trouble)
        assert futures[1].result(0) == 0


def test_a_polled_hub_has_no_event_loop_for_a_coroutine_function() -> None:
    with dss.open_polled_hub[Any]() as hub:
        future = hub.portal.start_task_soon(add, 1, 2)
        hub.poll()
        gc.collect()  # a coroutine that was never awaited would warn
        with pytest.raises(RuntimeError, match=r"no event loop.*open_hub\(\) or start_hub\(\)"):
            future.result(0)
        outcome: list[Any] = []

        def work() -> None:
            for call in (
                lambda: hub.portal.start_task(add, 1, 2),
                lambda: hub.portal.wrap_async_context_manager(Managed()).__enter__(),
            ):
                with pytest.raises(RuntimeError, match="no event loop"):
                    call()
                outcome.append(True)

        with threads(work):
            pass
        assert outcome == [True, True]
        assert hub.blocked() == []


def test_a_call_in_the_thread_that_polls_fails_at_once() -> None:
    with dss.open_polled_hub[Any]() as hub:
        with pytest.raises(RuntimeError, match=r"call\(\) would block the very thread"):
            hub.portal.call(int)
        assert hub.blocked() == []
        assert hub.poll() == []


@pytest.mark.parametrize("way", ["closed", "aborted"])
def test_a_call_that_was_not_polled_is_released_at_the_end(way: str) -> None:
    hub = dss.open_polled_hub[Any]()
    called: list[Any] = []
    portal = hub.register("library")
    outcome: list[BaseException] = []

    def work() -> None:
        try:
            portal.call(called.append, 1)
        except (BrokenResourceError, ClosedResourceError) as exc:
            outcome.append(exc)

    with threads(work):
        until(lambda: hub.blocked())
        future = portal.start_task_soon(called.append, 2)
        hub.close() if way == "closed" else portal.abort()
    error = BrokenResourceError if way == "closed" else ClosedResourceError
    assert [type(each) for each in outcome] == [error]
    assert type(future.exception(0)) is error
    if way == "aborted":
        assert hub.poll() == []
    assert called == []
    assert hub.blocked() == []
    hub.close()


def test_a_call_sees_the_context_of_its_caller_in_a_polled_hub_too() -> None:
    with dss.open_polled_hub[Any]() as hub:
        variable.set("of the caller")
        future = hub.portal.start_task_soon(variable.get)
        variable.set("of poll")
        hub.poll()
        assert future.result(0) == "of the caller"


def test_calls_run_before_the_items_of_the_same_poll_are_returned() -> None:
    with dss.open_polled_hub[Any]() as hub:
        hub.portal.send("before")
        future = hub.portal.start_task_soon(hub.portal.send, "sent by the call")
        assert hub.poll() == ["before", "sent by the call"]
        assert future.done()


# -- beyond: a hub in a thread of its own ----------------------------------------------------------


@pytest.fixture(params=BACKENDS.values(), ids=BACKENDS)
def started(request: pytest.FixtureRequest) -> dict[str, Any]:
    backend, options = request.param
    return {"backend": backend, "backend_options": options}


def test_a_started_hub_serves_a_program_without_an_event_loop(started: dict[str, Any]) -> None:
    async def handler(item: int) -> int:
        await anyio.lowlevel.checkpoint()
        return 2 * item

    with dss.start_hub(16, name="mine", **started) as hub:
        assert hub.name == "mine"
        assert hub.statistics().max_buffer_size == 16
        assert any("mine" in thread.name for thread in threading.enumerate())
        serving = hub.portal.start_task_soon(hub.serve, handler)
        assert [hub.portal.request(number, timeout=10) for number in range(10)] == list(
            range(0, 20, 2)
        )
        assert hub.portal.call(add, 1, 2) == 3
        assert not serving.done()
    assert isinstance(serving.exception(10), BrokenResourceError)
    assert not any("mine" in thread.name for thread in threading.enumerate())
    with pytest.raises(BrokenResourceError):
        hub.portal.call(int)


def test_the_exception_of_its_body_leaves_it_as_it_is(started: dict[str, Any]) -> None:
    error = Trouble()
    sleeper = Sleeper()
    with pytest.raises(Trouble) as caught, dss.start_hub(**started) as hub:
        hub.portal.start_task_soon(sleeper)
        assert sleeper.started.wait(10)
        raise error
    assert caught.value is error
    assert sleeper.cancelled.is_set()


def crash(hub: dss.Hub[Any]) -> None:
    """Have a task of the hub's own fail; calls alone hand what they raise to their callers."""

    async def start() -> None:
        hub.task_group.start_soon(fail)

    hub.portal.start_task_soon(start)


def test_a_task_that_fails_ends_the_hub_and_is_seen_where_it_is_left(
    started: dict[str, Any],
) -> None:
    with pytest.raises(ExceptionGroup) as caught, dss.start_hub(**started) as hub:
        crash(hub)
        until(lambda: not hub.portal.offer(1))
        with pytest.raises(BrokenResourceError):
            hub.portal.call(int)
    assert [type(exc) for exc in caught.value.exceptions] == [Trouble]


def test_whoever_waits_when_a_task_fails_is_released(started: dict[str, Any]) -> None:
    sleeper = Sleeper()

    def work() -> None:
        with pytest.raises(BrokenResourceError):
            hub.portal.request("nobody receives")
        released.append(True)

    released: list[bool] = []
    with pytest.raises(ExceptionGroup), dss.start_hub(**started) as hub:
        with threads(work):
            until(hub.blocked)
            future = hub.portal.start_task_soon(sleeper)
            assert sleeper.started.wait(10)
            crash(hub)
        # The task may be cancelled before the hub begins to end.
        assert isinstance(future.exception(10), (BrokenResourceError, NoReplyError))
    assert released == [True]
    assert sleeper.cancelled.is_set()


def test_leaving_it_stops_its_sources(started: dict[str, Any]) -> None:
    cancelled: list[str] = []
    with dss.start_hub(**started) as hub:
        hub.register("library", stop=lambda: cancelled.append("library"))
        hub.portal.send("never received")
    assert cancelled == ["library"]
    assert hub.statistics().undelivered == 1

    def fail_to_stop() -> None:
        raise Trouble

    with pytest.raises(ExceptionGroup) as caught, dss.start_hub(**started) as hub:
        hub.register("library", stop=fail_to_stop)
    assert [type(exc) for exc in caught.value.exceptions] == [Trouble]


def test_its_portals_may_be_closed_before_it_is_left(started: dict[str, Any]) -> None:
    with dss.start_hub(**started) as hub:
        hub.portal.close()
    with dss.start_hub(**started) as hub:
        hub.close_senders()
    with dss.start_hub(**started) as hub:
        with pytest.raises(BrokenResourceError):  # it releases its own caller
            hub.portal.call(hub.close)


def test_a_started_hub_may_be_used_from_a_trio_or_asyncio_program(started: dict[str, Any]) -> None:
    async def main() -> int:
        result: int = await hub.portal.arequest(21)
        return result

    with dss.start_hub(**started) as hub:
        hub.portal.start_task_soon(hub.serve, lambda item: 2 * item)
        assert anyio.run(main) == anyio.run(main, backend="trio") == 42


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_buffer_size": -1}, ValueError),
        ({"overflow": "never"}, ValueError),
        ({"on_error": 5}, TypeError),
        ({"backend": "no such thing"}, LookupError),
    ],
)
def test_wrong_arguments_are_raised_where_it_is_started(
    options: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error), dss.start_hub(name="not started", **options):
        pytest.fail("it must not start")
    until(lambda: "dss_anyio: not started" not in [each.name for each in threading.enumerate()])


def test_a_started_hub_that_is_forgotten_does_not_keep_python_from_exiting() -> None:
    code = (
        "import dss_anyio as dss\n"
        "context = dss.start_hub()\n"
        "hub = context.__enter__()\n"
        "print(hub.portal.call(int))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=10,
        check=True,
        env=dict(os.environ),
    )
    assert done.stdout == "0\n"


def test_a_started_hub_is_entered_once() -> None:
    started = dss.start_hub()
    with started:
        pass
    with pytest.raises(RuntimeError, match="entered once only"):
        started.__enter__()


def test_who_is_struck_while_a_hub_is_being_started_leaves_no_thread_behind() -> None:
    inside, go_on, struck = threading.Event(), threading.Event(), threading.Event()

    def make_loop() -> asyncio.AbstractEventLoop:
        inside.set()
        go_on.wait(10)
        return asyncio.new_event_loop()

    started = dss.start_hub(backend_options={"loop_factory": make_loop}, name="struck")

    def start() -> None:
        try:
            started.__enter__()
        except Trouble:
            struck.set()

    with threads(start) as [thread]:
        assert inside.wait(10)
        assert thread.ident is not None
        strike(thread.ident, Trouble, struck)
        go_on.set()
    until(lambda: "dss_anyio: struck" not in [each.name for each in threading.enumerate()])
