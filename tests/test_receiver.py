"""Receiving in an event loop: one item, many, by iterating, by several at once.

Where anyio's memory object streams define what happens, each test runs with one of those, too.
"""

from __future__ import annotations

import asyncio
import math
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, TypeAlias

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream, WouldBlock
from conftest import ANYIO

import dss_anyio as dss
from dss_anyio.testing import eventually, threads, until

pytestmark = pytest.mark.anyio


async def asleep(receiver: Any, many: int = 1) -> None:
    """Wait until so many tasks sleep in *receiver* and its clones."""
    await eventually(lambda: receiver.statistics().tasks_waiting_receive == many)


async def send_waiting(sender: Any, item: object) -> None:
    """What waits for room in an event loop: ``asend`` of ours, ``send`` of anyio's."""
    await (sender.asend(item) if isinstance(sender, dss.Portal) else sender.send(item))


# -- The same as anyio's memory object streams -----------------------------------------------------

Stream: TypeAlias = Callable[[float], AbstractAsyncContextManager[tuple[Any, Any]]]


@asynccontextmanager
async def ours(size: float) -> AsyncIterator[tuple[Any, Any]]:
    async with dss.open_hub[Any](size) as hub:
        yield hub.portal, hub


@asynccontextmanager
async def anyios(size: float) -> AsyncIterator[tuple[Any, Any]]:
    sender, receiver = anyio.create_memory_object_stream[Any](size)
    with sender, receiver:
        yield sender, receiver


@pytest.fixture(params=[ours, anyios])
def stream(request: pytest.FixtureRequest) -> Stream:
    return request.param  # type: ignore[no-any-return]


async def test_full_and_empty_are_would_block(stream: Stream) -> None:
    async with stream(2) as (sender, receiver):
        with pytest.raises(WouldBlock):
            receiver.receive_nowait()
        sender.send_nowait(1)
        sender.send_nowait(2)
        with pytest.raises(WouldBlock):
            sender.send_nowait(3)
        assert receiver.receive_nowait() == 1
        sender.send_nowait(4)
        assert [await receiver.receive() for _ in range(2)] == [2, 4]


async def test_who_waits_for_an_item_gets_it_and_who_waits_for_room_gets_that(
    stream: Stream,
) -> None:
    async with stream(1) as (sender, receiver), anyio.create_task_group() as tasks:
        received: list[int] = []

        async def receive() -> None:
            received.append(await receiver.receive())

        tasks.start_soon(receive)
        await asleep(receiver)
        sender.send_nowait(1)
        await eventually(lambda: received == [1])
        sender.send_nowait(2)
        tasks.start_soon(send_waiting, sender, 3)
        await eventually(lambda: receiver.statistics().tasks_waiting_send)
        assert receiver.receive_nowait() == 2
        assert await receiver.receive() == 3


async def test_those_who_wait_are_served_in_their_order(stream: Stream) -> None:
    async with stream(1) as (sender, receiver), anyio.create_task_group() as tasks:
        received: list[tuple[int, int]] = []

        async def receive(who: int) -> None:
            received.append((who, await receiver.receive()))

        for who in range(3):
            tasks.start_soon(receive, who)
            await asleep(receiver, who + 1)
        for item in range(3):
            sender.send_nowait(item)
            await eventually(lambda item=item: len(received) == item + 1)
        assert received == [(0, 0), (1, 1), (2, 2)]


async def test_after_the_last_sender_has_closed_the_rest_is_received_and_then_the_end(
    stream: Stream,
) -> None:
    async with stream(10) as (sender, receiver):
        clone = sender.clone()
        sender.send_nowait(1)
        sender.close()
        sender.close()
        with pytest.raises(ClosedResourceError):
            sender.send_nowait(0)
        with pytest.raises(ClosedResourceError):
            await send_waiting(sender, 0)
        with pytest.raises(ClosedResourceError):
            sender.clone()
        clone.send_nowait(2)
        clone.send_nowait(3)
        clone.close()
        assert receiver.receive_nowait() == 1
        assert [item async for item in receiver] == [2, 3]
        for _ in range(2):
            with pytest.raises(EndOfStream):
                await receiver.receive()
            with pytest.raises(EndOfStream):
                receiver.receive_nowait()
            assert [item async for item in receiver] == []


