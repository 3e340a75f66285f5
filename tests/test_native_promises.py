"""Native senders: no Python (N1), valid for ever (N2), one wake (N5), exits of Python (N6)."""

from __future__ import annotations

import ctypes
import gc
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from c_threads import (
    CLOSED,
    EXITS,
    FULL,
    GIVE,
    NOT_NOTIFIED,
    OK,
    RELEASED,
    SEND_WAIT,
    Call,
    Cancelled,
    Pool,
    c,
    c_code,
    function,
    in_order,
    load,
    needs_the_extension,
    run_in_child,
    send,
)

import dss_anyio as dss
from dss_anyio import _native
from dss_anyio.testing import eventually, until

pytestmark = [pytest.mark.anyio, needs_the_extension]
__all__ = ["c", "c_code"]  # fixtures

HERE = Path(__file__).parent


# -- N1: no Python ---------------------------------------------------------------------------------


async def test_threads_send_while_another_one_holds_the_gil(c_code: Path, c: ctypes.CDLL) -> None:
    with_gil = ctypes.PyDLL(str(c_code))
    with_gil.hold_everything.argtypes = [ctypes.c_long]
    async with dss.open_hub() as hub:
        sender = hub.portal.native_sender(1 << 14)
        pool = Pool(c, sender, 2, 5_000)
        with_gil.hold_everything(500_000_000)
        # Not a bytecode has run meanwhile, other than in this thread.
        assert pool.count(OK) == 10_000
        pool.join()
        assert in_order(await hub.receive_many()) == {0: 5_000, 1: 5_000}


LOCK_INVERSION = """
    import ctypes, sys, dss_anyio as dss
    from c_threads import load

    library = load(sys.argv[1])
    with_gil = ctypes.PyDLL(sys.argv[1])
    with_gil.library_setting.restype = ctypes.c_long
    with dss.open_polled_hub() as hub:
        portal = hub.register("library")
        if sys.argv[2] == "native":
            function, arg = library.library_send, portal.native_sender().address
        else:
            CB = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t)
            function, arg = CB(portal.send_callback()), None
        library.library_start(function, arg)
        while with_gil.library_setting() < 200:  # waits for the library's lock, with the GIL
            hub.poll()
        library.library_stop()
    print("done")
"""


def test_a_library_calls_back_under_its_lock_while_python_waits_for_that_with_the_gil(
    c_code: Path,
) -> None:
    ran = run_in_child(LOCK_INVERSION, str(c_code), "native")
    assert (ran.stdout, ran.stderr) == ("done\n", "")


def test_the_same_hangs_with_a_callback_through_python(c_code: Path) -> None:
    """So the test above tests what it says."""
    if not getattr(sys, "_is_gil_enabled", lambda: True)():
        pytest.skip("there is no GIL here")
    with pytest.raises(subprocess.TimeoutExpired):
        run_in_child(LOCK_INVERSION, str(c_code), "ctypes", timeout=3.0)


async def test_a_signal_handler_may_send_in_the_middle_of_a_send(c: ctypes.CDLL) -> None:
    async with dss.open_hub() as hub:
        for policy in ("block", "drop_oldest"):
            sender = hub.portal.native_sender(1 << 17, overflow=policy)  # type: ignore[arg-type]
            of_handler = ctypes.c_long()
            sent = await anyio.to_thread.run_sync(
                c.send_under_signals, sender.address, 100_000, ctypes.byref(of_handler)
            )
            received = []
            while len(hub):
                received += await hub.receive_many()
            assert of_handler.value > 0
            assert in_order(received) == {0: sent, 1: of_handler.value}  # errno was kept, too
            assert sent == 100_000


# -- N2: valid for ever ----------------------------------------------------------------------------


def test_a_sender_outlives_its_hub_and_every_reference() -> None:
    with dss.open_polled_hub() as hub:
        sender = hub.portal.native_sender()
        address = sender.address
        assert send(address, b"item") == OK
        assert hub.poll() == [b"item"]
    del hub, sender
    gc.collect()
    for _ in range(100):
        assert send(address, b"late") == CLOSED


