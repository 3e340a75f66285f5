"""Event loops that are stopped or closed in the middle of an end.

Nothing in them goes on then. What threads have begun for them is completed all the same: each
program here has to exit, having handed back what was queued, and having said what went wrong.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import textwrap
import threading
from typing import Any

import anyio
import anyio.to_thread
import pytest
from conftest import BACKENDS, asyncio_only

import dss_anyio as dss
from dss_anyio.testing import eventually

BEGINNING = """
import asyncio, logging, math, sys, time
import dss_anyio as dss

logging.basicConfig(level=logging.ERROR, format="%(message)s", stream=sys.stdout)
began = time.monotonic()

def back(item):
    print("back:", item, flush=True)

"""


def left_by(program: str) -> list[str]:
    """What *program* prints, which has to end within a few seconds."""
    done = subprocess.run(
        [sys.executable, "-c", BEGINNING + textwrap.dedent(program)],
        capture_output=True, text=True, timeout=30,
    )  # fmt: skip
    assert done.returncode == 0, done
    return done.stdout.splitlines()


@pytest.mark.parametrize("drain", [False, True])
@pytest.mark.parametrize("limit", [5.0, "math.inf"])
def test_a_source_whose_loop_is_closed_while_it_is_stopped_ends_with_the_others(
    drain: bool, limit: object
) -> None:
    lines = left_by(
        f"""
        def stop(_):
            loop.call_soon_threadsafe(loop.stop)
            time.sleep(0.3)
            print("stopped", flush=True)

        async def main():
            async with dss.open_hub() as hub:
                hub.register("other", on_undelivered=back).send_nowait("other")
                async with hub.open_source(
                    "library", lambda portal: portal.send_nowait("own"), stop,
                    stop_timeout={limit}, drain={drain}, on_undelivered=back,
                ):
                    pass

        loop = asyncio.new_event_loop()
        task = loop.create_task(main())
        loop.run_forever()
        loop.close()
        time.sleep(0.6)
        print("in time:", time.monotonic() - began < 3, flush=True)
        """
    )
    assert sorted(lines) == ["back: other", "back: own", "in time: True", "stopped"]
    assert lines.index("stopped") < lines.index("back: own")


CANNOT_RUN = "is a coroutine function, and was not run to its end"


@pytest.mark.parametrize("how", ["closed", "stopped"])
@pytest.mark.parametrize("limit", [2.0, "math.inf"])
def test_a_coroutine_stop_whose_loop_is_over_is_reported_and_the_rest_is_done(
    how: str, limit: object
) -> None:
    lines = left_by(
        f"""
        async def stop():
            loop.stop()
            await asyncio.sleep(100)

        async def main():
            async with dss.open_hub() as hub:
                portal = hub.register(
                    "library", stop=stop, stop_timeout={limit}, on_undelivered=back
                )
                portal.send_nowait("own")

        loop = asyncio.new_event_loop()
        task = loop.create_task(main())
        loop.run_forever()
        if {how == "closed"}:
            loop.close()
        """
    )
    assert "back: own" in lines
    [told] = [line for line in lines if line.startswith("error at the end") and CANNOT_RUN in line]
    assert "source 'library'" in told


@pytest.mark.parametrize("limit", [2.0, "math.inf"])
def test_a_coroutine_stop_is_not_begun_in_a_loop_that_its_thread_has_left(limit: object) -> None:
    lines = left_by(
        f"""
        async def stop():
            print("never")

        async def main():
            async with dss.open_hub() as hub:
                hub.register("library", stop=stop, stop_timeout={limit})
                loop.stop()
                await asyncio.sleep(100)

        loop = asyncio.new_event_loop()
        task = loop.create_task(main())
        loop.run_forever()
        """
    )
    assert "never" not in lines
    assert any(CANNOT_RUN in line for line in lines)


def test_a_coroutine_start_whose_loop_is_closed_keeps_no_thread() -> None:
    lines = left_by(
        """
        import threading

        async def start(portal):
            loop.stop()
            await asyncio.sleep(100)

        async def main():
            async with dss.open_hub() as hub:
                async with hub.open_source("library", start, print):
                    pass

        loop = asyncio.new_event_loop()
        task = loop.create_task(main())
        loop.run_forever()
        loop.close()
        for thread in threading.enumerate():
            if thread is not threading.main_thread():
                thread.join(10)
        print(threading.active_count())
        """
    )
    assert lines[-1] == "1"


# -- Errors that two ends have to share ------------------------------------------------------------


@pytest.mark.anyio
@asyncio_only
@pytest.mark.parametrize("stop_fails", [False, True])
async def test_an_error_of_a_task_is_not_lost_for_a_cancellation_that_comes_later(
    anyio_backend: Any, stop_fails: bool
) -> None:
    def stop() -> None:
        stopping.set()
        go_on.wait(10)
        if stop_fails:
            raise OSError("stop")

    async def fail() -> None:
        raise ValueError("task")

    async def use() -> None:
        async with dss.open_hub() as hub:
            hub.register("library", stop=stop)
            hub.task_group.start_soon(fail)
            await anyio.sleep(10)

    stopping, go_on = threading.Event(), threading.Event()
    task = asyncio.create_task(use())
    await eventually(stopping.is_set)
    task.cancel()
    await asyncio.sleep(0.01)
    go_on.set()
    with pytest.raises(BaseException) as caught:  # a group of its kind
        await task
    found = [repr(exc) for exc in flat(caught.value)]
    assert found == ["ValueError('task')"] + ["OSError('stop')"] * stop_fails


def flat(exc: BaseException) -> list[BaseException]:
    within = getattr(exc, "exceptions", None)
    return [exc] if within is None else [one for each in within for one in flat(each)]


@pytest.mark.parametrize("backend", BACKENDS.values(), ids=BACKENDS)
@pytest.mark.parametrize("leaves", [SystemExit, KeyboardInterrupt])
def test_who_leaves_the_program_in_a_start_hub_block_leaves_it(
    backend: tuple[str, dict[str, Any]], leaves: type[BaseException]
) -> None:
    told: list[BaseException] = []

    def stop() -> None:
        raise OSError("stop")

    with pytest.raises(leaves):
        with dss.start_hub(
            on_error=lambda exc, _: told.append(exc),
            backend=backend[0],
            backend_options=backend[1],
        ) as hub:
            hub.register("library", stop=stop)
            raise leaves
    assert [repr(each) for exc in told for each in flat(exc)] == ["OSError('stop')"]


@pytest.mark.anyio
async def test_a_wrapped_context_manager_is_entered_once_at_a_time() -> None:
    entered: list[int] = []

    class Manager:
        async def __aenter__(self) -> int:
            entered.append(1)
            return len(entered)

        async def __aexit__(self, *_: object) -> None:
            entered.append(-1)

    def use(portal: dss.Portal[Any]) -> None:
        wrapped = portal.wrap_async_context_manager(Manager())
        for _ in range(2):
            with wrapped:
                with pytest.raises(RuntimeError, match="entered already; wrap another one"):
                    wrapped.__enter__()
            assert sum(entered) == 0

    async with dss.open_hub() as hub:
        with anyio.fail_after(10):
            await anyio.to_thread.run_sync(use, hub.portal)
    assert entered == [1, -1, 1, -1]


@pytest.mark.skipif(not hasattr(sys, "getdlopenflags"), reason="needs fork")
def test_a_fork_releases_a_call_with_a_time_limit_that_it_has_interrupted() -> None:
    lines = left_by(
        """
        import os, signal, threading, anyio

        def fork(*_):
            global child
            child = os.fork()

        child = None
        signal.signal(signal.SIGALRM, fork)
        with dss.start_hub() as hub:
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            try:
                hub.portal.call_within(20, anyio.sleep, 1)
            except anyio.BrokenResourceError:
                print("released", child == 0, time.monotonic() - began < 10, flush=True)
                os._exit(0)
            os.waitpid(child, 0)
        """
    )
    assert lines == ["released True True"]
