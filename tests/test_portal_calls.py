"""Calls into the hub's thread: what anyio's ``BlockingPortal`` does, and what ours does as well."""

from __future__ import annotations

import concurrent.futures
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import pytest
from conftest import BACKENDS, threads, until
from test_receiver import eventually

import dss_anyio as dss

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

number = ContextVar("number", default=0)


class OopsError(Exception):
    pass


@contextmanager
def anyios_portal(backend: str) -> Iterator[Any]:
    name, options = BACKENDS[backend]
    with anyio.from_thread.start_blocking_portal(name, options) as portal:
        yield portal


@contextmanager
def our_portal(backend: str) -> Iterator[Any]:
    name, options = BACKENDS[backend]
    with dss.start_hub(backend=name, backend_options=options) as hub:
        yield hub.portal


# -- Whoever has code for anyio's can use ours -----------------------------------------------------


@pytest.fixture(params=[anyios_portal, our_portal], ids=["anyio", "dss_anyio"])
def portal(request: pytest.FixtureRequest, backend: str) -> Iterator[Any]:
    with request.param(backend) as opened:
        yield opened


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def add(*numbers: int) -> int:
    await anyio.lowlevel.checkpoint()
    return sum(numbers)


def add_plainly(*numbers: int) -> int:
    return sum(numbers)


async def fail() -> None:
    raise OopsError


def fail_plainly() -> None:
    raise OopsError


def test_a_function_is_called_in_the_loops_thread(portal: Any) -> None:
    assert portal.call(add, 1, 2) == 3
    assert portal.call(add_plainly, 1, 2) == 3
    assert portal.call(threading.get_ident) != threading.get_ident()
    assert portal.start_task_soon(add, 1, 2).result(10) == 3
    assert portal.start_task_soon(add_plainly, 1, 2, name="a name").result(10) == 3


@pytest.mark.parametrize("func", [fail, fail_plainly])
def test_what_it_raises_is_raised_where_it_was_called_and_the_loop_goes_on(
    portal: Any, func: Any
) -> None:
    with pytest.raises(OopsError):
        portal.call(func)
    with pytest.raises(OopsError):
        portal.start_task_soon(func).result(10)
    with pytest.raises(OopsError):
        portal.start_task(lambda task_status: fail())
    assert portal.call(add, 1) == 1


def test_it_sees_the_context_of_its_caller(portal: Any) -> None:
    async def get() -> int:
        return number.get()

    token = number.set(7)
    assert portal.call(number.get) == 7
    assert portal.call(get) == 7
    number.reset(token)


def test_a_task_is_cancelled_with_its_future(portal: Any) -> None:
    started, cancelled = threading.Event(), threading.Event()

    async def sleep() -> None:
        try:
            started.set()
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    future = portal.start_task_soon(sleep)
    assert started.wait(10)
    assert future.cancel()
    assert cancelled.wait(10)
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(10)
    assert portal.call(add, 1) == 1


def test_a_task_says_when_it_has_started(portal: Any) -> None:
    go_on = threading.Event()

    async def serve(first: int, *, task_status: Any) -> str:
        task_status.started(first)
        while not go_on.is_set():
            await anyio.sleep(0.001)
        return "result"

    future, value = portal.start_task(serve, 5, name="a name")
    assert value == 5
    assert not future.done()
    go_on.set()
    assert future.result(10) == "result"


def test_a_task_that_ends_before_it_has_started_is_an_error(portal: Any) -> None:
    async def serve(*, task_status: Any) -> None:
        pass

    with pytest.raises(RuntimeError, match="without"):
        portal.start_task(serve)


def test_an_async_context_manager_is_used_by_a_thread(portal: Any) -> None:
    log: list[str] = []

    @asynccontextmanager
    async def open_it() -> AsyncIterator[str]:
        task = anyio.get_current_task().id
        log.append("entered")
        try:
            yield "value"
        except OopsError:
            log.append("saw the error")
        finally:
            log.append("left")
            assert anyio.get_current_task().id == task

    with portal.wrap_async_context_manager(open_it()) as value:
        assert value == "value"
        assert log == ["entered"]
    assert log == ["entered", "left"]
    with portal.wrap_async_context_manager(open_it()):
        raise OopsError
    assert log[2:] == ["entered", "saw the error", "left"]


