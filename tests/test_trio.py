"""The short way into a hub in trio: when it opens, what it may not change, that it is closed."""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import subprocess
import sys
import threading
import warnings
from functools import partial
from typing import Any, cast

import anyio
import pytest
from anyio.abc import TaskGroup

import dss_anyio as dss
from dss_anyio._loops import on_trio as _trio
from dss_anyio._loops.short_way import Bell
from dss_anyio._loops.way import WayIn
from dss_anyio.testing import eventually, threads, until

trio = pytest.importorskip("trio")
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts /proc/self/fd")


def open_files() -> set[tuple[int, int]]:
    """The number of each, and what it is: somebody else's may be closed, and its number used again.

    That happens wherever a collection hits.
    """
    found: set[tuple[int, int]] = set()
    for number in map(int, os.listdir("/proc/self/fd")):
        with contextlib.suppress(OSError):  # the one that has listed them
            found.add((number, os.fstat(number).st_ino))
    return found


def way_into(hub: dss.Hub[int]) -> _trio.WayIn:
    way_in: WayIn | None = hub._mailbox.home.way_in
    assert isinstance(way_in, _trio.WayIn)
    return way_in


def use(hub: dss.Hub[int]) -> None:
    """Have it called from another thread, until a task listens. In a worker thread."""
    assert hub.portal.call(int) == 0  # opens the short way
    assert hub.portal.call(int) == 0
    assert way_into(hub).bell is not None


def test_a_hub_that_nobody_calls_opens_no_sockets_and_one_that_is_called_closes_them() -> None:
    async def main() -> list[int]:
        before = open_files()
        counts = [0]
        async with dss.open_hub[int]() as hub:
            hub.portal.send(1)
            await hub.receive()
            counts.append(len(open_files() - before))
            await anyio.to_thread.run_sync(use, hub)
            counts.append(len(open_files() - before))
        counts.append(len(open_files() - before))
        assert hub.portal.offer(1) is False
        return counts

    anyio.run(anyio.to_thread.run_sync, int, backend="trio")  # a first run opens files of its own
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as the one of a socket that is destroyed open
        assert anyio.run(main, backend="trio") == [0, 0, 2, 0]
        gc.collect()


def test_a_bell_is_not_closed_in_the_hands_of_a_thread_that_rings_it() -> None:
    """Guards ``Bell``: the number of a closed file is soon another one's."""

    bells: list[Bell] = []

    async def main() -> None:
        async with dss.open_hub[int]() as hub:
            await anyio.to_thread.run_sync(use, hub)
            bell = way_into(hub).bell
            assert bell is not None
            bells.append(bell)

    anyio.run(main, backend="trio")
    bell = bells.pop()
    number = bell.fileno()
    file = number, os.fstat(number).st_ino
    bell.ring()  # nobody hears it
    assert file in open_files()
    del bell
    assert file not in open_files()


def test_calls_keep_their_order_while_the_short_way_opens() -> None:
    """Guards the one line in which they all wait.

    When the task that listens is started, one call is in the line; the next one rings the bell, and
    has to wait for it all the same.
    """

    async def main() -> None:
        for _ in range(30):
            called: list[int] = []
            ran: list[int] = []

            def call() -> None:
                called.append(len(called))
                way_in.call_soon(partial(ran.append, called[-1]))

            async with anyio.create_task_group() as tasks:

                class Tasks:
                    def start_soon(self, *args: Any, **kwargs: Any) -> None:
                        assert way_in.bell is not None
                        call()
                        tasks.start_soon(*args, **kwargs)

                way_in = _trio.WayIn(cast("TaskGroup", Tasks()))
                way_in.call_soon(call)  # opens the short way, and calls the long way
                while len(ran) < 2:
                    await anyio.sleep(0)
                way_in.close()
            assert ran == called == [0, 1]

    anyio.run(main, backend="trio")


def test_who_sleeps_listens_and_no_task_is_needed_for_it() -> None:
    """Guards ``Nap``: an item reaches whoever waits for it without a detour."""

    async def main() -> None:
        async with dss.open_hub[int]() as hub:
            way_in = way_into(hub)
            tasks = trio.lowlevel.current_task().child_nurseries[0].child_tasks

            def send() -> None:
                for number in range(50):
                    until(lambda: hub.statistics().tasks_waiting_receive)
                    if number:  # the first one comes the long way, and opens the short one
                        until(lambda: way_in.bell is not None)
                    hub.portal.send(number)

            with threads(send):
                for number in range(50):
                    assert await hub.receive() == number
                    assert way_in.bell is None
                    assert not tasks

    anyio.run(main, backend="trio")


def test_who_listens_is_woken_by_another_task_as_well() -> None:
    async def main() -> None:
        async with dss.open_hub[int]() as hub:
            await anyio.to_thread.run_sync(hub.portal.call, int)  # opens the short way
            stream = hub.clone()

            async def receive() -> None:
                with pytest.raises(anyio.ClosedResourceError):
                    await stream.receive()

            with anyio.fail_after(5):
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(receive)
                    await eventually(lambda: way_into(hub).bell is not None)
                    stream.close()

    anyio.run(main, backend="trio")


