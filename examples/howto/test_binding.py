"""The tests of a binding. Run them with pytest and anyio's plugin, or run this file."""

import sys

import anyio
import pytest

import dss_anyio as dss
from dss_anyio.testing import CThread, eventually, nothing_left_behind


def bind(hub, meter):
    """The binding: a meter sends its readings as text, and the hub receives numbers."""
    portal = hub.register("meter", decode=float)
    meter["callback"] = portal.send_callback()


def start(portal):
    """Another part of the binding: when it is too hot, the meter asks what to do."""
    ask = portal.request_callback(timeout=60, default="off")
    return CThread(ask, "too hot")  # stands for the library's own thread


@pytest.mark.anyio
async def test_a_reading_arrives_from_a_thread_that_c_has_made():
    meter = {}
    with nothing_left_behind():  # no thread, no open hub, no item
        async with dss.open_hub() as hub:
            bind(hub, meter)
            with CThread(meter["callback"], "21.5"):
                assert await hub.receive() == 21.5


@pytest.mark.anyio
async def test_readings_wait_until_somebody_looks():
    meter = {}
    with nothing_left_behind():
        async with dss.open_hub() as hub:
            bind(hub, meter)
            threads = [CThread(meter["callback"], text) for text in ("1", "2", "3")]
            await eventually(lambda: len(hub) == 3)  # waits until it is true; no sleep
            assert sorted(await hub.receive_many()) == [1, 2, 3]
            for thread in threads:
                thread.join()


@pytest.mark.anyio
async def test_it_is_stopped_while_its_callback_waits():
    told = []

    def stop(thread):
        told.append(thread.join())

    with nothing_left_behind(undelivered=True):  # the request is undelivered
        async with dss.open_hub() as hub, hub.open_source("meter", start, stop):
            await eventually(hub.blocked)  # then leave the block, without an answer
    assert told == ["off"]


if __name__ == "__main__":
    backend = sys.argv[1] if len(sys.argv) > 1 else "asyncio"
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            anyio.run(test, backend=backend)
            print(name, "passed")