def test_an_async_context_manager_may_fail_at_both_ends(portal: Any) -> None:
    @asynccontextmanager
    async def open_it(when: str) -> AsyncIterator[None]:
        if when == "enter":
            raise OopsError
        yield
        raise OopsError

    with pytest.raises(OopsError), portal.wrap_async_context_manager(open_it("enter")):
        pytest.fail("the block was run")
    with pytest.raises(OopsError), portal.wrap_async_context_manager(open_it("leave")):
        pass


def test_the_loops_own_thread_cannot_wait_for_itself(portal: Any) -> None:
    def call() -> None:
        portal.call(add, 1)

    with pytest.raises(RuntimeError):
        portal.call(call)


# -- What ours does --------------------------------------------------------------------------------


def test_whoever_waits_for_a_call_is_released_by_the_end_of_the_hub(backend: str) -> None:
    name, options = BACKENDS[backend]
    outcomes: list[str] = []
    cleaned_up = threading.Event()

    async def sleep(*, task_status: Any = anyio.TASK_STATUS_IGNORED) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cleaned_up.set()

    with dss.start_hub(backend=name, backend_options=options) as hub:
        futures = [hub.portal.start_task_soon(sleep)]

        def wait_for(func: Callable[[], object]) -> None:
            with pytest.raises(anyio.BrokenResourceError):
                func()
            outcomes.append("released")

        jobs = [
            threading.Thread(target=wait_for, args=(func,), daemon=True)
            for func in (
                lambda: hub.portal.call(sleep),
                lambda: hub.portal.start_task(sleep),
                futures[0].result,
            )
        ]
        for job in jobs:
            job.start()
        until(lambda: len(hub.blocked()) == 4)  # start_task waits for two things
        assert {each.call for each in hub.blocked()} == {"call", "start_task", "start_task_soon"}
    for job in jobs:
        job.join(10)
    assert outcomes == ["released"] * 3
    assert cleaned_up.wait(10)
    for call in (
        lambda: hub.portal.call(add, 1),
        lambda: hub.portal.start_task_soon(add, 1),
        lambda: hub.portal.start_task(sleep),
    ):
        with pytest.raises(anyio.BrokenResourceError):
            call()
    assert hub.blocked() == []


def test_a_call_does_not_pass_through_the_queue(backend: str) -> None:
    name, options = BACKENDS[backend]
    with dss.start_hub(1, backend=name, backend_options=options) as hub:
        hub.portal.send("item")  # nobody receives
        assert hub.portal.call(add, 1, 2) == 3
        assert len(hub) == 1
        assert hub.statistics().sent == 1
        assert hub.portal.call(hub.receive_nowait) == "item"


def test_a_task_that_exits_python_takes_the_hub_with_it(backend: str) -> None:
    async def leave() -> None:
        raise SystemExit(3)

    name, options = BACKENDS[backend]
    with pytest.raises(BaseException) as caught:  # noqa: PT012
        with dss.start_hub(backend=name, backend_options=options) as hub:
            with pytest.raises((SystemExit, anyio.BrokenResourceError)):
                hub.portal.call(leave)
            until(lambda: "ended" in repr(hub))
    assert "SystemExit" in repr(caught.value)


def test_an_exception_in_the_block_of_a_started_hub_is_raised_and_the_hub_ends(
    backend: str,
) -> None:
    name, options = BACKENDS[backend]
    stopped: list[str] = []
    with pytest.raises(OopsError):  # noqa: PT012
        with dss.start_hub(backend=name, backend_options=options) as hub:
            hub.register("library", cancel=lambda: stopped.append("library"))
            raise OopsError
    assert stopped == ["library"]
    assert not hub.portal.offer(1)


def test_a_started_hub_ends_also_if_its_portal_was_closed() -> None:
    with dss.start_hub() as hub:
        hub.portal.close()
        hub.close_senders()


