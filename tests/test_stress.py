"""Many threads, many tasks, threads switched as often as possible; everything must add up."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import gc
import itertools
import math
import random
import signal
import threading
import time
import weakref
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import anyio
import pytest

import dss_anyio as dss
from dss_anyio.testing import threads, until

pytestmark = [pytest.mark.anyio, pytest.mark.usefixtures("switching_fast")]

Item = tuple[int, int]


def retrying(portal: dss.Portal[Item], item: Item) -> None:
    while True:
        try:
            portal.send_nowait(item)
        except anyio.WouldBlock:
            time.sleep(0)  # let the others go on
        else:
            return


def in_lots(portal: dss.Portal[Item], sender: int, many: int) -> None:
    for start in range(0, many, 7):
        portal.send_many([(sender, n) for n in range(start, min(start + 7, many))])


def from_a_loop(portal: dss.Portal[Item], sender: int, many: int) -> None:
    async def send() -> None:
        for number in range(many):
            await portal.asend((sender, number))

    anyio.run(send)


SENDING: dict[str, Callable[[dss.Portal[Item], int, int], None]] = {
    "send": lambda portal, sender, many: (
        [portal.send((sender, n)) for n in range(many)][:0] and None
    ),
    "send_nowait": lambda portal, sender, many: (
        [retrying(portal, (sender, n)) for n in range(many)][:0] and None
    ),
    "send_many": in_lots,
    "asend": from_a_loop,
}


def in_order_and_once(received: list[Item], senders: int, many: int) -> None:
    numbers: dict[int, list[int]] = defaultdict(list)
    for sender, number in received:
        numbers[sender].append(number)
    assert numbers == {sender: list(range(many)) for sender in range(senders)}


@pytest.mark.parametrize("senders", [1, 4, 16])
@pytest.mark.parametrize("size", [1, 16, math.inf])
@pytest.mark.parametrize("sending", SENDING)
async def test_items_of_a_thread_arrive_once_and_in_its_order(
    sending: str, size: float, senders: int
) -> None:
    many = 400 // senders if sending != "asend" else 160 // senders
    if (sending, size, senders) == ("send_nowait", 1, 16):
        # Threads that find no room keep the GIL from the one that makes some: on a slow machine,
        # 400 items take a minute.
        many = 160 // senders
    async with dss.open_hub[Item](size) as hub:
        portals: list[dss.Portal[Item]] = [
            hub.portal if number % 2 else hub.register(f"source {number}")
            for number in range(senders)
        ]
        received: list[Item] = []
        jobs = [
            lambda number=number: SENDING[sending](portals[number], number, many)
            for number in range(senders)
        ]
        with threads(*jobs):
            while len(received) < senders * many:
                kind = len(received) % 3
                if kind == 0:
                    received.append(await hub.receive())
                elif kind == 1:
                    batch = await hub.receive_many()
                    assert len(batch) <= size + (sending == "send_many")
                    received += batch
                else:
                    async for item in hub:
                        received.append(item)
                        if len(received) % 5 == 0 or len(received) == senders * many:
                            break
        in_order_and_once(received, senders, many)
        assert hub.statistics().sent == senders * many


@pytest.mark.parametrize("senders", [1, 4, 16])
@pytest.mark.parametrize("size", [1, 2, 16])
@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
async def test_what_is_dropped_is_counted_and_handed_back_once(
    policy: Any, size: int, senders: int
) -> None:
    many = 1600 // senders
    handed_back: list[Item] = []
    async with dss.open_hub[Item](size, overflow=policy) as hub:
        portals: list[dss.Portal[Item]] = [
            hub.register(f"source {number}", on_undelivered=handed_back.append)
            for number in range(senders)
        ]
        received: list[Item] = []

        def send(number: int) -> None:
            for item in range(many):
                portals[number].send((number, item))

        jobs = [lambda number=number: send(number) for number in range(senders)]
        with threads(*jobs) as started:
            while any(thread.is_alive() for thread in started) or len(hub):
                with anyio.move_on_after(0.01):
                    batch = await hub.receive_many()
                    assert len(batch) <= size
                    received += batch
        counts = hub.statistics()
        assert counts.received == len(received)
        assert counts.dropped == len(handed_back)
        assert counts.sent == senders * many
        assert Counter(received + handed_back) == Counter(
            (sender, number) for sender in range(senders) for number in range(many)
        )
        latest: dict[int, int] = {}
        for sender, number in received:
            assert latest.get(sender, -1) < number
            latest[sender] = number
        if policy == "drop_oldest":  # guards Mailbox._move: the very last item is never dropped
            assert many - 1 in latest.values()


async def test_receivers_cancelled_at_random_lose_nothing(backend_name: str) -> None:
    seed = random.randrange(10**6)
    print("seed", seed)
    chance = random.Random(seed)
    many, senders = 300, 4
    async with dss.open_hub[Item](8) as hub:
        received: list[Item] = []
        done = anyio.Event()

        async def receiver() -> None:
            while not done.is_set():
                how = chance.randrange(4)
                limit = chance.choice([0, 0.0001, 0.001])
                if how == 0:
                    with anyio.move_on_after(limit):
                        received.append(await hub.receive())
                elif how == 1:
                    with anyio.move_on_after(limit):
                        received.extend(await hub.receive_many(3))
                elif how == 2 and backend_name == "asyncio":
                    with contextlib.suppress(asyncio.TimeoutError):
                        received.append(await asyncio.wait_for(hub.receive(), limit))
                elif backend_name == "asyncio":
                    task = asyncio.ensure_future(hub.receive())
                    for _ in range(chance.randrange(4)):
                        await asyncio.sleep(0)
                    task.cancel()
                    with contextlib.suppress(asyncio.CancelledError):
                        received.append(await task)
                else:
                    with anyio.CancelScope() as scope:
                        if chance.random() < 0.5:
                            scope.cancel()
                        else:
                            scope.deadline = anyio.current_time() + limit
                        received.append(await hub.receive())
                if len(received) == senders * many:
                    done.set()

        def send(sender: int) -> None:
            for number in range(many):
                hub.portal.send((sender, number))

        jobs = [lambda sender=sender: send(sender) for sender in range(senders)]
        with threads(*jobs):
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(receiver)
                with anyio.fail_after(20):
                    await done.wait()
        # Three receivers take turns in any order, so only "once" can be seen here.
        assert len(received) == len(set(received)) == senders * many


async def test_a_send_with_a_timeout_was_accepted_if_and_only_if_it_returned() -> None:
    accepted: list[Item] = []
    refused: list[Item] = []
    async with dss.open_hub[Item](2) as hub:
        received: list[Item] = []

        def send(sender: int) -> None:
            chance = random.Random(sender)
            for number in range(150):
                try:
                    hub.portal.send((sender, number), timeout=chance.choice([0, 0.0001, 0.001]))
                except TimeoutError:
                    refused.append((sender, number))
                else:
                    accepted.append((sender, number))

        jobs = [lambda sender=sender: send(sender) for sender in range(4)]
        with threads(*jobs) as started:
            while any(thread.is_alive() for thread in started) or len(hub):
                with anyio.move_on_after(0.002):
                    received.append(await hub.receive())
        assert sorted(received) == sorted(accepted)
        assert len(accepted) + len(refused) == 600
        assert not hub.blocked()


async def test_sources_come_and_go_and_the_hub_ends_in_the_middle() -> None:
    handed_back: list[Item] = []
    accepted: list[Item] = []
    received: list[Item] = []
    cancelled: list[int] = []

    def live(hub: dss.Hub[Item], number: int) -> None:
        chance = random.Random(number)
        item = 0
        for life in range(10**9):
            try:
                portal = hub.register(
                    f"source {number}",
                    stop=lambda: cancelled.append(number),
                    on_undelivered=handed_back.append,
                )
            except anyio.BrokenResourceError:
                return
            try:
                for _ in range(chance.randrange(20)):
                    item += 1
                    portal.send((number, item))
                    accepted.append((number, item))
                if life % 2:
                    portal.abort()
                else:
                    portal.close()
            except (anyio.BrokenResourceError, anyio.ClosedResourceError):
                return

    async with dss.open_hub[Item](4) as hub:
        jobs = [lambda number=number: live(hub, number) for number in range(6)]
        stack = contextlib.ExitStack()
        stack.enter_context(threads(*jobs))
        with anyio.move_on_after(0.3):
            while True:
                received += await hub.receive_many()
    stack.close()
    ends = received + handed_back
    assert len(ends) == len(set(ends))
    # A send that was accepted at the very end may have been handed back before we noted it.
    assert set(accepted) == set(ends)
    counts = hub.statistics()
    assert (counts.received, counts.dropped + counts.undelivered, counts.queued) == (
        len(received),
        len(handed_back),
        0,
    )
    assert len(cancelled) <= 6
    # Each name has had many lives, and its counts are those of all of them.
    for number in range(6):
        source = counts.sources[f"source {number}"]
        assert source.received == sum(sender == number for sender, _ in received)
        assert source.dropped + source.undelivered == sum(
            sender == number for sender, _ in handed_back
        )
        assert source.sent == sum(sender == number for sender, _ in accepted)
        assert source.queued == 0


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="Windows has no interval timer")
@pytest.mark.parametrize("policy", ["block", "drop_oldest", "drop_newest"])
@pytest.mark.parametrize("size", [1, 8, math.inf])
async def test_a_signal_handler_and_finalizers_send_while_the_same_thread_sends(
    size: float, policy: Any
) -> None:
    handed_back: list[Item] = []
    accepted: list[Item] = []
    received: list[Item] = []

    async with dss.open_hub[Item](size, overflow=policy) as hub:
        portal = hub.register("source", on_undelivered=handed_back.append)
        numbers = [itertools.count(), itertools.count(), itertools.count()]

        def offer(sender: int) -> None:
            item = (sender, next(numbers[sender]))  # in one step: handlers interrupt each other
            if portal.offer(item):
                accepted.append(item)

        class Resource:
            pass

        signal.signal(signal.SIGALRM, lambda *_: offer(1))
        signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
        try:
            for number in range(1500):
                offer(0)
                resource = Resource()
                weakref.finalize(resource, offer, 2)
                resource.cycle = resource  # type: ignore[attr-defined]  # for the collector
                if number % 50 == 0:
                    await anyio.lowlevel.checkpoint()
                with contextlib.suppress(anyio.WouldBlock):
                    received.append(hub.receive_nowait())
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            # Not the default: one may be on its way, and Python complains if nobody handles it.
            signal.signal(signal.SIGALRM, lambda *_: None)
        while len(hub):
            received += await hub.receive_many()
        portal.close()
        gc.collect()
    ends = received + handed_back
    assert len(ends) == len(set(ends))
    assert set(ends) == set(accepted)
    assert next(numbers[1]) > 0, "no signal came"
    assert next(numbers[2]) > 0, "nothing was finalized"


async def test_a_rendezvous_under_stress() -> None:
    async with dss.open_hub[Item](0) as hub:
        received: list[Item] = []

        def send(sender: int) -> None:
            for number in range(50):
                hub.portal.send((sender, number))

        async def receive() -> None:
            while len(received) < 200:
                with anyio.move_on_after(0.01):
                    received.append(await hub.receive())

        jobs = [lambda sender=sender: send(sender) for sender in range(4)]
        with threads(*jobs):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(receive)
                tasks.start_soon(receive)
        assert len(set(received)) == 200


async def test_nobody_stays_blocked_when_the_hub_ends() -> None:
    outcomes: list[str] = []
    async with dss.open_hub[int](1) as hub:

        def send() -> None:
            try:
                while True:
                    hub.portal.send(1)
            except anyio.BrokenResourceError:
                outcomes.append("broken")

        started = [threading.Thread(target=send) for _ in range(16)]
        for thread in started:
            thread.start()
        until(lambda: len(hub.blocked()) == 16)
    for thread in started:
        thread.join(10)
    assert outcomes == ["broken"] * 16
    assert not hub.blocked()


@pytest.mark.parametrize("policy", ["block", "drop_oldest", "drop_newest"])
@pytest.mark.parametrize("size", [1, 8, math.inf])
async def test_whatever_askers_do_each_request_ends_once(size: float, policy: Any) -> None:
    """They wait, give up, cancel; handlers answer, fail, dawdle, forget; then the hub ends."""
    ends: list[str] = []
    told: list[object] = []

    async def handle(item: tuple[int, int]) -> int:
        what = (item[0] * 7 + item[1]) % 5
        if what == 0:
            raise LookupError(item)
        if what == 1:
            await anyio.sleep_forever()
        if what == 2:
            await anyio.lowlevel.checkpoint()
        return sum(item)

    def ask(asker: int, portal: dss.Portal[Item]) -> None:
        mine = random.Random(asker)
        for number in itertools.count():
            item = (asker, number)
            how = mine.randrange(3)
            try:
                if how == 0:
                    answer = portal.request(item, timeout=mine.choice([0, 0.001, 0.004]))
                elif how == 1:
                    future = portal.request_soon(item)
                    future.add_done_callback(lambda _, item=item: told.append(item))
                    if mine.random() < 0.5:
                        future.cancel()
                    else:
                        with contextlib.suppress(concurrent.futures.TimeoutError):
                            future.result(0.003)
                        future.cancel()
                    answer = future.result(10)
                else:
                    portal.offer(item)
                    continue
            except BaseException as exc:
                ends.append(type(exc).__name__)
                if isinstance(exc, anyio.ClosedResourceError):
                    portal = portals[0]
                elif isinstance(exc, anyio.BrokenResourceError):
                    return
            else:
                assert answer == sum(item)
                ends.append("answer")

    portals: list[dss.Portal[Item]] = []
    opened = threading.Event()

    def job(asker: int) -> None:
        opened.wait(10)
        ask(asker, portals[asker % 3])

    with threads(*(functools.partial(job, asker) for asker in range(6)), timeout=40):
        async with dss.open_hub[Item](size, overflow=policy, on_error=lambda *_: None) as hub:
            portals += [hub.portal, hub.register("one"), hub.register("two")]
            for _ in range(2):
                hub.task_group.start_soon(lambda: hub.serve(handle, max_concurrency=4))
            opened.set()
            while len(ends) < 200:
                await anyio.sleep(0.001)
            portals[1].abort()
            while len(ends) < 400:
                await anyio.sleep(0.001)
    counts = hub.statistics()
    assert hub.blocked() == []
    assert counts.queued == 0
    assert counts.requests.open == 0
    assert counts.requests.answered > 0 or policy != "block"
    assert ends.count("BrokenResourceError") == 6
    assert "ClosedResourceError" in ends
    assert len(told) == len(set(told))
    assert set(ends) <= {
        "answer",
        "LookupError",
        "TimeoutError",
        "CancelledError",
        "NoReplyError",
        "ClosedResourceError",
        "BrokenResourceError",
    }