@pytest.mark.leaves_something
@pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning")  # of its doorbell
def test_a_hub_that_is_forgotten_closes_its_senders(c: ctypes.CDLL) -> None:
    hub = dss.open_polled_hub()
    sender = hub.portal.native_sender(1)
    assert send(sender, b"item") == OK
    call = Call(c, sender, b"more", waits_for_room=True)
    held = [hub]
    del hub
    until(lambda: len(held[0].blocked()) == 1)
    address = sender.address
    with pytest.warns(ResourceWarning, match="Unclosed"):
        held.clear()
    gc.collect()
    assert call.join() == (RELEASED, b"")
    assert send(address, b"late") == CLOSED


def test_a_descriptor_that_was_closed_is_never_written_to() -> None:
    extension = _native.dss
    bell = extension.Bell()
    ring = extension.Ring(bell, 8, 64, 0)
    fd = bell.open()
    bell.arm()
    assert send(ring.address, b"1") == OK
    assert os.read(fd, 8)
    bell.arm()
    mine, other = os.pipe()
    os.set_blocking(mine, False)
    bell.close()
    os.dup2(other, fd)  # another file has its number now
    assert send(ring.address, b"2") == OK
    with pytest.raises(BlockingIOError):
        os.read(mine, 8)
    for each in (mine, other, fd):
        os.close(each)


GROWTH = """
    import os, dss_anyio as dss
    from c_threads import send

    def resident():
        with open("/proc/self/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def use():
        with dss.open_polled_hub() as hub:
            sender = hub.portal.native_sender(1000, item_size=1000)
            while send(sender, 1000 * b"x") == 0:
                pass

    use()
    before = resident()
    for _ in range(100):
        use()
    print(resident() - before)
"""


def test_memory_of_an_ended_sender_is_given_back() -> None:
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc")
    ran = run_in_child(GROWTH)
    assert int(ran.stdout) < 20_000_000  # of a hundred times a megabyte


# -- N5: one wake for a burst; who is killed costs only its own item -------------------------------


def test_a_burst_writes_once_until_the_bell_is_armed_again(c: ctypes.CDLL) -> None:
    extension = _native.dss
    bell = extension.Bell()
    fd = bell.open()
    ring = extension.Ring(bell, 1000, 64, 0)

    def writes() -> int:
        try:
            return int.from_bytes(os.read(fd, 8), sys.byteorder)  # what an eventfd has counted
        except BlockingIOError:
            return 0

    if sys.platform != "linux":
        pytest.skip("needs an eventfd")
    for _ in range(3):
        assert writes() == 0
        bell.arm()
        for _ in range(100):
            assert send(ring.address, b"x") == OK
        assert writes() == 1
        assert ring.drain(1000)[0] == 100 * [b"x"]
    bell.arm()
    bell.arm()
    assert (writes(), ring.count()) == (0, 0)
    bell.close()


async def test_items_for_a_busy_receiver_wake_nobody(c: ctypes.CDLL) -> None:
    async with dss.open_hub() as hub:
        sender = hub.portal.native_sender(1 << 17)
        await anyio.sleep(0)
        before = hub.statistics().wakes
        Pool(c, sender, 1, 100_000).join()
        received = 0
        while received < 100_000:
            received += len(await hub.receive_many())
        await anyio.wait_all_tasks_blocked()
        assert hub.statistics().wakes - before <= 1


async def test_no_wake_is_lost(c: ctypes.CDLL) -> None:
    """One item, and the receiver sleeps again, thousands of times."""
    async with dss.open_hub() as hub:
        sender = hub.portal.native_sender(1)
        pool = Pool(c, sender, 2, 3_000, way=SEND_WAIT)
        received = []
        with anyio.fail_after(50):
            while len(received) < 6_000:
                received.append(await hub.receive())
        assert in_order(received) == {0: 3_000, 1: 3_000}
        pool.join()


