"""Several interpreters with a GIL each: C threads, and Python's, send from one to the other."""

from __future__ import annotations

import importlib
import os
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest
from c_threads import SEND_WAIT, Pool, c, c_code, in_order, needs_the_extension, send

import dss_anyio as dss

pytestmark = [
    needs_the_extension,
    pytest.mark.skipif(
        sys.version_info < (3, 13), reason="interpreters with a GIL and a ctypes each: since 3.13"
    ),
]
__all__ = ["c", "c_code"]  # fixtures

SUB = """
    import sys
    sys.path[:0] = PATH.split(":")
    import ctypes, os
    import dss_anyio as dss

    send = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t
    )(dss.native.functions["dss_send"])
    received = []
    with dss.open_polled_hub() as hub:
        sender = hub.register("sub").native_sender(64)
        os.write(FD, b"%020d" % sender.address)
        while len(received) < COUNT:
            hub.wait(10)
            received += hub.poll()
        for item in received[:100]:
            while send(MAIN, item, len(item)) == -1:
                pass
"""


def test_two_interpreters_are_sent_to_and_send_to_each_other(c: Any) -> None:
    interpreters = importlib.import_module("_interpreters")
    path = ":".join([str(Path(dss.__file__).parent.parent), *filter(None, sys.path)])
    with dss.open_polled_hub() as hub:
        to_main = hub.register("main").native_sender(64)
        reading, writing = os.pipe()
        subs = [interpreters.create("isolated") for _ in range(2)]
        wrong: list[Any] = []

        def run(sub: Any) -> None:
            shared = {"PATH": path, "FD": writing, "MAIN": to_main.address, "COUNT": 2 * 2_000}
            failed = interpreters.exec(sub, textwrap.dedent(SUB), shared)
            if failed is not None:
                wrong.append(failed)
                os.write(writing, b"%020d" % 0)

        threads = [threading.Thread(target=run, args=(sub,)) for sub in subs]
        for thread in threads:
            thread.start()
        addresses = [int(os.read(reading, 20)) for _ in subs]
        assert not wrong

        class To:
            def __init__(self, address: int) -> None:
                self.address = address

        everywhere: list[Any] = [*map(To, addresses), to_main]
        pools = [Pool(c, sender, 2, 2_000, way=SEND_WAIT) for sender in everywhere]
        received: list[Any] = []
        while len(received) < 2 * 2_000 + 2 * 100:
            assert hub.wait(20), wrong
            received += hub.poll()
        for thread in threads:
            thread.join()
        for pool in pools:
            pool.join()
        assert not wrong
        for sub in subs:
            interpreters.destroy(sub)
        assert [send(address, b"late") for address in addresses] == [-2, -2]
        assert send(to_main, b"still here") == 0
    assert len(received) == 4_200
    assert in_order is not None
    os.close(reading)
    os.close(writing)
