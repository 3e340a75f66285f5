"""What a called function or a handler lets escape, if it is no ``Exception``.

Another task's cancellation; what a panic in Rust, ``pytest.fail`` and ``pytest.skip`` raise.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import anyio.abc
import pytest
from conftest import asyncio_only

import dss_anyio as dss
from dss_anyio.testing import eventually

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

pytestmark = pytest.mark.anyio


class Panic(BaseException):
    """As PyO3's PanicException, which nobody should catch by accident."""


async def awaits_a_cancelled_task(*_: object) -> None:
    task = asyncio.ensure_future(asyncio.sleep(9))
    await asyncio.sleep(0)
    task.cancel()
    await task


def raises_a_cancellation(*_: object) -> None:
    raise asyncio.CancelledError


async def with_status(
    *, task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED
) -> None:
    task_status.started()
    await awaits_a_cancelled_task()


@asynccontextmanager
async def enters_badly() -> Any:
    await awaits_a_cancelled_task()
    yield


@asynccontextmanager
async def leaves_badly() -> Any:
    yield
    await awaits_a_cancelled_task()


def wrapped(portal: dss.Portal[Any], cm: AbstractAsyncContextManager[None]) -> None:
    with portal.wrap_async_context_manager(cm):
        pass


def started(portal: dss.Portal[Any]) -> None:
    future, _ = portal.start_task(with_status)
    future.result(10)


CALLS: dict[str, Callable[[dss.Portal[Any]], object]] = {
    "call": lambda portal: portal.call(awaits_a_cancelled_task),
    "call, a plain function": lambda portal: portal.call(raises_a_cancellation),
    "start_task_soon": lambda portal: portal.start_task_soon(awaits_a_cancelled_task).result(10),
    "start_task, before it has started": lambda portal: portal.start_task(
        lambda task_status: awaits_a_cancelled_task()  # noqa: ARG005
    ),
    "start_task, later": started,
    "wrap_async_context_manager, entering": lambda portal: wrapped(portal, enters_badly()),
    "wrap_async_context_manager, leaving": lambda portal: wrapped(portal, leaves_badly()),
}


@asyncio_only
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
async def test_a_call_that_awaits_a_cancelled_task_fails_alone(
    call: Callable[[dss.Portal[Any]], object],
) -> None:
    def fails() -> None:
        with pytest.raises(dss.NoReplyError):
            call(hub.portal)

    async with dss.open_hub() as hub:
        other: Future[str] = hub.portal.start_task_soon(slow)
        await anyio.to_thread.run_sync(fails)
        go.get(asyncio.get_running_loop()).set()
        assert await asyncio.wrap_future(other) == "done"


class Go(dict[Any, anyio.Event]):
    def get(self, loop: Any) -> anyio.Event:  # type: ignore[override]
        return self.setdefault(loop, anyio.Event())


go = Go()


async def slow() -> str:
    await go.get(asyncio.get_running_loop()).wait()
    return "done"


@asyncio_only
@pytest.mark.parametrize("bad", [awaits_a_cancelled_task, raises_a_cancellation])
@pytest.mark.parametrize("asks", [True, False], ids=["a request", "an item"])
async def test_a_handler_that_awaits_a_cancelled_task_fails_alone(
    bad: Callable[..., Any], asks: bool
) -> None:
    told: list[BaseException] = []
    go_on = anyio.Event()

    async def good() -> str:
        await go_on.wait()
        return "good"

    async with dss.open_hub(on_error=lambda exc, _: told.append(exc)) as hub:
        hub.task_group.start_soon(
            hub.serve, lambda item: bad() if item == "bad" else good(), name="serve"
        )
        answer = hub.portal.request_soon("good")
        if asks:
            with pytest.raises(dss.NoReplyError):
                await asyncio.wrap_future(hub.portal.request_soon("bad"))
        else:
            await hub.portal.asend("bad")
            await eventually(lambda: told)
            assert isinstance(told.pop().__cause__, asyncio.CancelledError)
        go_on.set()
        assert await asyncio.wrap_future(answer) == "good"
    assert not told


@asyncio_only
async def test_with_raise_errors_a_handler_that_was_cancelled_elsewhere_is_an_error() -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        async with dss.open_hub() as hub:
            await hub.portal.asend(1)
            await hub.serve(awaits_a_cancelled_task, raise_errors=True)
    assert "was cancelled" in str(caught.value.exceptions[0])


# -- what is no Exception --------------------------------------------------------------------------


def panics(*_: object) -> None:
    raise Panic("index out of bounds")


async def panics_in_a_task(*_: object) -> None:
    await anyio.sleep(0)
    panics()


@pytest.mark.parametrize("raiser", [panics, panics_in_a_task])
@pytest.mark.parametrize("outcome", [Panic("1"), pytest.fail.Exception("2")], ids=["panic", "fail"])
async def test_the_caller_gets_what_is_no_exception_and_the_hub_goes_on(
    raiser: Callable[..., Any], outcome: BaseException
) -> None:
    def raises() -> None:
        raise outcome

    async def raises_in_a_task() -> None:
        await anyio.sleep(0)
        raise outcome

    def calls() -> None:
        for each in (raises, raises_in_a_task):
            with pytest.raises(type(outcome)) as caught:
                hub.portal.call(each)
            assert caught.value is outcome
            with pytest.raises(type(outcome)):
                hub.portal.start_task_soon(each).result(10)
        with pytest.raises(Panic):
            hub.portal.request(1)
        assert hub.portal.call(len, "three") == 5

    async with dss.open_hub() as hub:
        hub.task_group.start_soon(hub.serve, raiser)
        await anyio.to_thread.run_sync(calls)


async def test_on_error_is_told_of_a_panic_whose_caller_has_gone() -> None:
    told: list[BaseException] = []
    begun, go_on = anyio.Event(), anyio.Event()

    async def panics_when_cancelled() -> None:
        begun.set()
        try:
            await go_on.wait()
        finally:
            panics()

    async with dss.open_hub(on_error=lambda exc, _: told.append(exc)) as hub:
        future = hub.portal.start_task_soon(panics_when_cancelled)
        await begun.wait()
        future.cancel()
    assert [type(exc) for exc in told] == [Panic]


async def test_what_cancels_tasks_stays_in_its_loop_also_in_a_group() -> None:
    async def raises(*others: BaseException) -> None:
        raise BaseExceptionGroup("both", [asyncio.CancelledError(), *others])

    def calls() -> None:
        with pytest.raises(dss.NoReplyError):
            hub.portal.call(raises)
        with pytest.raises(BaseExceptionGroup) as caught:
            hub.portal.call(raises, ValueError())
        assert [type(exc) for exc in caught.value.exceptions] == [ValueError]

    async with dss.open_hub() as hub:
        await anyio.to_thread.run_sync(calls)


def test_a_polled_hub_gives_its_caller_what_is_no_exception() -> None:
    with dss.open_polled_hub() as hub:
        future = hub.portal.start_task_soon(panics)
        hub.poll()
        with pytest.raises(Panic):
            future.result(0)