async def test_two_receivers_are_both_woken(c: ctypes.CDLL) -> None:
    """The second one sleeps while an item is there for the first, which was woken before."""
    async with dss.open_hub() as hub:
        sender = hub.portal.native_sender()
        got: list[bytes] = []

        async def receive_one() -> None:
            got.append(await hub.receive())

        for _ in range(50):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(receive_one)
                tasks.start_soon(receive_one)
                await anyio.wait_all_tasks_blocked()
                call = Call(c, sender, b"1", waits_for_room=True)
                await anyio.sleep(0)
                with anyio.fail_after(10):
                    assert send(sender, b"2") == OK
                    while len(got) < 2:
                        await anyio.sleep(0)
            call.join()
            assert sorted(got) == [b"1", b"2"]
            got.clear()


def test_a_datagram_that_cannot_be_sent_is_a_warning_and_is_tried_again() -> None:
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as gone:
        gone.bind(("127.0.0.1", 0))
        address = gone.getsockname()
    with dss.open_polled_hub(wake_address=address) as hub:
        sender = hub.portal.native_sender()
        hub.poll()
        statuses = [send(sender, b"%d" % number) for number in range(50)]
        assert set(statuses) <= {OK, NOT_NOTIFIED}  # nobody listens there, which is found out late
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as back:
            back.bind(address)
            back.settimeout(10)
            hub.poll()
            assert send(sender, b"heard") in (OK, NOT_NOTIFIED)
            assert send(sender, b"heard") in (OK, NOT_NOTIFIED)
            assert back.recv(16)
        assert hub.poll()[-1] == b"heard"


@pytest.mark.timeout(120)
@pytest.mark.parametrize("way_out", ["kill_senders", "leave_senders"])
async def test_whoever_is_killed_inside_of_a_send_costs_at_most_its_own_item(
    c: ctypes.CDLL, way_out: str
) -> None:
    """By an asynchronous ``pthread_cancel``, or by its own ``pthread_exit`` in a signal handler."""
    async with dss.open_hub() as hub:
        sender = hub.register("lib").native_sender(512)
        got: list[bytes] = []

        async def receive() -> None:
            async for item in hub:
                if item[0] == 7:  # of one that is going to be killed
                    continue
                got.append(item)

        hub.task_group.start_soon(receive)
        pool = Pool(c, sender, 2, 2_000, way=SEND_WAIT, pause=50e-6)
        await anyio.to_thread.run_sync(getattr(c, way_out), sender.address, 60)
        await anyio.to_thread.run_sync(pool.join)
        await eventually(lambda: len(got) == 4_000)
        assert in_order(got) == {0: 2_000, 1: 2_000}
        # All of its places are there, and the receiver is woken.
        await eventually(lambda: not len(sender))
        await anyio.wait_all_tasks_blocked()
        assert send(sender, b"still") == OK
        await eventually(lambda: got[-1] == b"still")
        accepted = 0
        while send(sender, b"x") == OK:
            accepted += 1
        assert accepted == 512


@pytest.mark.parametrize("by_itself", [False, True], ids=["by others", "in a signal handler"])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["deferred", "asynchronous"])
@pytest.mark.parametrize("end", ["served", "released"])
@pytest.mark.parametrize("call", ["dss_send_wait", "dss_ask"])
def test_a_cancellation_is_put_off_until_the_call_that_waits_returns(
    c: ctypes.CDLL, call: str, end: str, asynchronous: bool, by_itself: bool
) -> None:
    for_room = call == "dss_send_wait"
    questions = {b"of %d" % number for number in range(20)}
    before = signal.getsignal(signal.SIGUSR2)
    with dss.open_polled_hub() as hub:
        sender = hub.register("lib").native_sender(20)
        while for_room and send(sender, b"there") == OK:
            pass
        calls = [
            Cancelled(c, sender, each, waits_for_room=for_room, asynchronous=asynchronous)
            for each in questions
        ]
        until(lambda: len(hub.blocked()) == 20)
        for each in calls:
            each.cancel(by_itself=by_itself)
        others = Pool(c, sender, 2, 500, way=SEND_WAIT)
        got: list[bytes] = []
        while end == "served" and len(got) < 20 * for_room + 20 + 1000:
            assert hub.wait(10), got[-10:]
            for item in hub.poll():
                if isinstance(item, dss.Request):
                    got.append(item.item)
                    item.reply(b"answer")
                else:
                    got.append(item)
        if end == "served":
            others.join()
            assert {each for each in got if each.startswith(b"of ")} == questions
            assert in_order([each for each in got if len(each) == 64]) == {0: 500, 1: 500}
            until(lambda: not hub.blocked())
            assert [send(sender, b"x") for _ in range(21)] == 20 * [OK] + [FULL]
        ending = time.monotonic()
    assert time.monotonic() - ending < 5
    others.join()
    status = OK if end == "served" else RELEASED
    ended = {each.join() for each in calls}
    if not asynchronous:
        assert ended == {(True, status, False)}
    else:  # it strikes at the very end of the call. (And then glibc 2.36 does not say what it was.)
        assert {went_on for _, _, went_on in ended} == {False}
        assert {returned for _, returned, _ in ended} <= {status, None}
    signal.signal(signal.SIGUSR2, before)
    assert send(sender, b"late") == CLOSED


