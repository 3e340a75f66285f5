"""Hubs in another interpreter of the process, of the kind that ``concurrent.interpreters`` makes.

Such an interpreter has a GIL of its own, and permits no daemon threads.
"""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import dss_anyio as dss

pytestmark = pytest.mark.skipif(
    sys.version_info < (3, 13),
    reason="dss_anyio needs ctypes, which 3.12 refuses to an interpreter with a GIL of its own",
)

IN_ANOTHER = """
import _interpreters, sys, threading

def run():
    interpreter = _interpreters.create("isolated")
    failed = _interpreters.exec(interpreter, PROGRAM, {{"PATH": "\\n".join(sys.path)}})
    if failed is not None:
        print(failed.errdisplay)
    _interpreters.destroy(interpreter)

PROGRAM = {program!r}
thread = threading.Thread(target=run)
thread.start()
thread.join()
"""


def run_in_another(program: str) -> list[str]:
    """Run *program* in another interpreter, in a thread that this has not started."""
    program = 'import sys; sys.path[:] = PATH.split("\\n")\n' + textwrap.dedent(program)
    done = subprocess.run(
        [sys.executable, "-c", IN_ANOTHER.format(program=program)],
        env={"PYTHONPATH": str(Path(dss.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    # (CPython 3.13.0 may complain of a destructor of its own, that of the object for the thread.)
    assert "dss_anyio" not in done.stderr
    return done.stdout.splitlines()


def test_a_hub_stops_its_sources_where_no_thread_may_be_a_daemon() -> None:
    assert run_in_another("""
        import threading
        import anyio
        import dss_anyio as dss

        async def main():
            async with dss.open_hub() as hub:
                portal = hub.register("first", stop=lambda: print("first is stopped"))
                threading.Thread(target=portal.send, args=("item",)).start()
                print(await hub.receive())
                stop = lambda value: print(value, "is stopped")
                async with hub.open_source("second", lambda portal: "second", stop):
                    pass

        anyio.run(main)
        with dss.open_polled_hub() as hub:
            hub.register("third", stop=lambda: print("third is stopped"))
    """) == ["item", "second is stopped", "first is stopped", "third is stopped"]


def test_a_hub_that_is_left_open_ends_with_its_interpreter() -> None:
    """Its thread is no daemon, but nobody joins it: it was not started in that interpreter."""
    assert run_in_another("""
        import threading
        import dss_anyio as dss

        hub = dss.open_polled_hub()
        hub.register("left", stop=lambda: print("left is stopped"))
        print(type(threading.current_thread()).__name__, threading.current_thread().daemon)
    """) == ["_DummyThread False", "left is stopped"]
