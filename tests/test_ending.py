"""No thread is left behind, on any way out; and what happens at the end happens in its order.

Each way out is taken by a program in ``ways_out/``, in a process of its own, with threads that are
blocked in ``send`` and others that never stop calling. There is no time limit in those programs but
the last resort: whoever is not released keeps the process from exiting.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from bytecodes import before_bytecode, run_interrupted
from conftest import WITHOUT_GIL

import dss_anyio as dss
from dss_anyio._core import inside
from dss_anyio._core.errors import hub_gone
from dss_anyio._core.mailbox import Mailbox
from dss_anyio._core.source import Lane, Source
from dss_anyio._core.waiter import WaitForPlace
from dss_anyio._ending import order as _ending
from dss_anyio._ending.order import end_source, end_sources
from dss_anyio._loops.flag import Flag
from dss_anyio.testing import threads, until

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

WAYS_OUT = Path(__file__).with_name("ways_out")
LOOPS = ["asyncio", "uvloop", "trio"]
RELEASED = [
    f"{who} is released, then nothing is accepted"
    for who in ("first", "second", "registered", "asker", "native", "native asker")
]
NEVER_ON_STDERR = ["Exception ignored", "Fatal Python error", "ResourceWarning: Unclosed <"]
# A KeyboardInterrupt that strikes in asyncio leaves more than that open.
NEVER_WITHOUT_CTRL_C = ["ResourceWarning", "was destroyed", "never awaited", "never retrieved"]


@dataclass
class Left:
    """What a program did that has left its hub."""

    status: int
    lines: list[str]
    complaints: str

    def released_everybody(self) -> bool:
        return sorted(set(self.lines) & set(RELEASED)) == sorted(RELEASED)

    def released_python_threads(self) -> bool:
        """As far as one sees: Python does not wait for a thread that it has not made."""
        return set(RELEASED[:4]) <= set(self.lines)


starters: list[socket.socket] = []


@pytest.fixture(autouse=True, scope="module")
def starter() -> Iterator[None]:
    """A process that becomes the programs: see ``ways_out/start.py``."""
    ours, theirs = socket.socketpair()
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-X", "dev", WAYS_OUT / "start.py"], stdin=theirs
        )
    with process, ours:
        starters[:] = [ours]
        yield
    assert process.returncode == 0


def leave(program: str, *arguments: str) -> Left:
    """Run a program of ``ways_out`` to its end. It gets a SIGINT when a line asks for it."""
    says_here, says = os.pipe()
    reads, reads_here = os.pipe()
    with (
        tempfile.TemporaryFile("w+") as stderr,
        open(says_here) as stdout,
        open(reads_here, "wb", buffering=0) as stdin,
        starters[0].makefile("r") as answers,
    ):
        message = json.dumps([str(WAYS_OUT / f"{program}.py"), *arguments]).encode()
        socket.send_fds(starters[0], [message], [reads, says, stderr.fileno()])
        os.close(reads)
        os.close(says)
        process = int(answers.readline())
        lines: list[str] = []
        for line in stdout:
            lines.append(line.strip())
            if lines[-1] == "SIGINT":
                os.kill(process, signal.SIGINT)
                stdin.write(b"!")
        status = os.waitstatus_to_exitcode(int(answers.readline()))
        stderr.seek(0)
        return Left(status, lines, stderr.read())


def check(
    left: Left, status: int = 0, error: str | None = None, says: tuple[str, ...] = ()
) -> None:
    """*left* has ended with *status*, has said *says*, and complains of *error* only."""
    assert left.status == status, f"{left.lines}\n{left.complaints}"
    for line in says:
        assert line in left.lines
    for word in NEVER_ON_STDERR + (NEVER_WITHOUT_CTRL_C if status >= 0 else []):
        assert word not in left.complaints
    if error is None:
        assert left.complaints == ""
    else:
        assert error in left.complaints
        if status >= 0:
            assert left.complaints.startswith(("Traceback", "  + Exception Group Traceback"))


# -- Ways out of a hub in an event loop ------------------------------------------------------------

KEYBOARD_INTERRUPT: dict[str, Any] = {"status": -signal.SIGINT, "error": "KeyboardInterrupt"}
OUT_OF_A_LOOP: dict[str, dict[str, Any]] = {
    "normally": {},
    "normally_while_items_are_received": {},
    "by_an_exception": {"status": 1, "error": "ValueError: in the body"},
    "by_a_crashed_consumer": {"status": 1, "error": "ValueError: in the consumer"},
    "by_a_cancelled_scope": {"says": ("cancelled: True",)},
    "by_a_timeout": {"says": ("TimeoutError",)},
    "by_ctrl_c": KEYBOARD_INTERRUPT,
    "by_ctrl_c_while_items_are_received": KEYBOARD_INTERRUPT,
    "by_ctrl_c_twice": KEYBOARD_INTERRUPT,
    "by_sys_exit": {"status": 3},
    "by_closing_it": {"says": ("blocked: 0",)},
}


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("way", OUT_OF_A_LOOP)
def test_no_thread_is_left_behind_when_a_hub_in_a_loop_is_left(way: str, loop: str) -> None:
    if (
        way == "by_ctrl_c_while_items_are_received"
        and loop != "trio"
        and sys.version_info < (3, 11)
    ):
        pytest.skip("asyncio.run hangs if Ctrl-C comes while it is about to resume a task")
    left = leave("in_a_loop", way, loop)
    check(left, **OUT_OF_A_LOOP[way])
    assert left.released_everybody()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_no_thread_is_left_behind_by_native_cancellation(loop: str) -> None:
    left = leave("in_a_loop", "by_native_cancellation", loop)
    check(left, says=("cancelled: True",))
    assert left.released_everybody()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_second_native_cancellation_does_not_cut_the_end_short(loop: str) -> None:
    left = leave("in_a_loop", "by_native_cancellation_twice", loop)
    check(left, says=("still ending: True", "cancelled: True"))
    assert left.released_everybody()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_no_thread_is_left_behind_by_an_async_generator_that_is_not_finished(loop: str) -> None:
    left = leave("in_a_loop", "by_forgetting_a_generator", loop)
    assert left.status == 0  # stderr has the backend's own opinion of such a program
    assert left.released_everybody()


# -- Ways out that the hub is not told of ----------------------------------------------------------

OUT_OF_A_CLOSED_LOOP: dict[str, tuple[str, ...]] = {
    "by_stopping_and_closing_the_loop": ("the library is stopped", "done: False"),
    "by_stopping_and_closing_the_loop_and_a_collection": ("the library is stopped",),
    "by_stopping_the_loop_and_destroying_the_coroutine": ("the library is stopped",),
    "by_ctrl_c_and_closing_the_loop": ("KeyboardInterrupt:", "done: False"),
    "by_an_end_that_was_stopped": ("the library is stopped",),
}


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
@pytest.mark.parametrize("way", OUT_OF_A_CLOSED_LOOP)
def test_no_thread_is_left_behind_when_a_loop_is_closed_under_the_hub(way: str, loop: str) -> None:
    left = leave("closed_loop", way, loop)
    check(left, says=OUT_OF_A_CLOSED_LOOP[way])
    assert left.released_everybody()


@pytest.mark.parametrize("loop", LOOPS)
def test_python_exits_although_threads_wait_for_a_hub_in_a_daemon_thread(loop: str) -> None:
    left = leave("at_exit", "with_a_loop_in_a_daemon_thread", loop)
    check(left, says=("the library is stopped",))
    assert left.released_python_threads()


@pytest.mark.parametrize("loop", LOOPS)
def test_python_exits_although_a_hub_in_a_daemon_thread_receives_all_the_time(loop: str) -> None:
    left = leave("at_exit", "with_a_busy_loop_in_a_daemon_thread", loop)
    check(left)
    assert left.released_python_threads()


@pytest.mark.parametrize("run", range(3))
@pytest.mark.parametrize("loop", LOOPS)
def test_python_exits_although_hubs_come_and_go_in_daemon_threads(loop: str, run: int) -> None:
    check(leave("at_exit", "with_hubs_that_come_and_go_in_daemon_threads", loop))


@pytest.mark.parametrize("loop", LOOPS)
def test_a_hub_in_a_thread_that_python_joins_lives_until_that_thread_ends(loop: str) -> None:
    left = leave("at_exit", "with_a_loop_in_a_thread_that_ends_by_itself", loop)
    check(left, says=("received after the main thread has ended: 4", "the library is stopped"))
    assert left.released_python_threads()


def test_python_exits_although_threads_wait_for_a_hub_in_a_stopped_loop() -> None:
    left = leave("at_exit", "with_a_stopped_loop")
    assert left.status == 0  # stderr has asyncio's complaint of a loop that is not closed
    assert "Fatal Python error" not in left.complaints
    assert left.released_python_threads()


@pytest.mark.parametrize(
    "way", ["with_an_open_polled_hub", "with_an_open_polled_hub_of_an_ended_thread"]
)
def test_python_exits_although_threads_wait_for_a_polled_hub_that_is_never_closed(way: str) -> None:
    left = leave("at_exit", way)
    assert left.status == 0
    assert "the library is stopped" in left.lines
    if WITHOUT_GIL:
        assert left.complaints == ""  # the hub outlives what could print the warning
    else:
        assert left.complaints.count("ResourceWarning: Unclosed <PolledHub") == 1
    assert "Exception ignored" not in left.complaints
    assert left.released_python_threads()


LATE_EXECUTORS = [
    ("with_late_executors_and_a_polled_hub", "polled", 4),
    *(("with_late_executors_and_start_hub", loop, 4) for loop in LOOPS),
    *(("with_the_executor_of_a_stopped_loop", loop, 2) for loop in ("asyncio", "uvloop")),
]


@pytest.mark.parametrize(("way", "loop", "inside"), LATE_EXECUTORS)
def test_python_exits_although_threads_of_an_executor_that_came_later_wait_for_a_hub(
    way: str, loop: str, inside: int
) -> None:
    """Guards that ours is called before whatever was registered after the import of dss_anyio."""
    left = leave("at_exit", way, loop)
    assert left.status == 0, left.complaints
    assert "Fatal Python error" not in left.complaints
    assert left.lines.count("a thread of the executor is released") == inside


NO_THREADS_AT_EXIT = (3, 12) <= sys.version_info < (3, 12, 2)
starts_threads_at_exit = pytest.mark.skipif(
    NO_THREADS_AT_EXIT, reason="3.12.0 and 3.12.1 start no thread while Python exits"
)


@starts_threads_at_exit
@pytest.mark.parametrize(
    ("way", "says"),
    [
        ("with_a_worker_of_an_executor_for_its_own_thread", ()),
        (
            "with_a_thread_that_ends_later_and_has_polled_last",
            ("received after the main thread has ended: True",),
        ),
    ],
)
def test_a_hub_that_a_thread_leaves_behind_while_python_waits_for_it_ends_with_that_thread(
    way: str, says: tuple[str, ...]
) -> None:
    left = leave("at_exit", way)
    assert left.status == 0, left.complaints
    assert "Exception ignored" not in left.complaints
    assert {*says, "the library is stopped"} <= set(left.lines)
    assert left.lines.count("a thread of the executor is released") == 2


def test_at_exit_all_hubs_release_everybody_before_any_library_is_stopped() -> None:
    left = leave("at_exit", "with_a_library_that_joins_a_thread_which_waits_in_another_hub")
    assert left.status == 0, left.complaints
    assert {"a thread of the executor is released", "joined"} <= set(left.lines)


@starts_threads_at_exit
def test_ctrl_c_at_exit_leaves_nobody_behind() -> None:
    left = leave("at_exit", "by_ctrl_c_while_a_library_is_being_stopped")
    assert "KeyboardInterrupt" in left.complaints
    assert "a thread of the executor is released" in left.lines


# -- When the main thread has ended ----------------------------------------------------------------


@starts_threads_at_exit
def test_a_hub_that_was_opened_after_the_main_thread_had_ended_ends_with_its_thread() -> None:
    left = leave("after_main", "in_a_thread")
    assert left.status == 0, left.complaints
    assert {"the sender is released", "the library is stopped"} <= set(left.lines)


@pytest.mark.parametrize("when", ["in_a_thread_that_uses_all_kinds", "at_exit"])
def test_hubs_can_be_opened_after_the_main_thread_has_ended(when: str) -> None:
    left = leave("after_main", when)
    assert left.status == 0, left.complaints
    assert "Traceback" not in left.complaints
    assert {
        "polled ['item']",
        "library of a polled hub: stopped",
        *(f"{backend} receives 'item'" for backend in ("asyncio", "trio")),
        *(f"library in {backend}: stopped" for backend in ("asyncio", "trio")),
    } <= set(left.lines)
    started = {f"started in {backend}: 1" for backend in ("asyncio", "trio")}
    refused = {
        f"start_hub in {backend}: can't create new thread at interpreter shutdown"
        for backend in ("asyncio", "trio")
    }
    assert started <= set(left.lines) or refused <= set(left.lines)
    if when == "at_exit":
        assert "at exit the old hub takes items: False" in left.lines


def test_a_hub_that_a_function_of_atexit_leaves_open_does_not_keep_python_from_exiting() -> None:
    left = leave("after_main", "at_exit_leaving_one_open")
    assert left.status == 0, left.complaints
    assert "received ['item']" in left.lines


# -- Ways out of a polled hub ----------------------------------------------------------------------

OUT_OF_A_POLLED_HUB: dict[str, dict[str, Any]] = {
    "normally": {},
    "normally_after_items_were_polled": {},
    "normally_after_a_select_loop": {},
    "by_an_exception": {"status": 1, "error": "ValueError: in the body"},
    "by_sys_exit": {"status": 3},
    "by_ctrl_c_while_items_are_polled": KEYBOARD_INTERRUPT,
    "by_ctrl_c_twice": KEYBOARD_INTERRUPT,
    "by_a_signal_handler_that_closes_it": {"says": ("ClosedResourceError",)},
    "by_another_thread_that_closes_it": {"says": ("ClosedResourceError",)},
}


@pytest.mark.parametrize("way", OUT_OF_A_POLLED_HUB)
def test_no_thread_is_left_behind_when_a_polled_hub_is_left(way: str) -> None:
    left = leave("polled", way)
    check(left, **OUT_OF_A_POLLED_HUB[way])
    assert left.released_everybody()


def test_ctrl_c_wakes_the_thread_that_waits_for_items() -> None:
    left = leave("polled", "by_ctrl_c_in_wait")
    check(left, **KEYBOARD_INTERRUPT)
    assert "in wait" in left.complaints


@pytest.mark.parametrize("way", ["by_forgetting_it", "by_forgetting_it_in_a_cycle"])
def test_no_thread_is_left_behind_by_a_hub_that_is_garbage(way: str) -> None:
    left = leave("polled", way)
    assert left.status == 0
    assert "ResourceWarning: Unclosed <PolledHub" in left.complaints
    assert "Exception ignored" not in left.complaints
    assert left.released_everybody()


# -- Everybody else who waits ----------------------------------------------------------------------

WHERE_NOBODY_ENDS_IT = [
    *(
        (way, loop)
        for way in ("by_stopping_and_closing_the_loop", "by_destroying_the_coroutine")
        for loop in ("asyncio", "uvloop")
    ),
    ("by_becoming_garbage", "polled"),
]


@pytest.mark.parametrize(("way", "loop"), WHERE_NOBODY_ENDS_IT)
def test_nobody_is_left_behind_in_any_other_call_that_waits(way: str, loop: str) -> None:
    """In a call, a start of a task, a feed; and in tasks of two other event loops."""
    left = leave("everybody", way, loop)
    waiting = ["call", "feed.take", *["arequest", "asend", "call_async"] * 2]
    other_lines = ["over"]
    if loop == "polled":
        assert left.complaints.count("ResourceWarning: Unclosed <PolledHub") == 1
    else:
        waiting.append("start_task")  # which needs an event loop
        other_lines.append("done: False")
    assert sorted(left.lines) == sorted(
        [*other_lines, *(f"{who} is released, then nothing is accepted" for who in waiting)]
    )
    assert left.status == 0
    assert "Exception ignored" not in left.complaints


# -- Forks -----------------------------------------------------------------------------------------

FORKS = [
    *(
        (way, loop)
        for way in (
            "in_the_loop_thread",
            "in_the_loop_thread_and_leaving_the_block",
            "in_the_loop_thread_and_raising_in_the_block",
            "in_another_thread",
            "with_multiprocessing",
            "with_start_hub",
        )
        for loop in LOOPS
    ),
    ("with_a_polled_hub", "polled"),
]


@pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
@pytest.mark.parametrize(("way", "loop"), FORKS)
def test_a_forked_child_has_a_dead_hub_and_the_parent_does_not_notice(way: str, loop: str) -> None:
    left = leave("forked", way, loop)
    check(
        left,
        says=(
            "in the child nothing is accepted",
            "in the child a new hub receives ['item']",
            "status 0",
            "the parent receives from 8 threads",
        ),
    )
    assert any(line.endswith("late calls, 0 blocked") for line in left.lines)
    assert not any("0 late calls" in line for line in left.lines)
    assert [line for line in left.lines if line.startswith("library")] == ["library: stopped in 0"]
    assert left.released_everybody()


@pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
@pytest.mark.parametrize(
    ("call", "outcome"),
    [
        ("send", None),
        ("send_many", None),
        ("request", "answer"),
        ("call", ""),
        ("feed.take", "item"),
    ],
)
def test_a_child_that_is_forked_in_a_call_which_waits_gets_an_error_there(
    call: str, outcome: object
) -> None:
    left = leave("forked", "in_a_signal_handler_of_a_thread_that_is_blocked", call)
    check(
        left,
        says=(
            "the child goes on with 'BrokenResourceError'",
            "status 0",
            f"the parent goes on with {outcome!r}",
        ),
    )


@pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
def test_a_child_that_is_forked_while_items_are_handed_back_hands_nothing_back() -> None:
    left = leave("forked", "while_items_are_handed_back")
    check(left)
    assert left.lines == [
        "first is handed back in 0",
        "the child has left the block",
        "status 0",
        "second is handed back in 0",
        "over",
    ]


@pytest.mark.skipif(sys.platform == "win32", reason="has no fork")
def test_a_child_that_drops_hubs_of_the_parent_is_not_told_to_close_them() -> None:
    check(leave("forked", "without_closing_anything"), says=("status 0",))


# -- Libraries that make it hard -------------------------------------------------------------------

LIBRARIES: dict[str, tuple[str, ...]] = {
    "that_joins_its_thread": ("joined",),
    "that_joins_its_thread_in_c": ("joined",),
    "that_joins_its_threads_and_lets_no_python_run": ("joined",),
    "that_sends_when_it_is_stopped": ("at the end nothing is accepted",),
    "that_closes_the_hub_when_it_is_stopped": ("closed again",),
}


@pytest.mark.parametrize("loop", [*LOOPS, "polled"])
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_hub_can_be_left_with_a_library(library: str, loop: str) -> None:
    left = leave("stopping", library, loop)
    check(left, says=LIBRARIES[library])
    assert left.released_everybody()


@pytest.mark.parametrize("loop", [*LOOPS, "polled"])
def test_libraries_that_fail_to_stop_do_not_keep_others_from_being_stopped(loop: str) -> None:
    left = leave("stopping", "that_fails_to_stop", loop)
    check(left)
    assert [line for line in left.lines if line not in RELEASED] == [
        "the last one is stopped",
        "ValueError: library 2",
        "ValueError: library 1",
        "ValueError: library 0",
        "over",
    ]
    assert left.released_everybody()


@pytest.mark.parametrize("loop", LOOPS)
def test_a_library_that_never_stops_does_not_keep_python_from_exiting(loop: str) -> None:
    left = leave("stopping", "open_one_that_never_stops", loop)
    check(left, says=("stopping",))
    assert [line.split(";")[0] for line in left.lines if "Error" in line] == [
        "TimeoutError: stopping source 'library' in hub-1 takes longer than 0.1 s"
    ]
    assert left.released_everybody()


@pytest.mark.parametrize("loop", LOOPS)
def test_a_library_that_never_starts_does_not_keep_python_from_exiting(loop: str) -> None:
    left = leave("stopping", "open_one_that_never_starts", loop)
    check(left)
    assert [line.split(";")[0] for line in left.lines] == [
        "TimeoutError: starting source 'library' in hub-1 has not returned within 0.1 s of its end",
        "over",
    ]


# -- What leaves the block -------------------------------------------------------------------------


@pytest.mark.anyio
@pytest.mark.parametrize("turns", range(5))
async def test_a_consumer_in_the_task_group_is_cancelled_and_does_not_fail(turns: int) -> None:
    """However far the wake has come that is on its way to the consumer when the block is left.

    Guards against a consumer that was woken, but has not run: it must see its cancellation first,
    and not a stream that was closed.
    """

    async def consume() -> None:
        async for item in hub:
            received.append(item)

    received: list[str] = []
    async with dss.open_hub[str]() as hub:
        hub.task_group.start_soon(consume)
        await anyio.wait_all_tasks_blocked()
        hub.portal.send_nowait("item")
        for _ in range(turns):
            await anyio.lowlevel.checkpoint()
    counts = hub.statistics()
    assert (counts.received, counts.undelivered) in {(0, 1), (1, 0)}
    assert len(received) == counts.received


@pytest.mark.anyio
async def test_an_exception_of_the_body_leaves_the_block_as_it_is() -> None:
    error = ValueError()
    with pytest.raises(ValueError) as caught:
        async with dss.open_hub():
            raise error
    assert caught.value is error


@pytest.mark.anyio
async def test_an_exception_group_of_the_body_leaves_the_block_as_it_is() -> None:
    group = ExceptionGroup("of the body", [ValueError()])
    with pytest.raises(ExceptionGroup) as caught:
        async with dss.open_hub():
            raise group
    assert caught.value is group


# -- The order of the end, step by step ------------------------------------------------------------


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox(4, "block")


def open_source(mailbox: Mailbox, name: str, cancel: Callable[[], object]) -> Source:
    source = Source(name)
    source.set_stop(cancel)
    mailbox.open_lane(source)
    mailbox.registry.sources[name] = source
    return source


class Call:
    """A thread that is inside of ``send`` until it is told to leave."""

    def __init__(self, mailbox: Mailbox, lane: Lane) -> None:
        self._mailbox = mailbox
        self._lane = lane
        self._may_leave = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        inside = len(mailbox.inside.waiters)
        self.thread.start()
        until(lambda: len(mailbox.inside.waiters) > inside)

    def _run(self) -> None:
        blocked = WaitForPlace(self._lane, "item", "send", lambda: None)
        self._mailbox.inside.enter(blocked)
        self._may_leave.wait()
        self._mailbox.leave(blocked)

    def leave(self) -> None:
        self._may_leave.set()
        self.thread.join()


def test_a_library_is_stopped_only_after_the_released_calls_have_left(mailbox: Mailbox) -> None:
    stopped: list[str] = []
    open_source(mailbox, "library", lambda: stopped.append("library"))
    one, other = Call(mailbox, mailbox.root), Call(mailbox, mailbox.root)
    mailbox.end(hub_gone)
    with threads(lambda: end_sources(mailbox)):
        until(lambda: mailbox.inside._leaving)
        one.leave()
        assert not stopped
        other.leave()
    assert stopped == ["library"]
    assert not mailbox.inside._leaving


def test_calls_that_do_not_leave_are_waited_for_only_so_long(
    mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_ending, "LEAVE_TIMEOUT", 0.02)
    stopped: list[str] = []
    open_source(mailbox, "library", lambda: stopped.append("library"))
    stuck = Call(mailbox, mailbox.root)
    mailbox.end(hub_gone)
    assert end_sources(mailbox) == []
    assert stopped == ["library"]
    assert stuck.thread.is_alive()
    stuck.leave()


@pytest.fixture
def for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for the wrong call waits until the test's time limit."""
    monkeypatch.setattr(_ending, "LEAVE_TIMEOUT", 3600)


