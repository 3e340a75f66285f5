"""What ``dss_anyio.testing`` gives to those who test a binding. Each check is seen to fail."""

from __future__ import annotations

import concurrent.futures
import contextlib
import gc
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest

import dss_anyio as dss
from dss_anyio._hub.base import openings
from dss_anyio.testing import CThread, eventually, nothing_left_behind, threads, until

posix = pytest.mark.skipif(sys.platform == "win32", reason="needs pthread_create")


# -- Waiting for what is reported ------------------------------------------------------------------


def test_until_returns_once_the_condition_is_true() -> None:
    done: list[bool] = []
    with threads(lambda: done.append(True)):
        until(lambda: done)


@pytest.mark.anyio
async def test_eventually_lets_the_loop_go_on() -> None:
    done: list[bool] = []

    async def do() -> None:
        done.append(True)

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(do)
        await eventually(lambda: done)


@pytest.mark.anyio
async def test_what_is_never_true_is_named_by_its_place() -> None:
    line = sys._getframe().f_lineno + 1
    condition: Callable[[], bool] = lambda: False  # noqa: E731
    place = re.escape(f"not true within 0.01 s: the condition at {__file__}:{line}")
    with pytest.raises(AssertionError, match=place):
        until(condition, 0.01)
    with pytest.raises(AssertionError, match=place):
        await eventually(condition, 0.01)
    with pytest.raises(AssertionError, match="built-in method locked"):
        until(threading.Lock().locked, 0.01)


# -- Foreign threads -------------------------------------------------------------------------------


def test_threads_begin_together_and_have_returned_at_the_end() -> None:
    inside = threading.Barrier(3)
    with threads(*[lambda: inside.wait(10)] * 3) as started:
        pass
    assert len(started) == 3
    assert not any(thread.is_alive() for thread in started)


def test_the_error_of_a_thread_is_raised_at_the_end() -> None:
    with pytest.raises(ZeroDivisionError):
        with threads(lambda: 1 / 0, lambda: None):
            pass


def test_a_thread_that_does_not_return_is_shown_with_its_stack() -> None:
    go_on = threading.Event()
    with pytest.raises(AssertionError, match=r"did not return: 'Thread-.*(?s:.*)go_on\.wait"):
        with threads(lambda: go_on.wait(20), timeout=0.05) as started:
            pass
    go_on.set()
    started[0].join()


@posix
def test_a_thread_of_c_is_one_that_python_has_not_made() -> None:
    def look() -> threading.Thread:
        assert threading.get_native_id() != here
        return threading.current_thread()

    here = threading.get_native_id()
    thread = CThread(look).join()
    assert isinstance(thread, threading._DummyThread)


@posix
@pytest.mark.parametrize("how", ["join", "with"])
def test_a_thread_of_c_returns_and_raises(how: str) -> None:
    assert CThread(divmod, 7, 2).join() == (3, 1)
    failing = CThread(divmod, 7, 0)
    with pytest.raises(ZeroDivisionError):
        if how == "join":
            failing.join()
        else:
            with failing:
                pass
    with pytest.raises(ZeroDivisionError):
        failing.join()  # says the same again


@posix
def test_a_thread_of_c_that_still_runs_can_be_joined_later() -> None:
    go_on = threading.Event()
    thread = CThread(go_on.wait, 20)
    with pytest.raises(TimeoutError, match=r"still runs after 0\.01 s"):
        thread.join(0.01)
    go_on.set()
    assert thread.join() is True


@posix
def test_python_exits_although_a_thread_of_c_runs() -> None:
    program = """
import threading
from dss_anyio.testing import CThread
began = threading.Event()
CThread(lambda: (began.set(), threading.Event().wait()))
began.wait()
"""
    subprocess.run([sys.executable, "-c", program], timeout=20, check=True)


# -- What is left ----------------------------------------------------------------------------------


def test_a_binding_that_ends_leaves_nothing_behind() -> None:
    with nothing_left_behind():
        with dss.open_polled_hub[int]() as hub:
            with threads(lambda: hub.portal.send(1)):
                hub.wait()
            assert hub.poll() == [1]