async def test_the_end_comes_to_everybody_who_waits(stream: Stream) -> None:
    async with stream(1) as (sender, receiver):
        ended: list[str] = []

        async def receive() -> None:
            with pytest.raises(EndOfStream):
                await receiver.receive()
            ended.append("receive")

        async def iterate() -> None:
            async for _ in receiver:
                pass
            ended.append("iterate")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            tasks.start_soon(iterate)
            await asleep(receiver, 2)
            sender.close()
        assert sorted(ended) == ["iterate", "receive"]


async def test_a_sender_that_is_closed_while_it_waits_has_sent_nothing(stream: Stream) -> None:
    if ANYIO < (4, 16) and stream is anyios:
        pytest.skip("before 4.16, anyio's sender goes on waiting")
    async with stream(1) as (sender, receiver), anyio.create_task_group() as tasks:
        clone = sender.clone()
        sender.send_nowait(1)

        async def close() -> None:
            await eventually(lambda: receiver.statistics().tasks_waiting_send)
            clone.close()

        tasks.start_soon(close)
        with pytest.raises(ClosedResourceError):
            await send_waiting(clone, 2)
        sender.close()
        assert [item async for item in receiver] == [1]


async def test_a_receiver_that_is_closed_says_so(stream: Stream) -> None:
    async with stream(1) as (sender, receiver):
        clone = receiver.clone()
        sender.send_nowait(1)
        clone.close()
        clone.close()
        await clone.aclose()
        with pytest.raises(ClosedResourceError):
            clone.receive_nowait()
        with pytest.raises(ClosedResourceError):
            await clone.receive()
        with pytest.raises(ClosedResourceError):
            async for _ in clone:
                pass
        with pytest.raises(ClosedResourceError):
            clone.clone()
        assert await receiver.receive() == 1, "the other one does not care"


async def test_closing_a_receiver_ends_the_waits_in_it_and_no_others(stream: Stream) -> None:
    if ANYIO < (4, 16) and stream is anyios:
        pytest.skip("before 4.16, anyio's receiver goes on waiting")
    async with stream(1) as (sender, receiver), anyio.create_task_group() as tasks:
        clone = receiver.clone()
        outcomes: list[object] = []

        async def receive(end: Any) -> None:
            try:
                outcomes.append(await end.receive())
            except ClosedResourceError:
                outcomes.append("closed")

        for end in (clone, receiver, clone):
            tasks.start_soon(receive, end)
        await asleep(receiver, 3)
        clone.close()
        await eventually(lambda: len(outcomes) == 2)
        await asleep(receiver, 1)
        sender.send_nowait("item")
        await eventually(lambda: outcomes == ["closed", "closed", "item"])


async def test_after_the_last_receiver_has_closed_whoever_sends_is_told(stream: Stream) -> None:
    async with stream(1) as (sender, receiver), anyio.create_task_group() as tasks:
        clone = receiver.clone()
        receiver.close()
        sender.send_nowait(1)

        async def close() -> None:
            await eventually(lambda: clone.statistics().tasks_waiting_send)
            clone.close()

        if not hasattr(clone, "statistics"):  # of a hub, the hub alone has them
            clone.statistics = receiver.statistics
        tasks.start_soon(close)
        with pytest.raises(BrokenResourceError):
            await send_waiting(sender, 2)
        with pytest.raises(BrokenResourceError):
            sender.send_nowait(3)
        with pytest.raises(BrokenResourceError):
            await send_waiting(sender, 3)


async def test_a_receiver_is_closed_by_its_with_block(stream: Stream) -> None:
    async with stream(1) as (_, receiver):
        with receiver.clone() as clone:
            assert receiver.statistics().open_receive_streams == 2
        with pytest.raises(ClosedResourceError):
            clone.receive_nowait()
        async with receiver.clone() as clone:
            assert receiver.statistics().open_receive_streams == 2
        with pytest.raises(ClosedResourceError):
            clone.receive_nowait()
        assert receiver.statistics().open_receive_streams == 1