# -- N4 and N6: forks and exits --------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_in_a_forked_child_a_sender_is_closed_and_in_the_parent_it_goes_on(c: ctypes.CDLL) -> None:
    with dss.open_polled_hub() as hub:
        sender = hub.register("lib").native_sender(8)
        pool = Pool(c, sender, 3, way=SEND_WAIT)
        waits = Call(c, sender, b"question")
        for _ in range(20):
            child = os.fork()
            if not child:
                status = send(sender, b"from the child")
                wrong = status != CLOSED or len(sender) != 0
                os._exit(1 if wrong else 0)
            received = hub.poll()
            deadline = time.monotonic() + 10
            while True:
                pid, status = os.waitpid(child, os.WNOHANG)
                if pid:
                    break
                received += hub.poll()
                assert time.monotonic() < deadline, os.kill(child, signal.SIGKILL)
            assert status == 0
            for item in received:
                if isinstance(item, dss.Request):
                    item.reply(b"answer")
                else:
                    assert item != b"from the child"
        assert waits.join() == (OK, b"answer")
    pool.stop()


LOOPS = ["asyncio", "uvloop", "trio"]
AT_THE_END_OF_A_WAKE = """
    import os, sys, threading, time, warnings
    import anyio, dss_anyio as dss
    from c_threads import send

    warnings.simplefilter("ignore")  # nobody leaves the hub
    hub = None

    async def main():
        global hub
        hub = dss.open_hub()
        await hub.__aenter__()
        sender = hub.portal.native_sender()
        await anyio.sleep(0.05)
        threading.Timer(0.1, send, (sender, b"1")).start()
        assert await hub.receive() == b"1"
        # This is the wake still: the task was resumed in its middle.
        {then}

    options = {{"use_uvloop": True}} if sys.argv[1] == "uvloop" else {{}}
    anyio.run(
        main, backend="trio" if sys.argv[1] == "trio" else "asyncio", backend_options=options
    )
"""
ITS_DESCRIPTOR_IS_CLOSED = """
        del sender
        hub = None  # swept here
        r, w = os.pipe()  # one of the two has the number
        os.write(w, b"a stranger's")
        await anyio.sleep(0.05)
        print(os.read(r, 100), flush=True)
        os._exit(0)  # the task group of the hub was never left
"""
IT_IS_FORKED = """
        if os.fork() == 0:
            time.sleep(0.6)
            await anyio.sleep(0)
            os._exit(0)

        async def be_busy():
            await anyio.sleep(0.1)
            time.sleep(0.8)  # while the item comes, and the child goes on

        hub.task_group.start_soon(be_busy)
        threading.Timer(0.3, send, (sender, b"2")).start()
        with anyio.fail_after(2):
            print(await hub.receive(), flush=True)
        os._exit(0)
"""


@pytest.mark.parametrize(
    ("then", "printed", "loop"),
    [
        *((ITS_DESCRIPTOR_IS_CLOSED, 'b"a stranger\'s"\n', each) for each in LOOPS),
        # (A child that awaits in trio takes the event itself, out of the parent's own epoll.)
        *((IT_IS_FORKED, "b'2'\n", each) for each in LOOPS if each != "trio"),
    ],
    ids=[*(f"closed, {each}" for each in LOOPS), "forked, asyncio", "forked, uvloop"],
)
def test_at_the_end_of_a_wake_nothing_is_read_that_is_not_the_hubs(
    then: str, printed: str, loop: str
) -> None:
    """The descriptor was closed meanwhile, or belongs to the parent."""
    if loop == "uvloop":
        pytest.importorskip("uvloop")
    done = run_in_child(AT_THE_END_OF_A_WAKE.format(then=then.strip()), loop, timeout=20)
    assert (done.stdout, done.returncode) == (printed, 0), done.stderr