def test_an_error_at_the_end_of_a_started_hub_is_raised() -> None:
    def cancel() -> None:
        raise OopsError

    with pytest.raises(ExceptionGroup, match="errors at the end of sensors"):  # noqa: PT012
        with dss.start_hub(name="sensors") as hub:
            hub.register("library", cancel=cancel)


def test_a_hub_that_cannot_be_started_says_why() -> None:
    with pytest.raises(LookupError), dss.start_hub(backend="no such thing"):
        pytest.fail("the block was run")
    with pytest.raises(ValueError, match="negative"), dss.start_hub(-1):
        pytest.fail("the block was run")


@pytest.mark.anyio
async def test_a_call_that_is_given_up_before_it_has_begun_never_begins() -> None:
    called: list[None] = []
    async with dss.open_hub[Any]() as hub:
        future = hub.portal.start_task_soon(called.append, None)
        assert future.cancel()
        await anyio.wait_all_tasks_blocked()
        again = hub.portal.start_task_soon(called.append, None)
        await eventually(again.done)
        assert called == [None]


@pytest.mark.anyio
async def test_in_the_hubs_own_thread_a_call_is_refused_and_a_task_is_started() -> None:
    async with dss.open_hub[Any]() as hub:
        for call in (hub.portal.call, hub.portal.start_task):
            with pytest.raises(RuntimeError, match="block the very thread"):
                call(add, 1)
        future = hub.portal.start_task_soon(add, 1, 2)
        await eventually(future.done)
        assert future.result() == 3


def test_a_hub_that_was_not_opened_says_so() -> None:
    hub = dss.open_hub[Any]()
    with pytest.raises(RuntimeError, match="not open"):
        hub.portal.call(add, 1)
    with pytest.raises(RuntimeError, match="not open"):
        hub.portal.start_task(add)
    with pytest.raises(TypeError, match="a function is needed"):
        hub.portal.call(1)
    assert hub.blocked() == []


# -- A polled hub ----------------------------------------------------------------------------------


def test_a_polled_hub_calls_in_the_thread_that_polls() -> None:
    with dss.open_polled_hub[Any]() as hub:
        idents: list[object] = []
        with threads(lambda: idents.append(hub.portal.call(threading.get_ident))):
            assert hub.wait(10)
            assert hub.poll() == []
        assert idents == [threading.get_ident()]
        assert hub.blocked() == []


def test_a_polled_hub_is_woken_for_a_call_as_for_an_item() -> None:
    import select

    with dss.open_polled_hub[Any]() as hub:
        hub.fileno()
        future = hub.portal.start_task_soon(add_plainly, 1, 2)
        assert select.select([hub.fileno()], [], [], 10)[0]
        hub.poll()
        assert future.result(0) == 3
        assert not select.select([hub.fileno()], [], [], 0)[0]


def test_a_polled_hub_says_that_it_has_no_event_loop() -> None:
    with dss.open_polled_hub[Any]() as hub:
        future = hub.portal.start_task_soon(add, 1)
        hub.poll()
        with pytest.raises(RuntimeError, match="no event loop"):
            future.result(0)
        with pytest.raises(RuntimeError, match="no event loop"):
            hub.portal.start_task(add)


def test_what_a_call_in_a_poll_raises_is_its_callers_and_ctrl_c_the_polling_threads_too() -> None:
    def press() -> None:
        raise KeyboardInterrupt

    with dss.open_polled_hub[Any]() as hub:
        failed, pressed = (hub.portal.start_task_soon(func) for func in (fail_plainly, press))
        with pytest.raises(KeyboardInterrupt):
            hub.poll()
        assert isinstance(failed.exception(0), OopsError)
        assert isinstance(pressed.exception(0), KeyboardInterrupt)


def test_the_end_of_a_polled_hub_releases_who_waits_for_a_call() -> None:
    outcomes: list[str] = []

    def call() -> None:
        with pytest.raises(anyio.BrokenResourceError):
            hub.portal.call(outcomes.append, "called")
        outcomes.append("released")

    hub = dss.open_polled_hub[Any]()
    with threads(call):
        until(hub.blocked)
        hub.close()
    assert outcomes == ["released"]