async def test_an_end_that_was_forgotten_is_loud_and_one_that_was_closed_is_not(
    stream: Stream,
) -> None:
    async with stream(1) as (sender, receiver):
        for end in (sender, receiver):
            forgotten = [end.clone()]
            with pytest.warns(ResourceWarning, match="Unclosed <"):
                forgotten.clear()
            closed = [end.clone()]
            closed[0].close()
            with warnings.catch_warnings(record=True) as heard:
                warnings.simplefilter("always")
                closed.clear()
            assert heard == []


async def test_with_size_0_an_item_needs_a_receiver_that_waits(stream: Stream) -> None:
    async with stream(0) as (sender, receiver), anyio.create_task_group() as tasks:
        with pytest.raises(WouldBlock):
            sender.send_nowait(0)

        async def send() -> None:
            await asleep(receiver)
            sender.send_nowait(1)
            with pytest.raises(WouldBlock):
                sender.send_nowait(2)

        tasks.start_soon(send)
        assert await receiver.receive() == 1
        with pytest.raises(WouldBlock):
            sender.send_nowait(3)


async def test_with_size_0_receivers_meet_senders_that_wait_in_their_order(
    stream: Stream,
) -> None:
    async with stream(0) as (sender, receiver), anyio.create_task_group() as tasks:
        for item in range(4):
            tasks.start_soon(send_waiting, sender, item)
            await eventually(lambda item=item: receiver.statistics().tasks_waiting_send == item + 1)
        assert receiver.receive_nowait() == 0
        assert [await receiver.receive() for _ in range(3)] == [1, 2, 3]
        with pytest.raises(WouldBlock):
            receiver.receive_nowait()


async def test_with_size_0_a_receiver_that_gave_up_meets_nobody(stream: Stream) -> None:
    async with stream(0) as (sender, receiver), anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            tasks.start_soon(receiver.receive)  # in the outer scope: it goes on waiting
            await asleep(receiver, 1)

            async def give_up() -> None:
                await asleep(receiver, 2)
                scope.cancel()

            tasks.start_soon(give_up)
            await receiver.receive()
        assert scope.cancelled_caught
        sender.send_nowait(1)
        with pytest.raises(WouldBlock):
            sender.send_nowait(2)


async def test_receiving_in_a_cancelled_scope_takes_nothing(stream: Stream) -> None:
    async with stream(1) as (sender, receiver):
        sender.send_nowait(1)
        with anyio.CancelScope() as scope:
            scope.cancel()
            await receiver.receive()
        assert scope.cancelled_caught
        assert receiver.receive_nowait() == 1


async def test_a_receiver_that_gave_up_leaves_the_next_item_to_others(stream: Stream) -> None:
    async with stream(1) as (sender, receiver):
        with anyio.move_on_after(0.01) as scope:
            await receiver.receive()
        assert scope.cancelled_caught
        assert receiver.statistics().tasks_waiting_receive == 0
        sender.send_nowait(1)
        assert receiver.receive_nowait() == 1


async def test_receiving_is_a_checkpoint_also_if_there_is_an_item(stream: Stream) -> None:
    async with stream(10) as (sender, receiver), anyio.create_task_group() as tasks:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await anyio.lowlevel.checkpoint()

        for item in range(10):
            sender.send_nowait(item)
        tasks.start_soon(tick)
        for _ in range(10):
            await receiver.receive()
        assert ticks >= 5  # trio runs two tasks in any order
        tasks.cancel_scope.cancel()


