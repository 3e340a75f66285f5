"""Threads for what may block, which a loop waits for, but not longer than it wants."""

from __future__ import annotations

import asyncio
import math
import selectors
import subprocess
import sys
import textwrap
import threading
import time
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from conftest import BACKENDS

from dss_anyio._loops import worker
from dss_anyio._loops.worker import Worker, start_daemon
from dss_anyio.testing import eventually, until


def run_python(program: str) -> list[str]:
    """What *program* prints; it must end by itself, and without a complaint."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-c", textwrap.dedent(program)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


# -- A thread --------------------------------------------------------------------------------------


def test_it_is_a_daemon_with_a_name() -> None:
    seen: list[threading.Thread] = []
    thread = start_daemon(lambda: seen.append(threading.current_thread()), "a name")
    thread.join(10)
    assert seen == [thread]
    assert thread.daemon
    assert thread.name == "a name"


def test_where_python_makes_no_more_threads_the_caller_does_it() -> None:
    """Guards the ``except RuntimeError``: a stack larger than the memory cannot be made."""
    pytest.importorskip("resource")
    assert run_python(
        """
        import resource, threading
        from dss_anyio._loops.worker import start_daemon

        def who():
            print(threading.current_thread() is threading.main_thread())

        threading.stack_size(1 << 35)
        resource.setrlimit(resource.RLIMIT_AS, (1 << 35, 1 << 35))
        thread = start_daemon(who, "no room")
        print(thread.ident)
        """
    ) == ["True", "None"]


def test_python_waits_for_a_thread_that_has_not_begun_and_then_starts_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CPython would free what belongs to that thread, and crash when the system lets it run."""
    monkeypatch.setattr(worker, "_over", over := [])
    begun = threading.Lock()
    begun.acquire()
    monkeypatch.setitem(worker._starting, "one", begun)
    waits = threading.Thread(target=worker._start_no_more)
    waits.start()
    until(lambda: over)
    assert waits.is_alive()
    begun.release()
    waits.join()
    called: list[int] = []
    start_daemon(lambda: called.append(threading.get_ident()), "in this one")
    assert called == [threading.get_ident()]
    assert set(worker._starting) <= {"one"}


def test_while_python_exits_the_caller_does_it() -> None:
    """Guards ``is_finalizing``: until 3.11, ``start`` would wait for ever."""
    assert run_python(
        """
        import os, sys
        from dss_anyio._loops.worker import start_daemon

        def say(word, write=os.write):
            write(1, f"{word} ".encode())

        class Last:
            def __del__(self, start=start_daemon, finalizing=sys.is_finalizing, say=say):
                say(finalizing())
                say(start(lambda: say("done"), "too late").ident)

        kept_until_the_end = Last()
        """
    ) == ["True done None "]


# -- A thread and a loop ---------------------------------------------------------------------------


