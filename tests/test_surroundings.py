"""What a plain function finds around it: the same whichever way it is called in an event loop."""

from __future__ import annotations

import asyncio
import signal
import sys
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from conftest import asyncio_only
from test_receiver import asleep

import dss_anyio as dss
from dss_anyio.testing import eventually

pytestmark = pytest.mark.anyio


def uses_a_scope() -> float:
    """As anyio's own functions may."""
    with anyio.CancelScope(deadline=-1) as scope, anyio.move_on_after(5):
        assert anyio.get_current_task().id > 0
        assert anyio.current_effective_deadline() <= scope.deadline
    return anyio.current_effective_deadline()


async def test_a_plain_function_that_is_called_runs_in_a_task_with_room_for_scopes() -> None:
    async with dss.open_hub() as hub:
        for _ in range(2):
            await anyio.to_thread.run_sync(hub.portal.call, uses_a_scope)
            await hub.portal.call_async(uses_a_scope)


async def test_nothing_of_a_called_function_stays_behind() -> None:
    async with dss.open_hub() as hub:
        await anyio.to_thread.run_sync(hub.portal.call, uses_a_scope)
        if asyncio._get_running_loop() is not None:
            tasks = {task.get_name() for task in asyncio.all_tasks()}
            assert not {name for name in tasks if name.startswith("dss_anyio")}


@asyncio_only
async def test_a_called_function_may_start_tasks_and_raise() -> None:
    started: list[asyncio.Task[None]] = []

    def starts() -> None:
        started.append(asyncio.ensure_future(anyio.sleep(0)))
        raise LookupError

    async with dss.open_hub() as hub:
        with pytest.raises(LookupError):
            await anyio.to_thread.run_sync(hub.portal.call, starts)
        await started[0]
        assert asyncio.current_task() is not None  # ours again


@asyncio_only
async def test_a_plain_handler_runs_in_the_task_of_serve_wherever_it_is_called() -> None:
    seen: list[Any] = []

    async def serve() -> None:
        with anyio.move_on_after(100):
            seen.append((asyncio.current_task(), anyio.current_effective_deadline()))
            await hub.serve(handler)

    def handler(_: object) -> None:
        uses_a_scope()
        seen.append((asyncio.current_task(), anyio.current_effective_deadline()))

    async with dss.open_hub() as hub:
        await hub.portal.asend(1)  # is there before it serves
        hub.task_group.start_soon(serve)
        await asleep(hub, 1)
        await anyio.to_thread.run_sync(hub.portal.send, 2)  # comes while it sleeps
        await eventually(lambda: len(seen) == 3)
        assert len(set(seen)) == 1


def strikes() -> str:
    try:
        signal.raise_signal(signal.SIGINT)
        for _ in range(100):
            pass
    except KeyboardInterrupt:
        return "struck here"
    return "held back"


@pytest.mark.skipif(sys.platform == "win32", reason="signals come later there")
def test_ctrl_c_reaches_a_plain_function_in_trio() -> None:
    async def main() -> None:
        async with dss.open_hub[Any]() as hub:
            # through the run's own queue; then through the hub's short way
            assert await anyio.to_thread.run_sync(hub.portal.call, strikes) == "struck here"
            assert await anyio.to_thread.run_sync(hub.portal.call, strikes) == "struck here"
            hub.task_group.start_soon(hub.serve, lambda _: strikes())
            for _ in range(3):
                await asleep(hub, 1)
                answer = await anyio.to_thread.run_sync(hub.portal.request, 1)
                assert answer == "struck here"

    anyio.run(main, backend="trio")