async def test_what_is_the_same_in_the_statistics_is_the_same(stream: Stream) -> None:
    async with stream(2) as (sender, receiver), anyio.create_task_group() as tasks:

        def look() -> tuple[object, ...]:
            return tuple(receiver.statistics()[:6])

        assert receiver.statistics()._fields[:6] == (
            "current_buffer_used",
            "max_buffer_size",
            "open_send_streams",
            "open_receive_streams",
            "tasks_waiting_send",
            "tasks_waiting_receive",
        )
        assert look() == (0, 2, 1, 1, 0, 0)
        other_sender, other_receiver = sender.clone(), receiver.clone()
        assert look() == (0, 2, 2, 2, 0, 0)
        tasks.start_soon(receiver.receive)
        tasks.start_soon(other_receiver.receive)
        await asleep(receiver, 2)
        assert look() == (0, 2, 2, 2, 0, 2)
        sender.send_nowait(1)
        other_sender.send_nowait(2)
        await asleep(receiver, 0)
        await anyio.wait_all_tasks_blocked()
        assert look() == (0, 2, 2, 2, 0, 0)
        sender.send_nowait(3)
        sender.send_nowait(4)
        tasks.start_soon(send_waiting, sender, 5)
        await eventually(lambda: receiver.statistics().tasks_waiting_send)
        assert look() == (2, 2, 2, 2, 1, 0)
        receiver.receive_nowait()
        await eventually(lambda: not receiver.statistics().tasks_waiting_send)
        assert look() == (2, 2, 2, 2, 0, 0)
        other_sender.close()
        other_receiver.close()
        assert look() == (2, 2, 1, 1, 0, 0)
        sender.close()
        assert look() == (2, 2, 0, 1, 0, 0)


# -- Many at once ----------------------------------------------------------------------------------


async def test_receive_many_returns_what_is_there_in_its_order() -> None:
    async with dss.open_hub[int]() as hub:
        source = hub.register("source")
        for item in range(6):
            (source if item % 2 else hub.portal).send(item)
        assert await hub.receive_many(2) == [0, 1]
        assert await hub.receive_many(100) == [2, 3, 4, 5]
        source.send_many(range(3))
        assert await hub.receive_many() == [0, 1, 2]
        assert hub.statistics().received == 9


async def test_receive_many_fills_up_although_something_was_taken_back_in_between() -> None:
    async with dss.open_hub[str]() as hub:
        with hub.register("closes") as closes, hub.register("stays") as stays:
            stays.send("first")
            closes.send("taken back")
            future = hub.portal.request_soon("given up")
            future.cancel()
            stays.send_many(["second", "third"])
            closes.abort()
            assert await hub.receive_many(2) == ["first", "second"]
            assert await hub.receive_many(2) == ["third"]


@pytest.mark.parametrize("size", [0, 1, math.inf])
async def test_receive_many_waits_for_the_first_item_only(size: float) -> None:
    async with dss.open_hub[int](size) as hub:
        for item in range(3):

            def send(item: int = item) -> None:
                until(lambda: hub.statistics().tasks_waiting_receive)
                hub.portal.send(item)

            with threads(send):
                assert await hub.receive_many() == [item]


async def test_receive_many_meets_all_senders_that_wait_for_a_rendezvous() -> None:
    async with dss.open_hub[int](0) as hub:
        with threads(*[lambda item=item: hub.portal.send(item) for item in range(5)]):
            until(lambda: len(hub.blocked()) == 5)
            assert len(first := await hub.receive_many(2)) == 2
            assert sorted(first + await hub.receive_many()) == list(range(5))


async def test_receive_many_makes_room_for_as_many_as_it_took() -> None:
    async with dss.open_hub[int](3) as hub:
        hub.portal.send_many(range(3))
        assert await hub.receive_many(2) == [0, 1]
        assert [hub.portal.offer(item) for item in (3, 4, 5)] == [True, True, False]
        assert await hub.receive_many() == [2, 3, 4]


async def test_receive_many_ends_as_receive_does() -> None:
    async with dss.open_hub[int]() as hub:
        hub.portal.send(1)
        hub.close_senders()
        assert await hub.receive_many() == [1]
        with pytest.raises(EndOfStream):
            await hub.receive_many()
        clone = hub.clone()
        clone.close()
        with pytest.raises(ClosedResourceError):
            await clone.receive_many()


