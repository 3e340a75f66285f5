"""``start`` and ``stop`` that are coroutine functions: where they run, in which order, how long."""

from __future__ import annotations

import asyncio
import functools
import gc
import logging
import sys
import threading
from types import SimpleNamespace
from typing import Any

import anyio
import pytest

import dss_anyio as dss
from dss_anyio._core.functions import is_async
from dss_anyio._core.home import Home
from dss_anyio._ending import errand as _errand
from dss_anyio._ending.errand import Errand
from dss_anyio.testing import eventually, until

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup


class Library:
    """All the shapes that a coroutine function comes in."""

    def __init__(self, log: list[str]) -> None:
        self.log = log

    async def stop(self, how: str = "method") -> None:
        await anyio.sleep(0)
        assert threading.current_thread() is threading.main_thread()
        self.log.append(how)

    async def __call__(self) -> None:
        await self.stop("__call__")


def shapes(library: Library) -> dict[str, Any]:
    async def function() -> None:
        await library.stop("function")

    return {
        "function": function,
        "method": library.stop,
        "partial": functools.partial(library.stop, "partial"),
        "__call__": library,
        "partial of __call__": functools.partial(library),
    }


@pytest.mark.anyio
async def test_each_kind_of_coroutine_function_stops_its_source_in_order_with_plain_ones() -> None:
    log: list[str] = []
    library = Library(log)
    async with dss.open_hub() as hub:
        hub.register("plain, oldest", stop=lambda: log.append("plain, oldest"))
        for name, stop in shapes(library).items():
            hub.register(name, stop=stop)
        hub.register("lambda", stop=lambda: library.stop("lambda"))
        hub.register("plain, newest", stop=lambda: log.append("plain, newest"))
    assert log == [
        *("plain, newest", "lambda", "__call__", "__call__"),
        *("partial", "method", "function", "plain, oldest"),
    ]


@pytest.mark.parametrize("shape", shapes(Library([])))
def test_a_polled_hub_refuses_each_kind_of_coroutine_function_at_once(shape: str) -> None:
    stop = shapes(Library([]))[shape]
    assert is_async(stop)
    with dss.open_polled_hub() as hub:
        with pytest.raises(TypeError, match=r"stop must be a plain .*open_hub\(\) or start_hub"):
            hub.register("library", stop=stop)
        with pytest.raises(LookupError):
            hub.source("library")
        if shape != "partial":  # which leaves no argument for the utilid
            with pytest.raises(TypeError, match="stop must be a plain function"):
                hub.api("1.0").register("old binding", stop)


def test_a_polled_hub_says_so_if_a_plain_stop_returns_a_coroutine() -> None:
    """Nobody can see that before; and the coroutine is closed, or Python would warn of it."""
    library = Library([])
    with pytest.raises(ExceptionGroup) as caught, dss.open_polled_hub() as hub:
        hub.register("library", stop=lambda: library.stop())
    (exc,) = caught.value.exceptions
    assert isinstance(exc, TypeError) and "'library'" in str(exc) and "open_hub()" in str(exc)


def test_what_is_no_coroutine_function_is_none() -> None:
    for func in (print, functools.partial(print), threading.Event().set, Library, lambda: None):
        assert not is_async(func)
    assert not is_async(None)


@pytest.mark.anyio
async def test_coroutine_start_and_stop_run_in_the_loop_although_all_is_cancelled() -> None:
    log: list[Any] = []
    main = threading.current_thread()

    async def start(portal: dss.Portal[Any]) -> str:
        await anyio.sleep(0)
        log.append(threading.current_thread() is main)
        return "library"

    async def stop(library: str) -> None:
        for _ in range(3):
            await anyio.sleep(0)
        log.append((library, threading.current_thread() is main))

    with anyio.CancelScope() as scope:
        async with dss.open_hub() as hub, hub.open_source("library", start, stop) as source:
            assert source.value == "library"
            scope.cancel()
            await anyio.sleep_forever()
    assert log == [True, ("library", True)]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_native_cancellation_does_not_reach_a_coroutine_stop(loop: str) -> None:
    log: list[str] = []

    async def main() -> None:
        stopping = asyncio.Event()

        async def stop(_: object) -> None:
            stopping.set()
            for _ in range(5):
                await asyncio.sleep(0)
            log.append("stopped")

        async def body() -> None:
            async with dss.open_hub() as hub, hub.open_source("library", lambda _: None, stop):
                pass

        task = asyncio.ensure_future(body())
        await stopping.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    anyio.run(main, backend_options={"use_uvloop": loop == "uvloop"})
    assert log == ["stopped"]


@pytest.mark.anyio
async def test_a_coroutine_stop_sees_the_context_of_the_block() -> None:
    import contextvars

    who = contextvars.ContextVar[str]("who")
    seen: list[str] = []

    async def stop(_: object = None) -> None:
        seen.append(who.get())

    who.set("block")
    async with dss.open_hub() as hub:
        hub.register("registered", stop=stop)
        async with hub.open_source("opened", lambda _: None, stop):
            pass
    assert seen == ["block", "block"]