FORK_IN_A_RELEASE = """
    import ctypes, os
    from c_threads import function
    from dss_anyio._native import dss

    FREE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
    give = function("dss_give", ctypes.c_void_p, ctypes.c_size_t, FREE, ctypes.c_void_p)
    released = 0
    child = None

    @FREE
    def release(data, arg):
        global released, child
        released += 1
        if child is None:
            child = os.fork()

    ring = dss.Ring(dss.Bell(), 1024, 16, 0)
    for _ in range(1024):
        assert give(ring.address, None, 0, release, None) == 0
    del ring
    if child == 0:
        os._exit(released)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), released)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork")
def test_a_release_that_forks_leaves_the_rest_to_the_parent() -> None:
    done = run_in_child(FORK_IN_A_RELEASE, timeout=20)
    assert (done.stdout, done.returncode) == ("1 1024\n", 0), done.stderr


EXIT = """
    import ctypes, sys, time, threading
    import anyio, dss_anyio as dss
    from c_threads import Call, Pool, load, SEND_WAIT, SEND

    library = load(sys.argv[1])
    library.watch_exit.argtypes = [ctypes.c_int]

    async def main():
        hub = dss.open_hub()
        await hub.__aenter__()
        sender = hub.portal.native_sender(64)
        keep = [Pool(library, sender, 1, way=SEND), Pool(library, sender, 1, way=SEND_WAIT)]
        keep.append(Call(library, sender, b"never answered"))
        for _ in range(5):
            await hub.receive_many()
        globals()["keep"] = keep, hub
        if sys.argv[2] == "within":
            sys.exit(3)

    # What C calls when the process ends, after Python: each thread must still be running, or have
    # returned. A thread that Python has killed or parked would hold the pool's lock for ever.
    library.watch_exit(3)
    try:
        anyio.run(main)
    except SystemExit:
        pass
