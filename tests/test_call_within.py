"""``Portal.call_within``: a call with a time limit."""

from __future__ import annotations

import math
import threading
from typing import Any

import anyio
import anyio.to_thread
import pytest

import dss_anyio as dss


@pytest.mark.anyio
async def test_a_call_within_its_time_is_a_call_and_after_it_the_task_is_cancelled() -> None:
    cancelled = anyio.Event()

    async def double(number: int) -> int:
        return 2 * number

    async def hang() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.set()

    def calls() -> list[Any]:
        got: list[Any] = [
            hub.portal.call_within(10, double, 21),
            hub.portal.call_within(math.inf, threading.get_ident),
        ]
        with pytest.raises(TimeoutError, match=r"within 0\.01 s"):
            hub.portal.call_within(0.01, hang)
        with pytest.raises(LookupError):
            hub.portal.call_within(10, {}.__getitem__, "key")
        return got

    async with dss.open_hub() as hub:
        hub.portal.send("an item that nobody receives")
        assert await anyio.to_thread.run_sync(calls) == [42, threading.get_ident()]
        await cancelled.wait()
        with pytest.raises(RuntimeError, match=r"call_within\(\) would block .* start_task_soon"):
            hub.portal.call_within(10, print)
        with pytest.raises(TypeError, match="timeout must be a number of seconds, not None"):
            hub.portal.call_within(None, print)  # type: ignore[call-overload]
        with pytest.raises(ValueError, match="negative"):
            hub.portal.call_within(-1, print)


def test_a_polled_hub_that_polls_too_late_never_calls_it() -> None:
    called: list[int] = []
    raised: list[BaseException] = []

    def call() -> None:
        try:
            hub.portal.call_within(0.01, called.append, 1)
        except TimeoutError as exc:
            raised.append(exc)

    with dss.open_polled_hub() as hub:
        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        assert hub.poll() == []
    assert [type(exc) for exc in raised] == [TimeoutError]
    assert not called