@pytest.mark.anyio
async def test_a_coroutine_that_takes_too_long_is_cancelled_and_reported() -> None:
    ended: list[str] = []

    async def stop(_: object = None) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.append("cleaned up")

    with pytest.raises(ExceptionGroup) as caught:
        async with dss.open_hub() as hub:
            hub.register("registered", stop=stop, stop_timeout=0.01)
    (exc,) = caught.value.exceptions
    assert isinstance(exc, TimeoutError)
    assert "'registered'" in str(exc) and "it was cancelled" in str(exc)
    with pytest.raises(ExceptionGroup) as caught:
        async with dss.open_hub() as hub:
            async with hub.open_source("opened", lambda _: None, stop, stop_timeout=0.01):
                pass
    (exc,) = caught.value.exceptions
    assert isinstance(exc, TimeoutError) and "'opened'" in str(exc)
    assert ended == ["cleaned up"] * 2


@pytest.mark.anyio
async def test_a_coroutine_that_cannot_be_cancelled_does_not_keep_the_hub(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_errand, "GRACE", 0.01)
    may_end = anyio.Event()
    ended: list[bool] = []

    async def stop() -> None:
        with anyio.CancelScope(shield=True):
            await may_end.wait()
        ended.append(True)

    with pytest.raises(ExceptionGroup) as caught:
        async with dss.open_hub() as hub:
            hub.register("library", stop=stop, stop_timeout=0.01)
    (exc,) = caught.value.exceptions
    assert isinstance(exc, TimeoutError) and "but goes on" in str(exc)
    may_end.set()
    await eventually(lambda: bool(ended))


@pytest.mark.anyio
async def test_a_coroutine_start_that_does_not_end_is_cancelled_after_its_time() -> None:
    begun, ended = anyio.Event(), anyio.Event()

    async def start(_: object) -> None:
        try:
            begun.set()
            await anyio.sleep_forever()
        finally:
            ended.set()

    async def opened() -> None:
        async with hub.open_source("library", start, print, stop_timeout=0.01):
            raise AssertionError("it was opened")

    async with dss.open_hub() as hub:
        errors: list[BaseException] = []

        async def run() -> None:
            try:
                await opened()
            except ExceptionGroup as group:
                errors.extend(group.exceptions)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(run)
            await begun.wait()
            tasks.cancel_scope.cancel()
        assert ended.is_set()
    (exc,) = errors
    assert isinstance(exc, TimeoutError)
    assert "starting source 'library'" in str(exc) and "it was cancelled" in str(exc)


@pytest.mark.anyio
async def test_what_a_coroutine_start_or_stop_raises_is_raised() -> None:
    async def fail(*_: object) -> None:
        raise LookupError("oops")

    with pytest.raises(LookupError):
        async with dss.open_hub() as hub, hub.open_source("library", fail, print):
            pass
    with pytest.raises(ExceptionGroup) as caught:
        async with dss.open_hub() as hub:
            hub.register("library", stop=fail)
    assert [type(exc) for exc in caught.value.exceptions] == [LookupError]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_stop_that_cancels_itself_is_reported_and_ends_nothing(loop: str) -> None:
    """A task that it has cancelled, and awaits, raises CancelledError in it."""

    async def stop() -> None:
        task = asyncio.ensure_future(asyncio.Event().wait())
        task.cancel()
        await task

    log: list[str] = []

    async def main() -> None:
        async with dss.open_hub() as hub:
            hub.register("older", stop=lambda: log.append("older"))
            hub.register("library", stop=stop)

    with pytest.raises(ExceptionGroup) as caught:
        anyio.run(main, backend_options={"use_uvloop": loop == "uvloop"})
    (exc,) = caught.value.exceptions
    assert (
        isinstance(exc, RuntimeError)
        and "'library' in " in str(exc)
        and " was cancelled" in str(exc)
    )
    assert log == ["older"]


@pytest.mark.leaves_something
@pytest.mark.parametrize("closed", [True, False])
def test_where_the_loop_is_gone_a_coroutine_stop_is_reported_and_a_plain_one_called(
    closed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    stopped = threading.Event()
    called: list[str] = []

    async def stop() -> None:
        called.append("coroutine")

    async def leave() -> None:
        nonlocal hub
        hub = dss.open_hub()
        await hub.__aenter__()
        hub.register("older", stop=stopped.set)
        hub.register("library", stop=stop, stop_timeout=0.05)

    hub: Any = None
    loop = asyncio.new_event_loop()
    with caplog.at_level(logging.ERROR, "dss_anyio"):
        loop.run_until_complete(leave())
        hub._left_open = False  # nobody warns of it
        if closed:
            loop.close()
        else:
            del hub  # forgotten, in a loop that does not run and is not closed
            gc.collect()
        assert stopped.wait(10)
        until(lambda: "stop of source 'library'" in caplog.text)
    loop.close()
    assert not called


def test_an_errand_that_was_called_off_is_never_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop comes to it after the time limit: line ``self._turn.decide("begun")``."""
    monkeypatch.setattr(_errand, "GRACE", 0.01)
    calls: list[Any] = []
    begun: list[Any] = []
    home = Home()
    home.call_soon = calls.append
    home.way_in = SimpleNamespace(start_alone=lambda *args: begun.append(args))  # type: ignore[assignment]

    async def stop() -> None:
        raise AssertionError("it was begun")

    with pytest.raises(RuntimeError, match=r"stop of x .* has not come to it"):
        Errand(home, None, "stop of x").run(stop(), 0.01)
    calls[0]()
    assert not begun


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_hub_in_a_thread_stops_with_coroutines_too(backend: str) -> None:
    log: list[str] = []

    async def stop() -> None:
        await anyio.sleep(0)
        log.append("stopped")

    with dss.start_hub(backend=backend) as hub:
        hub.register("library", stop=stop)
    assert log == ["stopped"]
