"""The tests of a binding. pytest runs them, with anyio's plugin; this program does as well."""

import sys

import anyio
import pytest

import dss_anyio as dss
from dss_anyio.testing import CThread, eventually, nothing_left_behind


def bind(hub, meter):
    """What is tested: the readings of a meter, which come as text, arrive as numbers."""
    portal = hub.register("meter", decode=float)
    meter["callback"] = portal.send_callback()


@pytest.fixture(autouse=True)
def checked():
    with nothing_left_behind():  # no thread, no open hub, no item
        yield


@pytest.mark.anyio
async def test_a_reading_arrives_from_a_thread_that_c_has_made():
    meter = {}
    async with dss.open_hub() as hub:
        bind(hub, meter)
        with CThread(meter["callback"], "21.5"):  # in the place of the library's own
            assert await hub.receive() == 21.5


@pytest.mark.anyio
async def test_readings_wait_until_somebody_looks():
    meter = {}
    async with dss.open_hub() as hub:
        bind(hub, meter)
        threads = [CThread(meter["callback"], text) for text in ("1", "2", "3")]
        await eventually(lambda: len(hub) == 3)  # does not sleep for "long enough"
        assert sorted(await hub.receive_many()) == [1, 2, 3]
        for thread in threads:
            thread.join()


if __name__ == "__main__":
    backend = sys.argv[1] if len(sys.argv) > 1 else "asyncio"
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            with nothing_left_behind():
                anyio.run(test, backend=backend)
            print(name, "passed")
