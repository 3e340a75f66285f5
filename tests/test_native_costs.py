"""What a native send costs beside its time: it allocates nothing, and makes few system calls (N1).

Both are counted from outside, in a Python of its own: by a ``malloc`` and a ``free`` that take the
place of the C library's; and by strace.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from c_threads import (
    CLOSED,
    DROPPED,
    FULL,
    OK,
    TOO_LARGE,
    c_code,
    compiled,
    needs_the_extension,
    run_in_child,
)

pytestmark = needs_the_extension
__all__ = ["c_code"]  # a fixture

# What both programs have in common: *send* sends so often, and says what that has returned.
BEGIN = """
    import ctypes, json, sys
    import anyio
    import dss_anyio as dss
    from c_threads import UNANSWERED, Call, load

    c = load(sys.argv[1])
    told = {}

    def send(label, sender, times=1, size=64):
        statuses = (ctypes.c_int * times)()
        cost = send_and_look(label, sender, times, size, statuses)
        told[label] = cost, sorted(set(statuses))
"""


def told_by(
    code: str, *libraries: Path, front: tuple[str, ...] = (), **env: str
) -> dict[str, tuple[Any, list[int]]]:
    ran = run_in_child(code, *map(str, libraries), front=front, **env)
    if "PTRACE" in ran.stderr and "not permitted" in ran.stderr:
        pytest.skip("strace may not trace here")
    assert (ran.returncode, ran.stderr) == (0, ""), ran
    told: dict[str, tuple[Any, list[int]]] = json.loads(ran.stdout)
    return told


# -- Memory ----------------------------------------------------------------------------------------

ALLOCATE = (
    BEGIN
    + """
    counting = ctypes.CDLL(sys.argv[2])
    libc = ctypes.CDLL(None)

    def send_and_look(label, sender, times, size, statuses):
        return counting.count_sends(
            ctypes.c_void_p(sender.address), ctypes.c_size_t(size), times, statuses
        )

    told["the C library's own"] = counting.count_others(libc.strdup, libc.free), []
    with dss.open_polled_hub() as hub:
        hub.fileno()  # from here on it is woken by datagrams
        sender = hub.register("lib").native_sender(100, item_size=64)
        send("to one that sleeps", sender)
        send("to one that is awake", sender, 99)
        send("without room", sender)
        send("too large", sender, size=65)
        for policy in ("drop_newest", "drop_oldest"):
            dropping = hub.portal.native_sender(10, item_size=64, overflow=policy)
            send(policy + " fills it", dropping, 10)
            send(policy, dropping, 10)
        asked = hub.portal.native_sender(1, overflow="drop_oldest")
        call = Call(c, asked, b"question")
        while not len(asked):
            hub.wait(0.001)
        send("drops one who asks", asked)
        assert call.join()[0] == UNANSWERED
    send("after the end", sender)

    async def main():
        async with dss.open_hub() as hub:
            sender = hub.portal.native_sender()
            hub.task_group.start_soon(hub.receive)
            await anyio.wait_all_tasks_blocked()
            send("into an event loop", sender)
            hub.task_group.cancel_scope.cancel()

    anyio.run(main)
    print(json.dumps(told))
    """
)


@pytest.fixture(scope="session")
def allocations(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``foreign/allocations.c``, compiled."""
    if platform.libc_ver()[0] != "glibc":
        pytest.skip("its malloc can be counted with glibc only")
    if "LD_PRELOAD" in os.environ:
        pytest.skip("something is preloaded here already, which may have a malloc of its own")
    return compiled(tmp_path_factory.mktemp("allocations"), "allocations", "-fno-builtin")


def test_a_send_allocates_nothing_and_frees_nothing(c_code: Path, allocations: Path) -> None:
    """Nor the first one of a thread, whatever comes of it."""
    told = told_by(ALLOCATE, c_code, allocations, LD_PRELOAD=str(allocations))
    assert told.pop("the C library's own")[0] == 2  # so it counts what a function of theirs does
    assert told == {
        "to one that sleeps": [0, [OK]],
        "to one that is awake": [0, [OK]],
        "without room": [0, [FULL]],
        "too large": [0, [TOO_LARGE]],
        "drop_newest fills it": [0, [OK]],
        "drop_newest": [0, [DROPPED]],
        "drop_oldest fills it": [0, [OK]],
        "drop_oldest": [0, [DROPPED]],
        "drops one who asks": [0, [DROPPED]],
        "after the end": [0, [CLOSED]],
        "into an event loop": [0, [OK]],
    }


# -- System calls ----------------------------------------------------------------------------------