@pytest.mark.parametrize(
    ("end", "error"),
    [
        (lambda hub, clone: hub.close_senders(), EndOfStream),
        (lambda hub, clone: clone.close(), ClosedResourceError),
        (lambda hub, clone: (clone.close(), hub.close()), ClosedResourceError),
    ],
    ids=["senders closed", "receiver closed", "all receivers closed"],
)
async def test_a_receive_many_that_waits_is_ended_as_receive_is(
    end: Callable[..., object], error: type[Exception]
) -> None:
    async with dss.open_hub[int]() as hub, anyio.create_task_group() as tasks:
        clone = hub.clone()

        outcomes: list[type[Exception]] = []

        async def receive() -> None:
            try:
                await clone.receive_many()
            except Exception as exc:
                outcomes.append(type(exc))

        tasks.start_soon(receive)
        await asleep(hub)
        end(hub, clone)
        await eventually(lambda: outcomes == [error])
        clone.close()


async def test_receive_many_is_a_checkpoint_and_takes_nothing_in_a_cancelled_scope() -> None:
    async with dss.open_hub[int]() as hub:
        hub.portal.send_many([1, 2])
        with anyio.CancelScope() as scope:
            scope.cancel()
            await hub.receive_many()
        assert scope.cancelled_caught
        assert await hub.receive_many() == [1, 2]


@pytest.mark.parametrize(
    ("most", "error"), [(0, ValueError), (-1, ValueError), (1.0, TypeError), (True, TypeError)]
)
async def test_receive_many_refuses_a_number_that_makes_no_sense(
    most: Any, error: type[Exception]
) -> None:
    async with dss.open_hub[int]() as hub:
        hub.portal.send(1)
        with pytest.raises(error, match="max_items must be"):
            await hub.receive_many(most)
        assert hub.receive_nowait() == 1


# -- Iterating -------------------------------------------------------------------------------------


