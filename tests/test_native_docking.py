"""Native senders: how a hub comes to look at their queues, whatever happens meanwhile (N3, N5)."""

from __future__ import annotations

import gc
import itertools
import os
import select
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import anyio
import pytest
from bytecodes import run_interrupted
from c_threads import OK, needs_the_extension, send

import dss_anyio as dss
from dss_anyio._hub.base import mailbox_of
from dss_anyio.testing import eventually

pytestmark = [pytest.mark.anyio, needs_the_extension]


@contextmanager
def few_descriptors(free: int) -> Iterator[None]:
    """Meanwhile only so many descriptors can be opened."""
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = [os.dup(0)]
    resource.setrlimit(resource.RLIMIT_NOFILE, (held[0] + 20, hard))
    with pytest.raises(OSError, match="open files"):
        while True:
            held.append(os.dup(0))
    for _ in range(free):
        os.close(held.pop())
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for each in held:
            os.close(each)


async def receives(hub: dss.Hub[bytes], sender: dss.native.NativeSender) -> None:
    """See that a receiver that sleeps is woken by what *sender* sends."""
    received: list[bytes] = []

    async def receive() -> None:
        received.append(await hub.receive())

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(receive)
        await eventually(lambda: hub.statistics().tasks_waiting_receive == 1)
        await anyio.sleep(0)
        assert send(sender, b"item") == OK
        await eventually(lambda: received == [b"item"])


async def test_after_a_failure_for_want_of_descriptors_the_next_sender_is_looked_at() -> None:
    async with dss.open_hub[bytes]() as hub:
        with few_descriptors(0), pytest.raises(OSError, match="open files"):
            hub.portal.native_sender()
        await receives(hub, hub.portal.native_sender())
    for free in range(9):
        with dss.open_polled_hub[bytes](wake_address=("127.0.0.1", 9)) as polled:
            failed = False
            try:
                with few_descriptors(free):
                    polled.portal.native_sender()
            except OSError:
                failed = True
            sender = polled.portal.native_sender()
            assert polled.poll() == []
            assert send(sender, b"item") == OK
            assert select.select([polled], [], [], 10)[0]
            assert polled.wait(10)
            assert polled.poll() == [b"item"]
            if not failed:
                break
    assert not failed
    assert free > 2


# A socket that is struck before anybody knows it is closed when it is destroyed.
@pytest.mark.filterwarnings("ignore::ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_after_ctrl_c_while_the_first_sender_is_made_the_next_one_is_looked_at() -> None:
    def strike() -> None:
        raise KeyboardInterrupt

    for at in itertools.count():
        async with dss.open_hub[bytes]() as hub:
            try:
                interrupted = run_interrupted(hub.portal.native_sender, strike, at)
            except KeyboardInterrupt:
                interrupted = True
            await receives(hub, hub.portal.native_sender())
        with dss.open_polled_hub[bytes]() as polled:
            try:
                interrupted |= run_interrupted(polled.portal.native_sender, strike, at)
            except KeyboardInterrupt:
                interrupted = True
            sender = polled.portal.native_sender()
            polled.poll()
            assert send(sender, b"item") == OK
            assert select.select([polled], [], [], 10)[0]
            assert polled.poll() == [b"item"]
        if not interrupted:
            break
    assert at > 50
    gc.collect()


async def test_two_that_make_the_first_sender_at_once_are_both_looked_at() -> None:
    """At each bytecode of one, the other makes its own, sends, and may be aborted."""
    for at in itertools.count():
        returned: list[Any] = []
        async with dss.open_hub[bytes]() as hub:
            one = hub.register("one")
            two = hub.register("two", on_undelivered=returned.append)
            senders: list[dss.native.NativeSender] = []

            def intrude(
                two: dss.Portal[bytes] = two, senders: list[dss.native.NativeSender] = senders
            ) -> None:
                senders.append(two.native_sender())
                assert send(senders[-1], b"queued") == OK
                two.abort()

            interrupted = run_interrupted(
                lambda one=one, senders=senders: senders.append(one.native_sender()),  # type: ignore[misc]
                intrude,
                at,
                only_shared=True,
            )
            assert returned == [b"queued"] * (len(senders) - 1)
            await receives(hub, senders[-1])
        if not interrupted:
            break
    assert at > 10


@pytest.mark.parametrize("swap", [False, True])
def test_there_is_one_doorbell_whoever_makes_it(swap: bool) -> None:
    """The program selects on it, and the first sender is made in another thread meanwhile."""
    for at in itertools.count():
        with dss.open_polled_hub[bytes]() as hub:
            found: list[int] = []
            senders: list[dss.native.NativeSender] = []

            def look(hub: dss.PolledHub[bytes] = hub, found: list[int] = found) -> None:
                found.append(hub.fileno())

            def make(
                hub: dss.PolledHub[bytes] = hub, senders: list[dss.native.NativeSender] = senders
            ) -> None:
                senders.append(hub.portal.native_sender())

            first, second = (make, look) if swap else (look, make)
            interrupted = run_interrupted(first, second, at, only_shared=True)
            if not interrupted:
                second()
            hub.poll()
            assert found == [hub.fileno()]
            assert send(senders[0], b"item") == OK
            assert select.select(found, [], [], 10)[0]
            assert hub.poll() == [b"item"]
            hub.portal.send_nowait(b"item")
            assert select.select(found, [], [], 10)[0]
        if not interrupted:
            break
    assert at > 10


def test_the_doorbell_is_rung_for_what_came_before_the_first_sender() -> None:
    with dss.open_polled_hub[bytes]() as hub:
        hub.portal.send_nowait(b"item")
        hub.portal.native_sender()
        assert select.select([hub], [], [], 10)[0]
        assert hub.poll() == [b"item"]


async def test_after_a_wake_that_failed_the_next_native_item_wakes() -> None:
    """A sender in Python has taken the wake; it cannot call it, and puts it back."""
    async with dss.open_hub[bytes]() as hub:
        sender = hub.portal.native_sender()
        received: list[bytes] = []

        async def receive() -> None:
            async for item in hub:
                received.append(item)

        hub.task_group.start_soon(receive)
        await eventually(lambda: hub.statistics().tasks_waiting_receive == 1)
        await anyio.sleep(0.01)  # what docking has put into the loop has run
        bell = mailbox_of(hub).bell
        wake = bell.armed.pop(None)  # as ``Bell.ring`` does, in the thread that sends
        assert send(sender, b"1") == OK
        with anyio.move_on_after(
            0.05
        ):  # the loop finds the descriptor readable, and nothing to call
            await eventually(lambda: received)
        bell.armed[None] = wake  # as ``Bell.ring`` does then
        assert not received
        assert send(sender, b"2") == OK
        await eventually(lambda: received == [b"1", b"2"])