class Gate:
    """Something to do that is entered, and left when somebody says so."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go_on = threading.Event()
        self.left = threading.Event()

    def __call__(self) -> str:
        self.entered.set()
        assert self.go_on.wait(10)
        self.left.set()
        return "result"


@pytest.mark.anyio
async def test_its_result_arrives_in_the_loop() -> None:
    gate = Gate()
    worker = Worker(gate, "gate")
    await eventually(gate.entered.is_set)
    assert not worker.done
    with pytest.raises(TimeoutError):
        worker.outcome()
    gate.go_on.set()
    assert await worker.result() == "result"
    assert worker.done
    assert worker.outcome() == "result"
    assert await worker.result() == "result"


@pytest.mark.anyio
@pytest.mark.parametrize("exception", [KeyError, KeyboardInterrupt, SystemExit])
async def test_what_it_raises_is_raised_in_the_loop_and_nowhere_else(
    exception: type[BaseException], capfd: pytest.CaptureFixture[str]
) -> None:
    raised = exception("in the thread")

    def fail() -> None:
        raise raised

    worker = Worker(fail, "fail")
    with pytest.raises(exception) as caught:
        await worker.result()
    assert caught.value is raised
    with pytest.raises(exception):
        worker.outcome()
    assert capfd.readouterr() == ("", "")


@pytest.mark.anyio
async def test_it_runs_in_a_daemon_thread_of_its_own() -> None:
    workers = [Worker(threading.current_thread, f"number {number}") for number in range(3)]
    seen = [await worker.result() for worker in workers]
    assert [thread.name for thread in seen] == ["number 0", "number 1", "number 2"]
    assert all(thread.daemon for thread in seen)


@pytest.mark.anyio
async def test_it_runs_although_all_of_anyios_worker_threads_are_in_use() -> None:
    limiter = anyio.to_thread.current_default_thread_limiter()
    borrowers = [object() for _ in range(int(limiter.total_tokens))]
    for borrower in borrowers:
        limiter.acquire_on_behalf_of_nowait(borrower)
    try:
        with anyio.fail_after(10):
            assert await Worker(lambda: "result", "worker").result() == "result"
    finally:
        for borrower in borrowers:
            limiter.release_on_behalf_of(borrower)


@pytest.mark.anyio
async def test_waiting_for_the_result_can_be_cancelled_and_the_thread_goes_on() -> None:
    gate = Gate()
    worker = Worker(gate, "gate")
    with anyio.move_on_after(0.01) as scope:
        await worker.result()
    assert scope.cancelled_caught
    assert not gate.left.is_set()
    gate.go_on.set()
    assert await worker.result() == "result"


@pytest.mark.anyio
async def test_outlasting_it_makes_cancellation_wait() -> None:
    gate = Gate()
    worker = Worker(gate, "gate")

    async def cancel() -> None:
        await eventually(gate.entered.is_set)
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        assert not outlasted
        gate.go_on.set()

    outlasted: list[BaseException | None] = []
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(cancel)
        with anyio.CancelScope() as scope:
            outlasted.append(await worker.outlast())
            assert worker.outcome() == "result"
            await anyio.lowlevel.checkpoint()
    assert scope.cancelled_caught
    assert outlasted == [None], "the scope raises its own cancellation at the next checkpoint"


@pytest.mark.anyio
async def test_outlasting_it_ends_after_so_many_seconds() -> None:
    gate = Gate()
    worker = Worker(gate, "gate")
    before = time.monotonic()
    assert await worker.outlast(0.02) is None
    assert time.monotonic() - before >= 0.019
    assert not worker.done
    with pytest.raises(TimeoutError):
        worker.outcome()
    gate.go_on.set()
    assert await worker.outlast(10) is None
    assert worker.outcome() == "result"


@pytest.mark.anyio
async def test_outlasting_it_takes_no_longer_than_it_does() -> None:
    worker = Worker(lambda: "result", "worker")
    await worker.result()
    with anyio.fail_after(5):
        assert await worker.outlast() is None
        assert await worker.outlast(600) is None


@pytest.mark.anyio
@pytest.mark.parametrize("at_most", [math.inf, 10])
@pytest.mark.parametrize("times", [1, 3])
async def test_outlasting_it_returns_the_native_cancellation_that_came_meanwhile(
    backend_name: str, times: int, at_most: float
) -> None:
    if backend_name == "trio":
        pytest.skip("trio has no other cancellation than that of scopes")
    gate = Gate()
    worker = Worker(gate, "gate")

    async def outlast() -> None:
        cancelled = await worker.outlast(at_most)
        assert worker.outcome() == "result"
        assert isinstance(cancelled, asyncio.CancelledError)
        raise cancelled

    task = asyncio.ensure_future(outlast())
    await anyio.lowlevel.checkpoint()  # it has begun to wait
    for _ in range(times):
        task.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
    assert not task.done()
    gate.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


@pytest.mark.anyio
async def test_native_cancellation_does_not_make_the_time_limit_longer(backend_name: str) -> None:
    if backend_name == "trio":
        pytest.skip("trio has no other cancellation than that of scopes")
    gate = Gate()
    worker = Worker(gate, "gate")
    task = asyncio.ensure_future(worker.outlast(0.05))
    await anyio.lowlevel.checkpoint()  # it has begun to wait
    task.cancel()
    with anyio.fail_after(5):
        assert isinstance(await task, asyncio.CancelledError)
    assert not worker.done
    gate.go_on.set()
    await worker.result()


class JumpingLoop(asyncio.SelectorEventLoop):
    """Its clock jumps to the next timer when there is nothing to do, as that of looptime."""

    def __init__(self) -> None:
        loop = self
        self.now = 0.0

        class Selector(selectors.DefaultSelector):
            def select(self, timeout: float | None = None) -> Any:
                ready = super().select(0)
                if ready or timeout is None:
                    return ready or super().select()
                loop.now += max(0.0, timeout)
                return ready

        super().__init__(Selector())

    def time(self) -> float:
        return self.now


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_time_limit_is_in_real_time_whatever_clock_the_loop_has(backend: str) -> None:
    gate = Gate()
    begun = time.monotonic()

    async def jump() -> None:
        await anyio.sleep(100_000)
        gate.go_on.set()

    async def main() -> None:
        worker = Worker(gate, "gate")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(jump)
            await worker.outlast(30)
            assert worker.outcome() == "result"
        slow = threading.Event()
        worker = Worker(slow.wait, "slow")  # type: ignore[assignment]
        await worker.outlast(0.02)
        assert not worker.done
        slow.set()
        await worker.result()

    if backend == "trio":
        import trio.testing

        # (anyio 4.11 does not hand the clock on.)
        trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    else:
        loop = JumpingLoop()
        loop.run_until_complete(main())
        loop.close()
    assert 0.019 < time.monotonic() - begun < 10


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_thread_that_outlives_its_loop_ends_quietly(
    backend: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Guards the ``except RuntimeError`` in ``Worker._run``."""
    gate = Gate()
    seen: list[threading.Thread] = []

    def work() -> None:
        seen.append(threading.current_thread())
        gate()

    async def main() -> None:
        Worker(work, "work")
        await eventually(gate.entered.is_set)

    name, options = BACKENDS[backend]
    anyio.run(main, backend=name, backend_options=options)
    gate.go_on.set()
    until(lambda: not seen[0].is_alive())
    assert capfd.readouterr() == ("", "")


def test_python_exits_although_a_worker_never_returns() -> None:
    assert run_python(
        """
        import threading
        import anyio
        from dss_anyio._loops.worker import Worker

        async def main():
            worker = Worker(threading.Event().wait, "for ever")
            await worker.outlast(0.01)
            print(worker.done)

        anyio.run(main)
        """
    ) == ["False"]