@pytest.mark.usefixtures("for_ever")
def test_an_end_does_not_wait_for_a_call_that_it_has_interrupted(mailbox: Mailbox) -> None:
    """A signal handler may close the hub that the same thread is sending to."""
    mailbox.inside.enter(WaitForPlace(mailbox.root, "item", "send", lambda: None))
    mailbox.end(hub_gone)
    assert end_sources(mailbox) == []


@pytest.mark.usefixtures("for_ever")
def test_the_end_of_one_source_waits_for_its_own_calls_only(mailbox: Mailbox) -> None:
    stopped: list[str] = []
    source = open_source(mailbox, "library", lambda: stopped.append("library"))
    somebody_else = Call(mailbox, mailbox.root)
    mailbox.registry.release(source)
    end_source(mailbox, source, None, errors := [])
    assert errors == []
    assert stopped == ["library"]
    somebody_else.leave()


def test_nobody_leaves_unnoticed(mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """At whichever bytecode of the one who waits: it does not sleep when nobody is inside.

    Guards the order of the two lines ``left.clear()`` and ``if waiter not in ...``.
    """

    class Left(Flag):
        def wait(self, timeout: float | None) -> bool:
            if not intruded:
                call.leave()  # it would sleep: all bytecodes that come before were tried
            assert super().wait(0), f"the call has left before bytecode {at}"
            return True

    monkeypatch.setattr(inside, "Flag", Left)
    for at in count():
        call = Call(mailbox, mailbox.root)
        with before_bytecode(at, call.leave) as intruded:
            mailbox.inside.wait_until_left(None, 2)
        if not intruded:
            break
    assert at > 30, "it was hardly traced at all"


def test_a_call_may_leave_at_any_bytecode_of_another_one_that_leaves(mailbox: Mailbox) -> None:
    """A signal handler or a finalizer may settle a future's question while somebody waits for all.

    Guards ``Flag``: ``threading.Event.set`` takes a lock, and would wait for its own thread.
    """
    mailbox.inside._leaving[Flag()] = None
    for at in count():
        calls = [Call(mailbox, mailbox.root) for _ in range(2)]
        waiters = list(mailbox.inside.waiters)
        if not run_interrupted(
            lambda: mailbox.inside.leave(waiters[0]),  # noqa: B023
            lambda: mailbox.inside.leave(waiters[1]),  # noqa: B023
            at,
            inside_of=("dss_anyio.", "threading"),
        ):
            for call in calls:
                call.leave()
            break
        assert mailbox.inside.waiters == {}
        for call in calls:
            call.leave()
    assert at > 10, "it was hardly traced at all"


def test_libraries_are_stopped_newest_first_and_get_their_items_back_last() -> None:
    events: list[str] = []

    def fail() -> None:
        events.append("stop fails")
        raise ValueError("in cancel")

    hub = dss.open_polled_hub[str]()
    for name in ("oldest", "middle", "newest"):
        cancel = fail if name == "middle" else lambda name=name: events.append(f"stop {name}")
        hub.register(name, stop=cancel, on_undelivered=events.append).send(f"item of {name}")
    with pytest.raises(ExceptionGroup) as caught:
        hub.close()
    assert events == [
        "stop newest",
        "stop fails",
        "stop oldest",
        "item of oldest",
        "item of middle",
        "item of newest",
    ]
    assert [str(exc) for exc in caught.value.exceptions] == ["in cancel"]


def test_a_library_is_stopped_in_a_daemon_thread_that_is_named_after_it() -> None:
    threads_seen: list[threading.Thread] = []
    with dss.open_polled_hub() as hub:
        hub.register("radio", stop=lambda: threads_seen.append(threading.current_thread()))
    (thread,) = threads_seen
    assert thread.daemon
    assert "radio" in thread.name
    assert not thread.is_alive()


def test_a_library_whose_portal_was_closed_is_not_stopped() -> None:
    stopped: list[str] = []
    with dss.open_polled_hub() as hub:
        hub.register("closed", stop=lambda: stopped.append("closed")).close()
        hub.register("aborted", stop=lambda: stopped.append("aborted")).abort()
        hub.register("open", stop=lambda: stopped.append("open"))
    assert stopped == ["open"]


@pytest.mark.usefixtures("switching_fast")
def test_many_ends_at_once_stop_each_library_once() -> None:
    """Guards ``popitem`` in ``end_sources``, and ``retire``, which a closing portal asks, too."""
    for _ in range(30):
        hub = dss.open_polled_hub()
        stopped: list[int] = []
        portals = [
            hub.register(f"library {n}", stop=lambda n=n: stopped.append(n)) for n in range(8)
        ]
        with threads(hub.close, hub.close, hub.close):
            pass
        assert sorted(stopped) == list(range(8))
        for portal in portals:
            portal.close()


@pytest.mark.usefixtures("switching_fast")
def test_a_library_that_unregisters_while_the_hub_ends_is_stopped_at_most_once() -> None:
    for _ in range(50):
        hub = dss.open_polled_hub()
        stopped: list[str] = []
        portal = hub.register("library", stop=lambda: stopped.append("library"))
        with threads(hub.close, portal.close):
            pass
        assert len(stopped) <= 1
        with pytest.raises(LookupError):
            hub.source("library")


# -- Ctrl-C at every bytecode of the end -----------------------------------------------------------


def press_ctrl_c() -> None:
    raise KeyboardInterrupt


@pytest.mark.filterwarnings("ignore:Unclosed <PolledHub:ResourceWarning")
@pytest.mark.parametrize("then", ["it is closed again", "it is forgotten"])
def test_ctrl_c_at_any_bytecode_of_the_end_leaves_nobody_behind(then: str) -> None:
    left_behind: list[int] = []
    bytecodes = 0

    def end_again_and_again() -> None:
        nonlocal bytecodes
        for bytecodes in count():
            hub = dss.open_polled_hub[str](1)
            registered = hub.register("library")
            hub.portal.send("item")
            mailbox = hub._mailbox
            released: list[WaitForPlace] = []
            for lane in (hub.portal._lane, registered._lane):
                blocked = WaitForPlace(lane, "item", "send", lambda: None)
                # Whoever is woken leaves, as ``send`` does in its own thread.
                blocked._wake = lambda each=blocked: (mailbox.leave(each), released.append(each))
                mailbox.wait_for_place(blocked)
            portal = hub.portal
            with suppress(KeyboardInterrupt), before_bytecode(bytecodes, press_ctrl_c) as pressed:
                hub.close()
            if then == "it is closed again":
                hub.close()
            del hub

            def goes_on(mailbox: Any = mailbox, portals: Any = (portal, registered)) -> bool:
                return bool(mailbox.inside.waiters) or any(each.offer("late") for each in portals)

            if goes_on():  # the hub may be in a cycle with the traceback that ended it
                gc.collect(0)
                if goes_on():
                    left_behind.append(bytecodes)
            if not pressed:
                break

    # A trace function can raise where nothing else can, between the end of an ``except`` block and
    # its clean-up. Then the thread keeps an exception in hand: not the thread of the other tests.
    gc.freeze()  # without the GIL there is one generation, and each collection takes all of it
    try:
        with threads(end_again_and_again, timeout=50):
            pass
    finally:
        gc.unfreeze()
    assert left_behind == []
    assert bytecodes > 300, "the end was hardly traced at all"


# -- What hangs is named ---------------------------------------------------------------------------


def test_a_stop_that_overruns_its_limit_is_reported_with_the_thread_it_waits_for() -> None:
    may_end = threading.Event()
    library = threading.Thread(target=may_end.wait, name="the library's pool", daemon=True)
    library.start()
    hub = dss.open_polled_hub()
    hub.register("library", stop=library.join)
    source = hub._mailbox.registry.sources["library"]
    source.stop_timeout = 0.05
    with pytest.raises(ExceptionGroup) as caught:
        hub.close()
    may_end.set()
    [error] = caught.value.exceptions
    assert isinstance(error, TimeoutError)
    assert f"stopping source 'library' in {hub.name} takes longer than 0.05 s" in str(error)
    assert 'waits for the thread "the library\'s pool"' in str(error)


# -- two that end the same -------------------------------------------------------------------------


def test_a_second_close_hands_nothing_back_while_the_first_one_stops_a_library() -> None:
    log: list[str] = []
    stopping, go_on = threading.Event(), threading.Event()

    def cancel() -> None:
        stopping.set()
        go_on.wait(10)
        log.append("stopped")

    hub = dss.open_polled_hub[str]()
    hub.register("library", stop=cancel, on_undelivered=log.append).send("handed back")
    with threads(hub.close):
        assert stopping.wait(10)
        hub.close()
        log.append("the second close has returned")
        go_on.set()
    assert log == ["the second close has returned", "stopped", "handed back"]


@pytest.mark.parametrize("first", ["the source", "the hub"])
def test_an_item_comes_back_after_the_stop_whoever_of_the_two_ends_the_source(first: str) -> None:
    """A task outside of the hub leaves ``open_source`` while the hub ends."""
    log: list[str] = []
    stopping, go_on = threading.Event(), threading.Event()

    def stop(_: object) -> None:
        stopping.set()
        go_on.wait(10)
        log.append("stopped")

    async def main() -> None:
        ready, leave = anyio.Event(), anyio.Event()

        async def use(hub: dss.Hub[str]) -> None:
            async with hub.open_source(
                "library", lambda portal: portal, stop, on_undelivered=log.append
            ) as source:
                source.portal.send_nowait("handed back")
                ready.set()
                await leave.wait()

        async def go_on_later() -> None:
            await anyio.to_thread.run_sync(stopping.wait, 10)
            leave.set()
            await anyio.wait_all_tasks_blocked()
            go_on.set()

        async with anyio.create_task_group() as tasks:
            async with dss.open_hub[str]() as hub:
                tasks.start_soon(use, hub)
                await ready.wait()
                tasks.start_soon(go_on_later)
                if first == "the source":
                    leave.set()
                    await anyio.to_thread.run_sync(stopping.wait, 10)

    for backend in ("asyncio", "trio"):
        log.clear()
        stopping.clear()
        go_on.clear()
        anyio.run(main, backend=backend)
        assert log == ["stopped", "handed back"]


def test_python_does_not_exit_while_a_library_of_a_closed_loop_is_being_stopped() -> None:
    """It is stopped in a daemon thread, which Python would cut off."""
    program = """
import asyncio, threading
import dss_anyio as dss

exiting = threading.Event()
shutdown = threading._shutdown
threading._shutdown = lambda: (exiting.set(), shutdown())  # before ours

def cancel():
    stopping.set()
    exiting.wait(10)
    for _ in range(100):
        threading.Event().wait(0.001)
    print("stopped")

async def main():
    async with dss.open_hub() as hub:
        hub.register("library", stop=cancel, on_undelivered=print).send("handed back")
        loop.stop()
        await asyncio.sleep(10)

stopping = threading.Event()
loop = asyncio.new_event_loop()
task = loop.create_task(main())
loop.run_forever()
task._log_destroy_pending = False
loop.close()
stopping.wait(10)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=40
    )
    assert (done.stdout.split("\n")[:2], done.stderr) == (["stopped", "handed back"], "")