MAKE_SYSTEM_CALLS = (
    BEGIN
    + """
    import socket

    def send_and_look(label, sender, times, size, statuses):
        c.marked_sends(sender.address, label.encode(), size, times, statuses)

    def udp():
        listening = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        listening.bind(("127.0.0.1", 0))
        return listening

    with dss.open_polled_hub() as hub:
        sender = hub.register("lib").native_sender(1000)
        send("nobody waits", sender)
        hub.poll()
        hub.fileno()
        send("its own descriptor", sender)
        send("awake", sender, 100)
        hub.poll()
        send("a burst", sender, 100)
        send("too large", sender, size=2000)
        hub.poll()
        for policy in ("block", "drop_newest", "drop_oldest"):
            one = hub.portal.native_sender(1, overflow=policy)
            send(policy + " wakes", one)
            send(policy, one, 100)
            hub.poll()
        asked = hub.portal.native_sender(1, overflow="drop_oldest")
        call = Call(c, asked, b"question")
        while not len(asked):
            hub.wait(0.001)
        send("drops one who asks", asked)
        call.join()
        hub.poll()
        with udp() as listening:
            hub.wake_address = listening.getsockname()
            send("somebody else's socket as well", sender)
            send("both awake", sender, 100)
            hub.poll()
        send("that has closed: first", sender)
        hub.poll()
        send("that has closed", sender, 3)
    send("after the end", sender, 100)
    with udp() as listening, dss.open_polled_hub(wake_address=listening.getsockname()) as hub:
        sender = hub.portal.native_sender()
        send("somebody else's socket", sender)

    async def main():
        async with dss.open_hub() as hub:
            sender = hub.portal.native_sender()
            received = 0

            async def receive():
                nonlocal received
                while True:
                    received += len(await hub.receive_many())

            hub.task_group.start_soon(receive)
            await anyio.wait_all_tasks_blocked()
            send(f"{backend} sleeps", sender)
            send(f"{backend} is awake", sender, 100)
            while received < 101:
                await anyio.sleep(0)
            await anyio.wait_all_tasks_blocked()
            send(f"{backend} sleeps again", sender, 100)
            hub.task_group.cancel_scope.cancel()

    for backend in ("asyncio", "trio"):
        anyio.run(main, backend=backend)
    print(json.dumps(told))
    """
)


ONE, BOTH = ["sendto"], ["sendto", "sendto"]
EXPECTED: dict[str, tuple[list[str], list[int]]] = {
    "nobody waits": (ONE, [OK]),  # yet; so the first one always wakes
    "its own descriptor": (ONE, [OK]),
    "awake": ([], [OK]),
    "a burst": (ONE, [OK]),
    "too large": ([], [TOO_LARGE]),
    "block wakes": (ONE, [OK]),
    "block": ([], [FULL]),
    "drop_newest wakes": (ONE, [OK]),
    "drop_newest": ([], [DROPPED]),
    "drop_oldest wakes": (ONE, [OK]),
    "drop_oldest": ([], [DROPPED]),
    "drops one who asks": (["futex"], [DROPPED]),  # and so wakes that one
    "somebody else's socket as well": (BOTH, [OK]),
    "both awake": ([], [OK]),
    "that has closed: first": (BOTH, [OK]),
    # The error of the datagram before comes instead of this one, which is sent once more.
    "that has closed": ([*BOTH, "sendto"], [OK]),
    "after the end": ([], [CLOSED]),
    "somebody else's socket": (BOTH, [OK]),
    "asyncio sleeps": (["write"], [OK]),
    "asyncio is awake": ([], [OK]),
    "asyncio sleeps again": (["write"], [OK]),
    "trio sleeps": (["write"], [OK]),
    "trio is awake": ([], [OK]),
    "trio sleeps again": (["write"], [OK]),
}


def test_a_send_makes_one_system_call_for_each_who_is_woken_and_else_none(
    c_code: Path, tmp_path: Path
) -> None:
    """A hub in an event loop has one descriptor. A polled hub with a ``wake_address`` has two."""
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("needs strace")
    tracer = (strace, "-ff", "-qq", "-e", "signal=none", "-o", str(tmp_path / "trace"))
    told = told_by(MAKE_SYSTEM_CALLS, c_code, front=tracer)
    marked = re.compile(
        r'^write\(-1, "(.+)", \d+\).*\n((?:.*\n)*?)write\(-1, "", 0\)', re.MULTILINE
    )
    made: dict[str, list[str]] = {}
    for trace in tmp_path.iterdir():  # of one thread each
        for label, calls in marked.findall(trace.read_text(encoding="utf-8", errors="replace")):
            made[label] = re.findall(r"^\w+", calls, re.MULTILINE)
    assert {label: (made.get(label), told[label][1]) for label in told} == EXPECTED