"""


@pytest.mark.timeout(60 + 20 * EXITS)
@pytest.mark.parametrize("how", ["within", "after"])
def test_python_exits_under_threads_that_call(c_code: Path, how: str) -> None:
    for _ in range(EXITS):
        ran = run_in_child(EXIT, str(c_code), how)
        assert "all threads of C go on" in ran.stdout, ran
        assert ran.returncode == 0, ran


# -- Memory and collections ------------------------------------------------------------------------


def test_without_memory_an_item_stays_queued() -> None:
    testcapi = pytest.importorskip("_testcapi")
    extension = _native.dss
    bell = extension.Bell()
    ring = extension.Ring(bell, 64, 64, 0)
    seen: list[bytes] = []
    sent = failed = 0
    for start in range(60):
        for _ in range(6):
            assert send(ring.address, b"%d" % sent) == OK
            sent += 1
        taken: Any = None
        testcapi.set_nomemory(start % 20, start % 20 + 1)
        try:
            taken = ring.drain(5) if start % 2 else ring.take()
        except MemoryError:
            failed += 1
        finally:
            testcapi.remove_mem_hooks()
        if taken is not None:
            seen += taken[0] if isinstance(taken, tuple) else [taken]
        seen += ring.drain(64)[0]
    assert failed > 3
    assert seen == [b"%d" % number for number in range(sent)]


def test_without_memory_nothing_that_was_taken_is_lost() -> None:
    """More than 256 of them, whose number would need memory of its own, and all of them claimed."""
    testcapi = pytest.importorskip("_testcapi")
    deliver = function("dss_deliver", ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p)
    decode = ctypes.cast(ctypes.CDLL(None).abs, ctypes.c_void_p)  # has no last call to make
    extension = _native.dss
    bell = extension.Bell()
    for start in range(295, 312):
        ring = extension.Ring(bell, 512, 64, 0)
        for _ in range(300):
            assert deliver(ring.address, decode, None, 1) == OK
        taken: list[Any] = []
        testcapi.set_nomemory(start, 0)
        try:
            taken = ring.drain(300)[0]
        except MemoryError:
            pass
        finally:
            testcapi.remove_mem_hooks()
        assert len(taken) + ring.count() == 300


def test_a_collection_during_a_drain_may_drain_as_well(c: ctypes.CDLL) -> None:
    """The finalizer of a cycle takes items from the very ring that is being drained."""
    with dss.open_polled_hub() as hub:
        sender = hub.portal.native_sender(1 << 15)
        pool = Pool(c, sender, 1, 20_000, way=GIVE)
        pool.join()
        ring = sender._inlet.ring
        seen: list[Any] = []

        class Cycle:
            def __init__(self) -> None:
                self.me = self

            def __del__(self) -> None:
                seen.extend(map(bytes, ring.drain(3)[0]))

        threshold = gc.get_threshold()
        gc.set_threshold(5)
        try:
            while len(sender):
                Cycle()
                seen += map(bytes, ring.drain(100)[0])
        finally:
            gc.set_threshold(*threshold)
        assert sorted(in_order(sorted(seen, key=lambda raw: raw[4:8][::-1]))) == [0]
        assert len(seen) == 20_000
        gc.collect()
        assert pool.released == 20_000


def test_more_threads_than_cores_take_from_one_ring(c: ctypes.CDLL) -> None:
    """Those who receive, and those who hand back, may meet."""
    extension = _native.dss
    bell = extension.Bell()
    ring = extension.Ring(bell, 256, 64, 0)
    fd = bell.open()
    taken: list[bytes] = []

    class Sender:
        address = ring.address

    pool = Pool(c, Sender(), 3, 10_000, way=SEND_WAIT)  # type: ignore[arg-type]

    def take() -> None:
        while len(taken) < 30_000:
            taken.extend(ring.drain(7)[0])
            item = ring.take()
            if item is not None:
                taken.append(item)

    threads = [threading.Thread(target=take) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pool.join()
    assert len(taken) == len(set(taken)) == 30_000
    bell.close()
    assert fd >= 0
    assert math.inf > 1


# -- Loops of other kinds --------------------------------------------------------------------------


def test_a_loop_that_is_closed_under_the_hub_closes_its_senders(c: ctypes.CDLL) -> None:
    import asyncio

    loop = asyncio.new_event_loop()
    hub: dss.Hub[Any] = dss.open_hub()
    loop.run_until_complete(hub.__aenter__())
    sender = hub.portal.native_sender()
    call = Call(c, sender, b"question")
    loop.run_until_complete(asyncio.sleep(0.01))
    descriptors = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0
    loop.close()
    assert call.join() == (RELEASED, b"")
    assert send(sender, b"late") == CLOSED
    if descriptors:
        assert len(os.listdir("/proc/self/fd")) < descriptors - 2  # the loop's three, and ours


async def test_descriptors_are_given_back() -> None:
    if sys.platform != "linux":
        pytest.skip("needs /proc")
    async with dss.open_hub() as hub:
        hub.portal.native_sender()
        await anyio.sleep(0)
    await anyio.sleep(0.01)
    before = sorted(os.listdir("/proc/self/fd"))
    for _ in range(5):
        async with dss.open_hub() as hub:
            first = hub.portal.native_sender()
            second = await anyio.to_thread.run_sync(hub.register("lib").native_sender)
            assert send(first, b"1") == send(second, b"2") == OK
            assert sorted([await hub.receive(), await hub.receive()]) == [b"1", b"2"]
    await eventually(lambda: len(os.listdir("/proc/self/fd")) <= len(before))


def test_the_first_sender_may_be_made_in_another_thread(c: ctypes.CDLL) -> None:
    with dss.start_hub() as hub:
        got: list[Any] = []

        async def receive() -> None:
            async for item in hub:
                got.append(item)

        hub.portal.start_task_soon(receive)
        sender = hub.register("lib").native_sender()
        Pool(c, sender, 2, 100, way=SEND_WAIT).join()
        until(lambda: len(got) == 200)
    assert in_order(got) == {0: 100, 1: 100}
    assert load is not None