async def test_iterating_takes_what_is_there_without_a_trip_through_the_loop_for_each() -> None:
    async with dss.open_hub[int](math.inf) as hub:
        hub.portal.send_many(range(128))
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tick)
            await eventually(lambda: ticks)
            before = ticks
            async for item in hub:
                if item == 127:
                    break
            assert ticks == before
            tasks.cancel_scope.cancel()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time as an iteration sees it, in seconds: the sum of this list."""
    times = [0.0]
    monkeypatch.setattr("dss_anyio._receiving.receiver.monotonic", lambda: math.fsum(times))
    return times


@pytest.mark.parametrize(("seconds", "most"), [(0.000_01, 128), (0.000_001, 256), (0, 10_000)])
async def test_iterating_lets_others_run_every_128_items_or_after_a_quarter_of_a_millisecond(
    clock: list[float], seconds: float, most: int, backend_name: str
) -> None:
    """Guards the checkpoint in ``__anext__``; *seconds* is what the body of the loop takes."""
    async with dss.open_hub[int](math.inf) as hub:
        hub.portal.send_many(range(10_000))
        ran_at = [0]
        received = 0

        async def other() -> None:
            while True:
                ran_at.append(received)
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            async for _ in hub:
                received += 1
                clock.append(seconds)
                if received == 10_000:
                    break
            tasks.cancel_scope.cancel()
        ran_at.append(10_000)
        gaps = [after - before for before, after in zip(ran_at, ran_at[1:], strict=False)]
        # Trio runs those who can run in any order, so one may run twice before the other does.
        if backend_name == "trio":
            assert most <= max(gaps) <= 2 * most
        else:
            assert max(gaps) == most


async def test_iterating_can_be_cancelled_every_128_items(clock: list[float]) -> None:
    async with dss.open_hub[int](math.inf) as hub:
        hub.portal.send_many(range(1_000))
        received: list[int] = []
        with anyio.CancelScope() as scope:
            async for item in hub:
                received.append(item)
                clock.append(0.000_01)
                if item == 499:
                    scope.cancel()
        assert scope.cancelled_caught
        assert received == list(range(len(received)))
        assert 500 <= len(received) <= 628
        assert hub.receive_nowait() == len(received), "the next one is still there"


async def test_iterating_can_be_cancelled_natively_every_128_items(
    clock: list[float], backend_name: str
) -> None:
    if backend_name == "trio":
        pytest.skip("trio has no other cancellation than that of scopes")
    async with dss.open_hub[int](math.inf) as hub:
        hub.portal.send_many(range(1_000))
        received: list[int] = []

        async def iterate() -> None:
            async for item in hub:
                received.append(item)
                clock.append(0.000_01)
                if item == 499:
                    task.cancel()

        task = asyncio.ensure_future(iterate())
        with pytest.raises(asyncio.CancelledError):
            await task
        assert 500 <= len(received) <= 628
        assert hub.receive_nowait() == len(received)


async def test_iterating_over_what_cannot_be_decoded_lets_others_run_as_well(
    clock: list[float], backend_name: str
) -> None:
    async with dss.open_hub[int](math.inf, on_error=lambda *_: None) as hub:
        decoded = 0
        ran_at = [0]

        def decode(item: str) -> int:
            nonlocal decoded
            decoded += 1
            clock.append(0.000_01)
            return int(item)

        source = hub.register("source", decode=decode)
        source.send_many([*["nonsense"] * 5_000, "1"])

        async def other() -> None:
            while True:
                ran_at.append(decoded)
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(other)
            async for item in hub:
                assert item == 1
                break
            tasks.cancel_scope.cancel()
        ran_at.append(decoded)
        gaps = [after - before for before, after in zip(ran_at, ran_at[1:], strict=False)]
        assert max(gaps) <= (256 if backend_name == "trio" else 128)


# -- Several at once -------------------------------------------------------------------------------


async def test_each_item_goes_to_one_of_several_receivers() -> None:
    async with dss.open_hub[int](4) as hub:
        received: dict[int, list[int]] = {who: [] for who in range(4)}

        async def receive(who: int, end: dss.Receiver[int]) -> None:
            if who % 2:
                async for item in end:
                    received[who].append(item)
                    await anyio.lowlevel.checkpoint()
            else:
                while True:
                    try:
                        received[who].append(await end.receive())
                    except EndOfStream:
                        return

        def send() -> None:
            for item in range(500):
                hub.portal.send(item)
            hub.close_senders()

        clones = [hub.clone(), hub.clone()]
        with threads(send):
            async with anyio.create_task_group() as tasks:
                for who in range(4):
                    tasks.start_soon(receive, who, [hub, hub, *clones][who])
        assert sorted(sum(received.values(), [])) == list(range(500))
        assert all(items == sorted(items) for items in received.values())
        for clone in clones:
            clone.close()


async def test_one_wake_serves_as_many_receivers_as_there_are_items() -> None:
    async with dss.open_hub[int]() as hub:
        received: list[int] = []

        async def receive() -> None:
            received.append(await hub.receive())

        async with anyio.create_task_group() as tasks:
            for _ in range(10):
                tasks.start_soon(receive)
            await asleep(hub, 10)
            hub.portal.send_many(range(7))
            await eventually(lambda: len(received) == 7)
            await asleep(hub, 3)
            assert hub.statistics().wakes == 1
            hub.portal.send_many(range(7, 10))
        assert sorted(received) == list(range(10))
        assert hub.statistics().wakes == 2


async def test_a_receiver_that_was_woken_for_what_another_one_took_sleeps_on() -> None:
    """Guards the count of those who were woken and have not run."""
    async with dss.open_hub[int]() as hub:
        received: list[int] = []

        async def receive() -> None:
            received.append(await hub.receive())

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive)
            for item in range(50):
                await asleep(hub)
                hub.portal.send(-1)
                for _ in range(item % 4):  # the wake is on its way, or has come, or ...
                    await anyio.lowlevel.checkpoint()
                if not received:
                    assert hub.receive_nowait() == -1
                else:
                    assert received.pop() == -1
                    tasks.start_soon(receive)
            await asleep(hub)
            hub.portal.send(0)
            await eventually(lambda: received == [0])


@pytest.mark.parametrize("closing", ["first", "last"])
async def test_who_has_closed_its_end_leaves_the_item_it_was_woken_for_to_others(
    closing: str,
) -> None:
    async with dss.open_hub[str]() as hub, anyio.create_task_group() as tasks:
        clone = hub.clone()
        outcomes: list[str] = []

        async def receive(end: dss.Receiver[str]) -> None:
            try:
                outcomes.append(await end.receive())
            except ClosedResourceError:
                outcomes.append("closed")

        ends = [clone, hub] if closing == "first" else [hub, clone]
        for many, end in enumerate(ends, 1):
            tasks.start_soon(receive, end)
            await asleep(hub, many)
        hub.portal.send("item")  # the wake is on its way to the first
        clone.close()
        await eventually(lambda: sorted(outcomes) == ["closed", "item"], timeout=3)


async def test_a_clone_receives_although_the_hub_itself_was_closed() -> None:
    async with dss.open_hub[int]() as hub:
        clone = hub.clone()
        hub.close()
        hub.portal.send(1)
        assert await clone.receive() == 1
        hub.portal.send(2)
        clone.close()
        assert hub.portal.offer(3) is False
    assert hub.statistics().undelivered == 1


async def test_a_receiver_shows_whether_it_is_open() -> None:
    async with dss.open_hub[int](name="audio") as hub:
        clone = hub.clone()
        assert repr(clone) == "<Receiver of hub 'audio': open>"
        clone.close()
        assert repr(clone) == "<Receiver of hub 'audio': closed>"


async def test_after_the_end_of_the_hub_every_receiver_is_closed_and_quiet() -> None:
    async with dss.open_hub[int]() as hub:
        clones = [hub.clone()]
        hub.portal.send(1)
    for receiver in (hub, *clones):
        calls: list[Callable[[], Awaitable[object]]] = [receiver.receive, receiver.receive_many]
        for call in calls:
            with pytest.raises(ClosedResourceError):
                await call()
        with pytest.raises(ClosedResourceError):
            receiver.receive_nowait()
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        del receiver
        clones.clear()
    assert heard == []


async def test_a_hub_that_was_not_opened_receives_what_is_there_but_does_not_wait() -> None:
    hub = dss.open_hub[int]()
    hub.portal.send(1)
    assert await hub.receive() == 1
    with pytest.raises(RuntimeError, match="use 'async with dss.open_hub"):
        await hub.receive()
    hub.close()


# -- a seat for each receiver that waits -----------------------------------------------------------


async def test_with_no_buffer_a_cancelled_receiver_takes_no_other_ones_seat() -> None:
    """Two items have come for two receivers that have not run yet, when a third one is cancelled.

    Guards what ``seat`` makes of the roused ones: the fourth has to be sent to.
    """
    async with dss.open_hub[int](0) as hub:
        received: list[int] = []

        async def receive(scope: anyio.CancelScope) -> None:
            with scope:
                received.append(await hub.receive())

        scopes = [anyio.CancelScope() for _ in range(4)]
        async with anyio.create_task_group() as tasks:
            for scope in scopes:
                tasks.start_soon(receive, scope)
            await asleep(hub, 4)
            hub.portal.send_nowait(1)
            hub.portal.send_nowait(2)
            scopes[2].cancel()
            await eventually(lambda: len(received) == 2)
            await asleep(hub)
            assert hub.portal.offer(3)
    assert received == [1, 2, 3]


# -- when an event loop is closed under a receiver -------------------------------------------------


def test_a_receiver_that_is_destroyed_after_its_loop_is_left_by_generator_exit() -> None:
    seen: list[BaseException] = []
    coroutines: list[Any] = []

    async def receive(hub: dss.Hub[int]) -> None:
        try:
            await hub.receive()
        except BaseException as exc:
            seen.append(exc)
            raise

    async def main() -> None:
        async with dss.open_hub[int]() as hub:
            for _ in range(2):  # the second one would be woken in the place of the first
                coroutines.append(receive(hub))
                tasks.append(loop.create_task(coroutines[-1]))
            await asyncio.sleep(math.inf)

    loop = asyncio.new_event_loop()
    tasks = [loop.create_task(main())]
    loop.call_later(0.05, loop.stop)
    loop.run_forever()
    loop.close()
    for task in tasks:
        task._log_destroy_pending = False  # type: ignore[attr-defined]  # it is what is tested
    coroutines[0].close()
    assert [type(exc) for exc in seen] == [GeneratorExit]