def test_at_each_depth_of_the_stack_a_sleeper_is_woken_or_refused() -> None:
    """What it hears is called at its own depth. Guards ``STACK_FOR_A_WAKE``."""
    outcomes: list[str] = []

    async def receive(hub: dss.Hub[int], depth: int) -> None:
        if depth:
            await receive(hub, depth - 1)
        else:
            await hub.receive()

    async def main() -> None:
        async with dss.open_hub[int]() as hub:
            done = threading.Event()

            def send() -> None:
                while not done.wait(0.001):
                    counts = hub.statistics()
                    if counts.tasks_waiting_receive and not counts.queued:
                        hub.portal.send(1)

            with threads(send):
                try:
                    for depth in range(200):
                        with anyio.fail_after(5):
                            try:
                                await receive(hub, depth)
                            except RecursionError:
                                outcomes.append("refused")
                                await hub.receive()  # is it heard?
                            else:
                                outcomes.append("woken")
                finally:
                    done.set()

    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(200)
    try:
        anyio.run(main, backend="trio")
    finally:
        sys.setrecursionlimit(limit)
    first = outcomes.index("refused")
    assert outcomes == ["woken"] * first + ["refused"] * (200 - first)
    assert first > 50


@pytest.mark.parametrize("end", ["close", "cancel", "close_way"])
def test_what_is_called_while_one_stops_listening_is_not_left_in_the_line(end: str) -> None:
    """Guards the last lines of ``ShortWay.listen``."""

    async def main() -> None:
        called: list[int] = []
        scope = anyio.CancelScope()

        async def receive(stream: dss.Receiver[int]) -> None:
            with scope, contextlib.suppress(anyio.ClosedResourceError):
                await stream.receive()
                pytest.fail("there is nothing")

        async with anyio.create_task_group() as tasks, dss.open_hub[int]() as hub:
            way_in = way_into(hub)
            await anyio.to_thread.run_sync(hub.portal.call, int)  # opens the short way
            stream = hub.clone()
            tasks.start_soon(receive, stream)
            await eventually(lambda: way_in.bell is not None)
            {"close": stream.close, "cancel": scope.cancel, "close_way": way_in.close}[end]()
            assert way_in.bell is not None, "it has not run since"
            with threads(lambda: way_in.call_soon(partial(called.append, 1))):
                pass
            await eventually(lambda: called)
            assert way_in.bell is None
            stream.close()

    before = open_files()
    anyio.run(main, backend="trio")
    assert open_files() == before


def test_a_bell_that_is_rung_until_it_is_full_is_heard() -> None:
    async def main() -> int:
        ran: list[int] = []

        def call_often() -> None:
            for number in range(100_000):
                way_in.call_soon(lambda number=number: ran.append(number))

        async with dss.open_hub[int]() as hub:
            await anyio.to_thread.run_sync(use, hub)
            way_in = way_into(hub)
            with threads(call_often) as [thread]:
                thread.join(60)  # the event loop does not run meanwhile
                assert not thread.is_alive()
                assert ran == []
            await anyio.wait_all_tasks_blocked()
        assert ran == sorted(ran)
        return len(ran)

    assert anyio.run(main, backend="trio") == 100_000


def test_the_hub_hears_its_threads_as_long_as_somebody_receives() -> None:
    """The cancelled tasks of a hub may have something to finish.

    What rings while the one that listens is being cancelled is in the line, announced, and unheard.
    """
    received: list[int] = []

    async def receive(hub: dss.Hub[int]) -> None:
        with anyio.CancelScope(shield=True):
            received.append(await hub.receive())

    async def main() -> None:
        async with dss.open_hub[int]() as hub:
            await anyio.to_thread.run_sync(use, hub)
            assert way_into(hub).free_ear is None, "a task listens"
            hub.task_group.start_soon(receive, hub)
            await eventually(lambda: hub.statistics().tasks_waiting_receive)
            hub.task_group.cancel_scope.cancel()
            with threads(lambda: hub.portal.send(1)):
                pass  # before any task runs
            with anyio.CancelScope(shield=True):
                await eventually(lambda: received)

    anyio.run(main, backend="trio")
    assert received == [1]


def run(call: str) -> subprocess.CompletedProcess[str]:
    """What comes of a call of a function of this module in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", f"import test_trio; test_trio.{call}"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_without_a_free_file_descriptor_the_run_s_own_way_goes_on_working() -> None:
    """In a process of its own, of which the limit is a setting."""
    done = run(f"{use_up_all_files.__name__}()")
    assert (done.returncode, done.stdout, done.stderr) == (0, "1 None\n", "")


def use_up_all_files() -> None:
    def send_when_it_sleeps(hub: dss.Hub[int]) -> None:
        until(lambda: hub.statistics().tasks_waiting_receive)
        hub.portal.send(1)

    async def main() -> None:
        async with dss.open_hub[int]() as hub:
            thread = threading.Thread(target=send_when_it_sleeps, args=(hub,))
            thread.start()
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (len(open_files()), hard))
            item = await hub.receive()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            thread.join()
            print(item, way_into(hub).bell)

    anyio.run(main, backend="trio")


def test_ctrl_c_while_a_call_is_run_reaches_the_function_that_is_called() -> None:
    """As with ``trio.from_thread.run_sync``; between two of our states it does not strike."""
    struck: list[str] = []

    def strike() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            struck.append("the call")

    async def main() -> None:
        def ask() -> None:
            use(hub)  # now the short way is open
            hub.portal.call(strike)
            hub.portal.send(2)

        async with dss.open_hub[int]() as hub:
            with threads(ask), anyio.fail_after(10):
                while await hub.receive() != 2:
                    pass

    anyio.run(main, backend="trio")
    assert struck == ["the call"]
