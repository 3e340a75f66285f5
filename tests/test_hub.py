"""The hub in an event loop: opening, receiving, sources, and the order of its end."""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.abc
import pytest
from conftest import threads, until

import dss_anyio as dss

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

pytestmark = pytest.mark.anyio


# -- opening ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_buffer_size": -1}, ValueError, "must not be negative"),
        ({"max_buffer_size": 1.5}, ValueError, "integer or math.inf"),
        ({"max_buffer_size": True}, ValueError, "integer or math.inf"),
        ({"max_buffer_size": "10"}, ValueError, "integer or math.inf"),
        ({"max_buffer_size": 10**9}, ValueError, "math.inf sets no limit"),
        ({"overflow": "drop"}, ValueError, "'block', 'drop_oldest', 'drop_newest'"),
        ({"name": 1}, TypeError, "name must be a string"),
        ({"on_error": 1}, TypeError, "on_error must be callable"),
    ],
)
@pytest.mark.parametrize("opener", [dss.open_hub, dss.open_polled_hub])
def test_bad_arguments_are_refused_at_once(
    opener: Any, arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        opener(**arguments)


async def test_a_hub_is_an_anyio_object_receive_stream() -> None:
    async with dss.open_hub() as hub:
        assert isinstance(hub, anyio.abc.ObjectReceiveStream)
        assert hub.statistics()[:6] == (0, 1024, 1, 1, 0, 0)


async def test_a_hub_can_be_opened_once() -> None:
    hub = dss.open_hub[int]()
    with pytest.raises(RuntimeError, match="not open"):
        await hub.receive()
    with pytest.raises(RuntimeError, match="not open"):
        _ = hub.task_group
    async with hub:
        with pytest.raises(RuntimeError, match="once only"):
            await hub.__aenter__()


# -- receiving, as anyio's memory object streams ---------------------------------------------------


class Ours:
    def __init__(self, size: float) -> None:
        self.hub = dss.open_hub[Any](size)
        self.receiver: Any = self.hub
        self.sender: Any = self.hub.portal
        self.asend = self.hub.portal.asend

    async def __aenter__(self) -> Any:
        await self.hub.__aenter__()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.hub.__aexit__(*exc)


class Anyios:
    def __init__(self, size: float) -> None:
        self.sender, self.receiver = anyio.create_memory_object_stream[Any](size)
        self.asend = self.sender.send

    async def __aenter__(self) -> Any:
        return self

    async def __aexit__(self, *exc: object) -> None:
        self.sender.close()
        self.receiver.close()


@pytest.fixture(params=[Ours, Anyios])
def stream(request: pytest.FixtureRequest) -> Any:
    return request.param


async def test_full_and_empty_are_would_block(stream: Any) -> None:
    async with stream(1) as it:
        with pytest.raises(anyio.WouldBlock):
            it.receiver.receive_nowait()
        it.sender.send_nowait(1)
        with pytest.raises(anyio.WouldBlock):
            it.sender.send_nowait(2)
        assert it.receiver.receive_nowait() == 1


async def test_after_the_last_sender_has_closed_the_rest_is_received_and_then_the_end(
    stream: Any,
) -> None:
    async with stream(10) as it:
        clone = it.sender.clone()
        it.sender.send_nowait(1)
        it.sender.close()
        it.sender.close()
        with pytest.raises(anyio.ClosedResourceError):
            it.sender.send_nowait(0)
        with pytest.raises(anyio.ClosedResourceError):
            it.sender.clone()
        clone.send_nowait(2)
        clone.close()
        assert await it.receiver.receive() == 1
        assert [item async for item in it.receiver] == [2]
        for _ in range(2):
            with pytest.raises(anyio.EndOfStream):
                await it.receiver.receive()


async def test_a_waiting_receiver_gets_the_end(stream: Any) -> None:
    async with stream(1) as it, anyio.create_task_group() as tasks:

        async def close() -> None:
            await anyio.wait_all_tasks_blocked()
            it.sender.close()

        tasks.start_soon(close)
        with pytest.raises(anyio.EndOfStream):
            await it.receiver.receive()


async def test_after_the_last_receiver_has_closed_senders_get_broken(stream: Any) -> None:
    async with stream(1) as it, anyio.create_task_group() as tasks:
        clone = it.receiver.clone()
        it.receiver.close()
        with pytest.raises(anyio.ClosedResourceError):
            it.receiver.receive_nowait()
        with pytest.raises(anyio.ClosedResourceError):
            it.receiver.clone()
        it.sender.send_nowait(1)

        async def close() -> None:
            await anyio.wait_all_tasks_blocked()
            clone.close()

        tasks.start_soon(close)
        with pytest.raises(anyio.BrokenResourceError):
            await it.asend(2)
        with pytest.raises(anyio.BrokenResourceError):
            it.sender.send_nowait(3)


async def test_closing_an_end_ends_the_wait_in_it(stream: Any) -> None:
    async with stream(1) as it, anyio.create_task_group() as tasks:
        other = it.receiver.clone()
        sender = it.sender.clone()

        async def close(end: Any) -> None:
            await anyio.wait_all_tasks_blocked()
            end.close()

        tasks.start_soon(close, other)
        with pytest.raises(anyio.ClosedResourceError):
            await other.receive()
        it.sender.send_nowait(1)
        tasks.start_soon(close, sender)
        with pytest.raises(anyio.ClosedResourceError):
            await sender.send(2) if isinstance(it, Anyios) else await sender.asend(2)


async def test_with_size_0_an_item_needs_a_receiver_that_waits(stream: Any) -> None:
    async with stream(0) as it, anyio.create_task_group() as tasks:
        with pytest.raises(anyio.WouldBlock):
            it.sender.send_nowait(0)

        async def send() -> None:
            await anyio.wait_all_tasks_blocked()
            it.sender.send_nowait(1)
            with pytest.raises(anyio.WouldBlock):
                it.sender.send_nowait(2)
            await it.asend(3)

        tasks.start_soon(send)
        assert await it.receiver.receive() == 1
        await anyio.wait_all_tasks_blocked()
        assert it.receiver.receive_nowait() == 3  # of a sender that waits
        with pytest.raises(anyio.WouldBlock):
            it.sender.send_nowait(4)


async def test_a_forgotten_end_is_loud(stream: Any) -> None:
    async with stream(1) as it:
        for end in ("sender", "receiver"):
            clone = [getattr(it, end).clone()]
            with pytest.warns(ResourceWarning, match="Unclosed"):
                clone.clear()


async def test_receive_many_returns_what_is_there_and_at_least_one() -> None:
    async with dss.open_hub[int]() as hub:
        hub.portal.send_many(range(5))
        assert await hub.receive_many(2) == [0, 1]
        assert await hub.receive_many() == [2, 3, 4]
        with threads(lambda: hub.portal.send(5)):
            assert await hub.receive_many() == [5]
        for bad in (0, -1):
            with pytest.raises(ValueError, match="at least 1"):
                await hub.receive_many(bad)
        with pytest.raises(TypeError):
            await hub.receive_many(1.0)  # type: ignore[arg-type]


async def test_what_cannot_be_decoded_is_not_the_end_of_the_stream() -> None:
    async with dss.open_hub[int](on_error=lambda *_: None) as hub:
        source = hub.register("numbers", decode=int)
        source.send_many(["x", "1", "y", "2"])
        hub.close_senders()
        assert await hub.receive_many(1) == [1]
        assert await hub.receive_many(1) == [2]
        with pytest.raises(anyio.EndOfStream):
            await hub.receive_many(1)


async def test_iterating_lets_other_tasks_run_and_can_be_cancelled_every_128_items() -> None:
    async with dss.open_hub[int](math.inf) as hub:
        hub.portal.send_many(range(10_000))
        other_ran_at: list[int] = []
        received = 0

        async def other() -> None:
            while True:
                other_ran_at.append(received)
                await anyio.lowlevel.checkpoint()

        hub.task_group.start_soon(other)
        with anyio.CancelScope() as scope:
            async for _ in hub:
                received += 1
                if received == 5_000:
                    scope.cancel()
        assert 5_000 <= received <= 5_128
        gaps = [b - a for a, b in zip(other_ran_at, other_ran_at[1:], strict=False)]
        assert max(gaps) <= 256  # the loop may run the other task before us, and then after us
        assert len(hub) == 10_000 - received


# -- cancelled receivers ---------------------------------------------------------------------------


async def asleep(hub: dss.Hub[Any], receivers: int) -> None:
    """Wait until so many receivers sleep."""
    with anyio.fail_after(10):
        while hub.statistics().tasks_waiting_receive < receivers:
            await anyio.lowlevel.checkpoint()


async def test_a_receiver_that_was_woken_and_is_cancelled_passes_the_wake_on() -> None:
    async with dss.open_hub[int]() as hub:
        received: list[int] = []
        scope = anyio.CancelScope()

        async def doomed() -> None:
            with scope:
                received.append(await hub.receive())

        async def receive() -> None:
            received.append(await hub.receive())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(doomed)
            await asleep(hub, 1)
            tasks.start_soon(receive)
            await asleep(hub, 2)
            hub.portal.send(1)
            while hub.statistics().tasks_waiting_receive == 2:
                await anyio.lowlevel.checkpoint()  # until the wake has arrived
            scope.cancel()
            with anyio.fail_after(5):
                while not received:
                    await anyio.lowlevel.checkpoint()
            if hub.statistics().tasks_waiting_receive:
                hub.portal.send(2)  # the doomed one was quicker than its cancellation
        assert received[0] == 1


async def test_native_asyncio_cancellation_of_a_woken_receiver_loses_nothing(
    backend_name: str,
) -> None:
    if backend_name != "asyncio":
        return  # trio has one kind of cancellation only
    async with dss.open_hub[int]() as hub:
        for number in range(200):
            doomed = asyncio.ensure_future(hub.receive())
            waiting = asyncio.ensure_future(hub.receive())
            await asleep(hub, 2)
            hub.portal.send(number)
            for _ in range(number % 4):
                await asyncio.sleep(0)
            doomed.cancel()
            if number % 2:
                hub.portal.send(-number)
            results = await asyncio.gather(doomed, return_exceptions=True)
            if isinstance(results[0], asyncio.CancelledError):
                assert await asyncio.wait_for(waiting, 5) == number
            else:
                assert results[0] == number
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
            while len(hub):
                assert hub.receive_nowait() == -number
        assert hub.statistics().queued == 0


async def test_wait_for_and_timeout_lose_nothing(backend_name: str) -> None:
    if backend_name != "asyncio":
        return
    async with dss.open_hub[int](1) as hub:
        received: list[int] = []

        def send() -> None:
            for number in range(300):
                hub.portal.send(number)

        with threads(send):
            while len(received) < 300:
                try:
                    received.append(await asyncio.wait_for(hub.receive(), 0.002))
                except asyncio.TimeoutError:
                    pass
        assert received == list(range(300))


# -- asend -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", ["asyncio", "trio"])
async def test_another_event_loop_sends_and_waits_without_blocking(other: str) -> None:
    async with dss.open_hub[int](1) as hub:
        ticks = 0

        async def produce() -> None:
            nonlocal ticks

            async def tick() -> None:
                nonlocal ticks
                while True:
                    ticks += 1
                    await anyio.sleep(0.001)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(tick)
                with hub.portal.clone() as portal:
                    for number in range(50):
                        await portal.asend(number)
                tasks.cancel_scope.cancel()

        with threads(lambda: anyio.run(produce, backend=other)):
            until(lambda: hub.blocked())
            assert hub.blocked()[0].call == "asend"
            seen = ticks
            until(lambda: ticks > seen)
            assert [await hub.receive() for _ in range(50)] == list(range(50))


async def test_asend_in_the_hubs_own_loop_waits_and_can_be_cancelled() -> None:
    async with dss.open_hub[int](1) as hub:
        await hub.portal.asend(1)
        with anyio.move_on_after(0.02) as scope:
            await hub.portal.asend(2)
        assert scope.cancelled_caught
        assert not hub.blocked()
        hub.task_group.start_soon(hub.portal.asend, 3)
        assert [await hub.receive(), await hub.receive()] == [1, 3]


# -- errors of hooks -------------------------------------------------------------------------------


async def test_errors_of_hooks_go_to_on_error_and_the_stream_goes_on() -> None:
    told: list[tuple[str, str | None]] = []
    thread = threading.get_ident()

    def on_error(exc: BaseException, source: str | None) -> None:
        assert threading.get_ident() == thread
        told.append((repr(exc), source))

    def refuse(item: object) -> None:
        raise KeyError(item)

    async with dss.open_hub[int](on_error=on_error) as hub:
        source = hub.register("numbers", decode=int, on_undelivered=refuse)
        callback = source.send_callback(lambda item: item.upper())
        with threads(lambda: callback(5), lambda: callback("x"), lambda: source.send("7")):
            assert await hub.receive() == 7
        source.send("8")
        assert await hub.receive() == 8
    assert sorted(told) == [
        ("AttributeError(\"'int' object has no attribute 'upper'\")", "numbers"),
        ("KeyError('X')", "numbers"),
        ("ValueError(\"invalid literal for int() with base 10: 'X'\")", "numbers"),
    ]
    assert hub.statistics().errors == 3
    assert hub.statistics().undelivered == 1


async def test_without_on_error_they_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with dss.open_hub[int]() as hub:
        source = hub.register("numbers", decode=int)
        source.send_many(["x", "1"])
        with caplog.at_level(logging.ERROR, "dss_anyio"):
            assert await hub.receive() == 1
            hub.portal.send(2)
            await hub.receive_many()
        await anyio.lowlevel.checkpoint()
    assert any("error in source 'numbers'" in record.message for record in caplog.records)


# -- the end ---------------------------------------------------------------------------------------


async def test_the_end_goes_in_order() -> None:
    log: list[str] = []
    async with dss.open_hub[str](1) as hub:
        older = hub.register("older", cancel=lambda: log.append("cancel older"))
        newer = hub.register(
            "newer",
            cancel=lambda: log.append("cancel newer"),
            on_undelivered=lambda item: log.append(f"back: {item}"),
        )
        left = threading.Event()

        def send() -> None:
            newer.send("fits")
            try:
                newer.send("waits")
            except anyio.BrokenResourceError:
                log.append("released")
            left.set()

        async def task() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                log.append("task cancelled")
                with anyio.CancelScope(shield=True), anyio.fail_after(5):
                    while not left.is_set():
                        await anyio.lowlevel.checkpoint()

        hub.task_group.start_soon(task)
        sender = threading.Thread(target=send)
        sender.start()
        until(lambda: hub.blocked())
    sender.join()
    assert sorted(log[:2]) == ["released", "task cancelled"]
    assert log[2:] == ["cancel newer", "cancel older", "back: fits"]
    assert not older.offer("x")


async def test_a_library_may_join_the_thread_that_is_blocked_in_send() -> None:
    async with dss.open_hub[int](1) as hub:
        portal = hub.register("library", cancel=lambda: worker.join(10))
        errors: list[type[Exception]] = []

        def work() -> None:
            try:
                while True:
                    portal.send(1)
            except anyio.BrokenResourceError as exc:
                errors.append(type(exc))

        worker = threading.Thread(target=work)
        worker.start()
        until(lambda: hub.blocked())
    assert not worker.is_alive()
    assert errors == [anyio.BrokenResourceError]


@pytest.mark.parametrize("exception", [KeyError, KeyboardInterrupt, SystemExit])
async def test_what_the_body_alone_raises_is_not_wrapped(exception: type[BaseException]) -> None:
    with pytest.raises(exception):
        async with dss.open_hub[int]():
            raise exception


async def test_errors_of_tasks_and_cancels_are_grouped_with_the_bodys() -> None:
    def fail() -> None:
        raise KeyError("cancel")

    with pytest.raises(ExceptionGroup) as caught:
        async with dss.open_hub[int]() as hub:
            hub.register("a", cancel=fail)
            raise ValueError("body")
    assert [type(exc) for exc in caught.value.exceptions] == [ValueError, KeyError]

    async def crash() -> None:
        raise IndexError("task")

    with pytest.raises(BaseExceptionGroup) as caught_too:
        async with dss.open_hub[int]() as hub:
            hub.register("a", cancel=fail)
            hub.task_group.start_soon(crash)
            await hub.receive()
    assert [type(exc) for exc in caught_too.value.exceptions] == [IndexError, KeyError]


async def test_cancelled_again_and_again_the_end_is_still_complete(backend_name: str) -> None:
    if backend_name != "asyncio":
        return
    go_on = threading.Event()
    log: list[str] = []
    entered = asyncio.Event()

    async def main() -> None:
        async with dss.open_hub[int]() as hub:
            hub.register("a", cancel=lambda: (go_on.wait(10), log.append("a")))
            hub.register("b", cancel=lambda: (go_on.wait(10), log.append("b")))
            entered.set()
            await hub.receive()

    task = asyncio.ensure_future(main())
    await entered.wait()
    for _ in range(3):
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["b", "a"]


async def test_after_the_end_everything_answers_at_once() -> None:
    async with dss.open_hub[int]() as hub:
        portal = hub.register("a")
        callback = portal.send_callback(lambda: pytest.fail("pack was called"))
        clone = hub.clone()
    with pytest.raises(anyio.BrokenResourceError):
        portal.send(1)
    with pytest.raises(anyio.BrokenResourceError):
        await portal.asend(1)
    with pytest.raises(anyio.BrokenResourceError):
        hub.register("b")
    for receiver in (hub, clone):
        with pytest.raises(anyio.ClosedResourceError):
            await receiver.receive()
    assert portal.offer(1) is False
    assert callback() is None  # type: ignore[func-returns-value]
    assert hub.statistics().late == 1
    assert "ended" in repr(hub)


# -- open_source -----------------------------------------------------------------------------------


class Library:
    """A library with a thread that calls back until it is stopped, which joins the thread."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def start(self, portal: dss.Portal[int]) -> str:
        self.portal = portal
        self.log.append(f"start, hub's thread: {threading.current_thread() is self.home}")
        return "value"

    def stop(self, value: str) -> None:
        self.log.append(f"stop {value}, hub's thread: {threading.current_thread() is self.home}")

    home = threading.main_thread()


async def test_start_and_stop_run_in_worker_threads() -> None:
    library = Library()
    async with dss.open_hub[int]() as hub:
        async with hub.open_source("library", library.start, library.stop) as source:
            assert source.value == "value"
            assert hub.source("library") is source.portal
            source.portal.send(1)
            assert await hub.receive() == 1
        with pytest.raises(LookupError, match="registered are: none"):
            hub.source("library")
        with pytest.raises(anyio.ClosedResourceError):
            source.portal.send(2)
    assert library.log == ["start, hub's thread: False", "stop value, hub's thread: False"]


async def test_start_may_wait_until_the_hub_has_received() -> None:
    async with dss.open_hub[int](1) as hub:

        def start(portal: dss.Portal[int]) -> None:
            portal.send_many([1, 2, 3])

        async def receive() -> None:
            for number in (1, 2, 3):
                assert await hub.receive() == number

        hub.task_group.start_soon(receive)
        with anyio.fail_after(10):
            async with hub.open_source("library", start, lambda _: None):
                pass


async def test_what_start_raises_is_raised_and_stop_is_not_called() -> None:
    async with dss.open_hub[int]() as hub:
        with pytest.raises(ZeroDivisionError):
            async with hub.open_source("library", lambda _: 1 / 0, lambda _: pytest.fail("stop")):
                pytest.fail("not reached")
        assert hub.statistics().sources == {}


async def test_a_start_that_waits_for_the_hub_is_released_when_it_is_cancelled() -> None:
    log: list[str] = []
    async with dss.open_hub[int](1) as hub:
        hub.portal.send(0)

        def start(portal: dss.Portal[int]) -> str:
            try:
                portal.send(1)
            except anyio.ClosedResourceError:
                log.append("released")
            return "value"

        with anyio.fail_after(10), anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:

                async def cancel() -> None:
                    while not hub.blocked():
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()

                tasks.start_soon(cancel)
                async with hub.open_source("library", start, log.append):
                    pytest.fail("not reached")
        assert scope.cancelled_caught
    assert log == ["released", "value"]


async def test_stop_runs_also_if_the_portal_was_closed_and_exactly_once() -> None:
    stopped: list[None] = []
    async with dss.open_hub[int]() as hub:
        async with hub.open_source("library", lambda _: None, stopped.append) as source:
            source.portal.close()
        assert stopped == [None]
    assert stopped == [None]


async def test_a_stop_that_does_not_return_is_given_up_with_an_error() -> None:
    forever = threading.Event()
    with pytest.raises(ExceptionGroup) as caught:
        async with dss.open_hub[int]() as hub:
            async with hub.open_source(
                "library", lambda _: None, lambda _: forever.wait(30), stop_timeout=0.05
            ):
                pass
    forever.set()
    [error] = caught.value.exceptions
    assert isinstance(error, TimeoutError)
    assert "stopping source 'library' takes longer than 0.05 s" in str(error)


@pytest.mark.parametrize(
    "end",
    [
        lambda: None,
        lambda: (_ for _ in ()).throw(KeyError()),
    ],
)
async def test_what_a_source_has_sent_goes_back_to_it_after_stop(end: Callable[[], None]) -> None:
    log: list[object] = []
    async with dss.open_hub[int]() as hub:
        try:
            async with hub.open_source(
                "library",
                lambda portal: portal.send_many([1, 2]),
                lambda _: log.append("stop"),
                on_undelivered=log.append,
            ):
                end()
        except KeyError:
            log.append("error")
        assert log[:3] == ["stop", 1, 2]
        assert len(hub) == 0