@pytest.mark.anyio
async def test_nor_does_one_in_a_loop() -> None:
    with nothing_left_behind():
        async with dss.open_hub[int]() as hub:
            await anyio.to_thread.run_sync(hub.portal.send, 1)
            assert await hub.receive() == 1


def test_workers_that_are_kept_for_later_are_not_left_behind() -> None:
    with concurrent.futures.ThreadPoolExecutor() as executor, nothing_left_behind(timeout=1):
        executor.submit(int).result()
        anyio.run(anyio.to_thread.run_sync, int, backend="trio")
        assert threading.active_count() > 2


@pytest.fixture
def go_on() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def test_a_thread_that_is_left_is_shown_with_its_stack(go_on: threading.Event) -> None:
    with pytest.raises(AssertionError, match=r"thread 'left over'\n(?s:.*)in wait"):
        with nothing_left_behind(timeout=0.05):
            thread = threading.Thread(target=go_on.wait, name="left over", daemon=True)
            thread.start()
    go_on.set()
    thread.join()


def test_a_thread_that_is_leaving_is_waited_for(go_on: threading.Event) -> None:
    with nothing_left_behind():
        threading.Thread(target=go_on.wait, args=(0.05,), daemon=True).start()


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_a_thread_of_c_that_is_left_is_shown(go_on: threading.Event) -> None:
    inside = threading.Event()
    with pytest.raises(AssertionError, match=r"thread 'Dummy-"):
        with nothing_left_behind(timeout=0.05):
            thread = CThread(lambda: (threading.current_thread(), inside.set(), go_on.wait()))
            assert inside.wait(10)
    go_on.set()
    with nothing_left_behind():
        thread.join()


def test_a_hub_that_is_left_open_is_named() -> None:
    with pytest.raises(AssertionError, match="'forgotten' is open"):
        with nothing_left_behind():
            hub = dss.open_polled_hub[int](name="forgotten")
    hub.close()


def test_a_hub_that_became_garbage_is_still_found(recwarn: pytest.WarningsRecorder) -> None:
    with pytest.raises(AssertionError, match="'forgotten' has undelivered: 1"):
        with nothing_left_behind():
            hub = dss.open_polled_hub[int](name="forgotten")
            hub.portal.send(1)
            del hub
            gc.collect()
    assert "Unclosed" in str(recwarn.pop(ResourceWarning).message)


LOSSES: dict[str, Callable[[dss.PolledHub[Any]], None]] = {
    "dropped": lambda hub: [hub.portal.send_callback()(number) for number in range(3)][0],
    "undelivered": lambda hub: hub.portal.send(1),
    "errors": lambda hub: hub.portal.send_callback(lambda: 1 / 0)(),
}


@pytest.mark.parametrize("what", LOSSES)
@pytest.mark.parametrize("allowed", [False, True])
def test_what_was_lost_is_counted_unless_it_may_be(what: str, allowed: bool) -> None:
    may_be: dict[str, Any] = {"undelivered": what == "dropped", what: allowed}
    outcome: Any = contextlib.nullcontext()
    if not allowed:
        outcome = pytest.raises(AssertionError, match=f"'lossy' has {what}: 1")
    with outcome, nothing_left_behind(**may_be):
        with dss.open_polled_hub[int](2, name="lossy", on_error=lambda *_: None) as hub:
            LOSSES[what](hub)


def test_if_the_block_raises_that_is_what_is_to_be_seen() -> None:
    with pytest.raises(ZeroDivisionError):
        with nothing_left_behind():
            with dss.open_polled_hub[int]() as hub:
                hub.portal.send(1)
                raise ZeroDivisionError


def test_it_can_be_nested_and_forgets_what_was_before() -> None:
    notes = list(openings)
    with dss.open_polled_hub[int]() as outer:
        with nothing_left_behind(), nothing_left_behind():
            assert len(openings) == len(notes) + 2
        outer.poll()
    assert openings == notes


def test_importing_the_package_does_not_import_it() -> None:
    program = "import sys, dss_anyio; sys.exit('dss_anyio.testing' in sys.modules)"
    subprocess.run([sys.executable, "-c", program], timeout=20, check=True)
