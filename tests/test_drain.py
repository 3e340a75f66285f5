"""``open_source(drain=True)``: what a library flushes while it stops is received."""

from __future__ import annotations

import sys
import threading
from typing import Any

import anyio
import pytest

import dss_anyio as dss
from dss_anyio.testing import eventually

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup


class Recorder:
    """Sends its last batch when it is stopped, from its own thread, which ``stop`` joins."""

    def __init__(self, portal: dss.Portal[int]) -> None:
        self.portal = portal
        self.ended = threading.Event()
        self.refused: list[BaseException] = []
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self) -> None:
        self.ended.wait()
        try:
            for item in range(20):
                self.portal.send(item)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError) as exc:
            self.refused.append(exc)

    def stop(self) -> None:
        self.ended.set()
        self.thread.join()


@pytest.mark.anyio
async def test_on_a_normal_exit_what_stop_flushes_is_received() -> None:
    got: list[int] = []
    back: list[int] = []
    async with dss.open_hub[int](2) as hub, anyio.create_task_group() as tasks:

        async def consume() -> None:
            async for item in hub:
                got.append(item)

        tasks.start_soon(consume)
        opened = hub.open_source(
            "recorder", Recorder, Recorder.stop, drain=True, on_undelivered=back.append
        )
        async with opened as source:
            pass
        with pytest.raises(anyio.ClosedResourceError):
            source.portal.send(0)
        with pytest.raises(LookupError):
            hub.source("recorder")
        hub.close_senders()
    assert (got, back, source.value.refused) == (list(range(20)), [], [])
    assert not hub.statistics().late


@pytest.mark.anyio
async def test_what_is_queued_when_the_block_is_left_is_received_later_and_decoded() -> None:
    def start(portal: dss.Portal[str]) -> dss.Portal[str]:
        portal.send("1")
        return portal

    def stop(portal: dss.Portal[str]) -> None:
        portal.send("2")

    async with dss.open_hub[int]() as hub:
        async with hub.open_source("library", start, stop, drain=True, decode=int):
            assert hub.source("library")
        assert await hub.receive_many() == [1, 2]


@pytest.mark.anyio
async def test_a_coroutine_stop_may_flush_as_well() -> None:
    got: list[int] = []

    async def start(portal: dss.Portal[int]) -> dss.Portal[int]:
        return portal

    async def stop(portal: dss.Portal[int]) -> None:
        for item in range(5):
            await portal.asend(item)

    async with dss.open_hub[int](1) as hub, anyio.create_task_group() as tasks:

        async def consume() -> None:
            async for item in hub:
                got.append(item)

        tasks.start_soon(consume)
        async with hub.open_source("library", start, stop, drain=True):
            pass
        hub.close_senders()
    assert got == [0, 1, 2, 3, 4]


@pytest.mark.anyio
async def test_on_an_exception_the_end_is_the_usual_one() -> None:
    back: list[int] = []
    with pytest.raises(ValueError, match="body"):
        async with dss.open_hub[int](2) as hub:
            opened = hub.open_source(
                "recorder", Recorder, Recorder.stop, drain=True, on_undelivered=back.append
            )
            async with opened as source:
                source.portal.send(-1)
                raise ValueError("body")
    assert back == [-1]
    assert [type(exc) for exc in source.value.refused] == [anyio.ClosedResourceError]


async def record(hub: dss.Hub[int], back: list[int], recorders: list[Recorder]) -> None:
    """Open a recorder, and drain it at once; what is handed back goes to *back*."""
    opened = hub.open_source(
        "recorder", Recorder, Recorder.stop, drain=True, on_undelivered=back.append
    )
    async with opened as source:
        recorders.append(source.value)


@pytest.mark.anyio
async def test_a_cancellation_releases_a_stop_that_waits_for_a_receiver() -> None:
    """Nobody receives, so the flush waits for a place: line ``registry.release`` in ``_drain``."""
    back: list[int] = []
    recorders: list[Recorder] = []

    async with dss.open_hub[int](2) as hub:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(record, hub, back, recorders)
            await eventually(lambda: bool(hub.blocked()))
            tasks.cancel_scope.cancel()
        assert not recorders[0].thread.is_alive()
        assert back == [0, 1]
        assert not hub.blocked()
        with pytest.raises(LookupError):
            hub.source("recorder")


@pytest.mark.anyio
async def test_the_end_of_the_hub_releases_a_stop_that_waits_for_a_receiver() -> None:
    back: list[int] = []
    recorders: list[Recorder] = []

    async with dss.open_hub[int](2) as hub:
        hub.task_group.start_soon(record, hub, back, recorders)
        await eventually(lambda: bool(hub.blocked()))
    assert not recorders[0].thread.is_alive()
    assert back == [0, 1]


@pytest.mark.anyio
async def test_if_nobody_receives_stop_has_its_time_limit_and_the_rest_is_received() -> None:
    async with dss.open_hub[int](2) as hub:
        with pytest.raises(ExceptionGroup) as caught:
            async with hub.open_source(
                "recorder", Recorder, Recorder.stop, drain=True, stop_timeout=0.05
            ) as source:
                pass
        (exc,) = caught.value.exceptions
        assert isinstance(exc, TimeoutError) and "'recorder'" in str(exc)
        await eventually(lambda: not source.value.thread.is_alive())
        assert [type(exc) for exc in source.value.refused] == [anyio.ClosedResourceError]
        assert await hub.receive_many() == [0, 1]


@pytest.mark.anyio
async def test_what_stop_raises_is_raised_and_what_it_sent_is_received() -> None:
    def stop(portal: dss.Portal[int]) -> None:
        portal.send(1)
        raise ValueError("stop")

    async with dss.open_hub[int]() as hub:
        with pytest.raises(ExceptionGroup) as caught:
            async with hub.open_source("library", lambda portal: portal, stop, drain=True):
                pass
        assert [str(exc) for exc in caught.value.exceptions] == ["stop"]
        assert hub.receive_nowait() == 1


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_in_a_hub_in_a_thread_as_well(backend: str) -> None:
    got: list[Any] = []
    with dss.start_hub(2, backend=backend) as hub:
        serving = hub.portal.start_task_soon(hub.serve, got.append)
        opened = hub.open_source("recorder", Recorder, Recorder.stop, drain=True)
        with hub.portal.wrap_async_context_manager(opened):
            pass
        hub.close_senders()
        serving.result(10)
    assert got == list(range(20))
