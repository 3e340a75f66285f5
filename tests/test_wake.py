"""How a loop is woken, and how often."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import Any

import anyio
import pytest
from anyio.lowlevel import current_token
from conftest import BACKENDS, threads, until

import dss_anyio as dss
from dss_anyio._wake import call_soon_here, when_loop_closes


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
@pytest.mark.parametrize("senders", [1, 4])
async def test_a_burst_of_100_000_items_wakes_once(senders: int) -> None:
    async with dss.open_hub[int](float("inf")) as hub:
        received: list[int] = []

        async def receive() -> None:
            received.extend(await hub.receive_many())

        hub.task_group.start_soon(receive)
        await anyio.wait_all_tasks_blocked()

        def send() -> None:
            for number in range(100_000 // senders):
                hub.portal.send_nowait(number)

        with threads(*[send] * senders) as started:
            for thread in started:
                thread.join()  # the loop is busy
        assert hub.statistics().wakes == 1
        while len(received) < 100_000:
            received += await hub.receive_many()
        assert hub.statistics().wakes == 1


@pytest.mark.anyio
async def test_a_receiver_that_is_awake_is_not_woken() -> None:
    async with dss.open_hub[int]() as hub:
        with anyio.move_on_after(0.01):
            await hub.receive()
        with threads(lambda: hub.portal.send_many(range(100))):
            pass
        assert await hub.receive_many() == list(range(100))
        assert hub.statistics().wakes == 0


@pytest.mark.anyio
async def test_ten_receivers_and_ten_items_take_few_wakes_and_all_are_served() -> None:
    async with dss.open_hub[int]() as hub:
        received: list[int] = []

        async def receive() -> None:
            received.append(await hub.receive())

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(receive)
            await anyio.wait_all_tasks_blocked()
            with threads(lambda: hub.portal.send_many(range(10))) as [thread]:
                thread.join()
            assert hub.statistics().wakes == 1
        assert sorted(received) == list(range(10))


@pytest.mark.anyio
async def test_no_wake_is_lost_when_the_receiver_sleeps_before_each_item() -> None:
    async with dss.open_hub[int]() as hub:
        answered = threading.Semaphore(0)

        def send() -> None:
            for number in range(500):
                hub.portal.send(number)
                assert answered.acquire(timeout=10)

        with threads(send):
            for number in range(500):
                assert await hub.receive() == number
                answered.release()


def loop_of(backend: str) -> asyncio.AbstractEventLoop:
    if backend == "uvloop":
        import uvloop

        return uvloop.new_event_loop()
    return asyncio.new_event_loop()


@pytest.mark.parametrize("backend", [name for name in BACKENDS if name != "trio"])
def test_a_thread_is_released_when_the_loop_is_closed_under_the_hub(backend: str) -> None:
    """Without any garbage collection: what tells us is that the loop lets go of a timer."""
    loop = loop_of(backend)
    hubs: list[dss.Hub[int]] = []
    cancelled = threading.Event()

    async def main() -> None:
        async with dss.open_hub[int](1) as hub:
            hub.register("library", cancel=cancelled.set)
            hubs.append(hub)
            hub.portal.send(1)
            loop.call_soon(loop.stop)
            await asyncio.Event().wait()

    gc.disable()
    try:
        task: Any = loop.create_task(main())
        loop.run_forever()
        portal = hubs[0].portal
        errors: list[Exception] = []

        def send() -> None:
            try:
                portal.send(2)
            except anyio.BrokenResourceError as exc:
                errors.append(exc)

        with threads(send, timeout=5):
            until(lambda: hubs[0].blocked())
            loop.close()
        assert len(errors) == 1
        assert cancelled.wait(5)
        assert not portal.offer(3)
    finally:
        gc.enable()
    task._log_destroy_pending = False  # asyncio would complain, and rightly so


@pytest.mark.anyio
async def test_what_was_called_off_is_not_called_when_the_loop_closes() -> None:
    calls: list[None] = []
    call_off = when_loop_closes(lambda: calls.append(None))
    call_off()
    call_off()
    assert len(calls) <= 1  # letting go of the timer tells as well, harmlessly
