"""Many that wait, and give up: in line, in any order, and gone as soon as they have left."""

from __future__ import annotations

import gc
import math
import random
import sys
import time
import tracemalloc
import weakref
from collections.abc import Callable
from typing import Any

import anyio
import pytest

import dss_anyio as dss
from dss_anyio._core.waiter import InTurn, Waiter
from dss_anyio._receiving.asleep import FEW, Asleep


class Named(Waiter):
    __slots__ = ("__weakref__",)


def waiters(many: int) -> list[Named]:
    with dss.open_polled_hub[int]() as hub:
        return [Named(hub._mailbox.root, str(number), lambda: None) for number in range(many)]


def test_the_first_of_those_who_are_still_in_line_is_taken() -> None:
    chance = random.Random(1)
    line: InTurn[Named] = InTurn()
    model: list[Named] = []
    for each in waiters(5000):
        line[each] = True
        model.append(each)
        for _ in range(chance.choice([0, 0, 1, 2])):
            if chance.random() < 0.5:
                assert line.take_first() is (model.pop(0) if model else None)
            elif model:
                line.leave(model.pop(chance.randrange(len(model))))
        assert len(line) == len(model)
    while model:
        assert line.take_first() is model.pop(0)
    assert line.take_first() is None


def test_a_copy_of_the_order_that_comes_late_changes_nothing() -> None:
    """Two who take may both copy the order: then it names somebody twice, or too late."""
    one, two, three = waiters(3)
    line: InTurn[Named] = InTurn()
    for each in (one, two):
        line[each] = True
    late = list(line)
    assert line.take_first() is one
    line[three] = True
    line._order.extend(late)
    assert [line.take_first() for _ in range(3)] == [two, three, None]


def test_who_has_left_is_not_kept() -> None:
    line: InTurn[Named] = InTurn()
    there = waiters(10)
    for each in there:
        line[each] = True
    assert line.take_first() is there[0]
    left = [weakref.ref(each) for each in there]
    for each in there[1:]:
        line.leave(each)
    gc.disable()
    try:
        del there, each
        assert [ref() for ref in left] == [None] * 10
    finally:
        gc.enable()


class Item:
    pass


def test_the_item_of_a_sender_that_has_given_up_is_free_at_once() -> None:
    with dss.open_polled_hub[Any](1) as hub:
        hub.portal.send(0)
        one, other = Item(), Item()
        refs = [weakref.ref(one), weakref.ref(other)]
        futures = [hub.portal.request_soon(each) for each in (one, other)]
        del one, other
        assert hub.poll() == [0]  # lets the first one in, and so looks at the order
        futures[1].cancel()
        futures[0].cancel()
        hub.poll()
        gc.collect()
        assert [ref() for ref in refs] == [None, None]


def seconds(act: Callable[[int], float], many: int) -> float:
    return min(act(many) for _ in range(2))


def soon(many: int) -> float:
    with dss.open_polled_hub[int](1) as hub:
        hub.portal.send(0)
        futures = [hub.portal.request_soon(number) for number in range(many)]
        begun = time.perf_counter()
        for each in reversed(futures):
            each.cancel()
        assert not hub.blocked()
        return time.perf_counter() - begun


def sources(many: int) -> float:
    with dss.open_polled_hub[int](1) as hub:
        hub.portal.send(0)
        portals = [hub.register(f"source {number}") for number in range(many)]
        waiting = [portal.request_soon(0) for portal in portals]
        begun = time.perf_counter()
        for portal in portals:
            portal.abort()
        took = time.perf_counter() - begun
        assert all(each.done() for each in waiting)
        return took


def live_and_end(many: int) -> float:
    """One source after the other: registered, sent through, asked through, ended."""
    with dss.open_polled_hub[int, int | dss.Request[int]]() as hub:
        begun = time.perf_counter()
        for number in range(many):
            with hub.register(f"source {number}") as portal:
                portal.send(1)
                future = portal.request_soon(2)
            _, request = hub.poll()
            assert isinstance(request, dss.Request)
            assert request.reply(3)
            assert future.result() == 3
        took = time.perf_counter() - begun
        assert len(hub.statistics().sources) == many
        return took


def live_together_and_end(many: int) -> float:
    """The same with all of them at once, each in another way."""
    with dss.open_polled_hub[int](math.inf) as hub:
        begun = time.perf_counter()
        portals = [hub.register(f"source {number}") for number in range(many)]
        for portal in portals:
            portal.send(1)
        for number, portal in enumerate(portals):
            portal.abort() if number % 2 else portal.close()
        assert len(hub.poll()) == many - many // 2
        counts = hub.statistics()
        took = time.perf_counter() - begun
        assert sum(each.sent for each in counts.sources.values()) == counts.sent == many
        return took


BOUNDS: dict[str, dict[str, Any]] = {
    "the hub's": {},
    "the latest of each": {"max_buffer_size": 1, "overflow": "drop_oldest"},
    "16 each": {"max_buffer_size": 16, "overflow": "block"},
}


@pytest.mark.parametrize("bound", BOUNDS)
def test_ten_thousand_sources_live_ten_times_as_long_as_a_thousand(bound: str) -> None:
    """Registered, sent through, received from, aborted or closed. Quadratic: a hundred times."""

    def live(many: int) -> float:
        with dss.open_polled_hub[int](2 * many) as hub:
            begun = time.perf_counter()
            portals = [hub.register(f"source {number}", **BOUNDS[bound]) for number in range(many)]
            for number, portal in enumerate(portals + portals):
                portal.send(number)
            assert hub.poll()[-1] == 2 * many - 1
            for portal in portals:
                portal.send(0)
            for number, portal in enumerate(portals):
                portal.abort() if number % 2 else portal.close()
            assert hub.poll() == [0] * (many // 2)
            return time.perf_counter() - begun

    gc.disable()  # or it is the collector's time that is compared: it looks at all portals
    try:
        assert seconds(live, 10_000) < 40 * seconds(live, 1_000)
    finally:
        gc.enable()


@pytest.mark.parametrize("bound", BOUNDS)
def test_each_of_ten_thousand_sources_takes_as_much_memory_as_each_of_a_thousand(
    bound: str,
) -> None:
    def bytes_of_each(many: int) -> float:
        with dss.open_polled_hub[int](4 * many) as hub:
            names = [f"source {number}" for number in range(many)]
            gc.collect()
            tracemalloc.start()
            try:
                before, _ = tracemalloc.get_traced_memory()
                portals = [hub.register(name, **BOUNDS[bound]) for name in names]
                for portal in portals * 3:
                    portal.send(0)
                after, _ = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
            return (after - before) / many

    bytes_of_each(10)
    few = bytes_of_each(1_000)
    assert few < 6000
    assert bytes_of_each(10_000) < 1.3 * few


@pytest.mark.parametrize("act", [soon, sources, live_and_end, live_together_and_end])
def test_ten_times_as_many_that_leave_take_ten_times_as_long(act: Callable[[int], float]) -> None:
    """Quadratic would be a hundred. (There is much room: other programs run as well.)"""
    assert seconds(act, 5000) < 40 * seconds(act, 500)


@pytest.mark.parametrize("end", ["close", "abort"])
def test_of_ten_thousand_sources_that_have_ended_a_small_record_is_left(end: str) -> None:
    """One for each name, however often it is registered; and none of what they were."""
    with dss.open_polled_hub[Any]() as hub:

        def live(name: str) -> None:
            item = Item()
            portal = hub.register(name, decode=item.__eq__, on_undelivered=items.append)
            portal.send(item)
            portal.request_soon(1)
            if end == "close":
                hub.poll()
            getattr(portal, end)()
            if end == "abort":
                hub.poll()  # passes over the turns that are left
            refs.append(weakref.ref(item))
            items.clear()

        def memory(names: range) -> int:
            gc.collect()
            before, _ = tracemalloc.get_traced_memory()
            for number in names:
                live(f"source {number}")
            refs.clear()
            gc.collect()
            after, _ = tracemalloc.get_traced_memory()
            return after - before

        items: list[object] = []
        refs: list[weakref.ref[Item]] = []
        live("first")
        for number in range(100):
            live(f"another {number}")
        gc.collect()
        assert sum(each() is not None for each in refs) <= 32, "few that could be tidied away"
        tracemalloc.start()
        try:
            assert memory(range(10_000)) / 10_000 < 700  # bytes; with the name, 500 on CPython 3.11
            assert memory(range(9_000)) < 100_000, "the same names again"
        finally:
            tracemalloc.stop()
        assert len(hub.statistics().sources) == 10_101
        assert len(hub._mailbox.registry.lanes) < 100
        assert len(hub._mailbox.registry._forgotten) < 100


@pytest.mark.anyio
async def test_thousands_of_tasks_may_all_give_up_at_once() -> None:
    async def scenario(many: int) -> float:
        async with dss.open_hub[int](1) as hub:
            hub.portal.send(0)
            feed = hub.open_feed(1)
            feed.send_nowait(0)
            async with anyio.create_task_group() as tasks:
                for number in range(many):
                    tasks.start_soon(hub.portal.asend if number % 2 else feed.send, number)
                while len(hub.blocked()) < many:
                    await anyio.sleep(0)
                begun = time.perf_counter()
                tasks.cancel_scope.cancel()
            took = time.perf_counter() - begun
            assert not hub.blocked()
            return took

    few = await scenario(400)
    assert await scenario(4000) < 40 * few


# -- Those who sleep until there is something to receive -------------------------------------------


class Sleeper:
    """Stands for a nap."""


def crowd(many: int) -> tuple[Asleep[Sleeper, int], list[Sleeper]]:
    asleep: Asleep[Sleeper, int] = Asleep()
    there = [Sleeper() for _ in range(many)]
    asleep.update((each, number) for number, each in enumerate(there))
    return asleep, there


def test_of_those_who_sleep_the_first_one_is_found_whoever_has_left() -> None:
    chance = random.Random(1)
    asleep: Asleep[Sleeper, int] = Asleep()
    model: dict[Sleeper, int] = {}
    for number in range(20_000):
        if chance.random() < (0.6 if number < 10_000 else 0.4):
            each = Sleeper()
            asleep[each] = model[each] = number
        if model and chance.random() < 0.5:
            leaves = chance.choice([next(iter(model)), chance.choice(list(model)[:50])])
            assert asleep.remove(leaves)
            assert not asleep.remove(leaves)
            del model[leaves]
        assert asleep.first_item() == list(model.items())[:1]
    assert list(asleep.items()) == list(model.items())


def test_who_sleeps_no_longer_is_not_kept_and_leaves_no_gap() -> None:
    few, _ = crowd(FEW)
    asleep, there = crowd(10_000)
    assert asleep.first() is there[0]
    left = [weakref.ref(each) for each in there]
    for each in there:
        assert asleep.remove(each)
    assert sys.getsizeof(asleep) <= sys.getsizeof(few)
    gc.disable()
    try:
        del there, each
        assert [ref() for ref in left] == [None] * 10_000
    finally:
        gc.enable()


def taken_one_by_one(many: int) -> float:
    asleep, there = crowd(many)
    begun = time.perf_counter()
    for each in there:
        assert asleep.first() is each
        asleep.remove(each)
    return time.perf_counter() - begun


def gone_before_one_comes_and_goes(many: int) -> float:
    """Each time, a look at the first of the few there are passes over the gaps of all others."""
    asleep, there = crowd(many)
    begun = time.perf_counter()
    for each in there:
        asleep.remove(each)
    for each in there:
        asleep[each] = 0
        assert asleep.first() is each
        del asleep[each]
    return time.perf_counter() - begun


@pytest.mark.parametrize("act", [taken_one_by_one, gone_before_one_comes_and_goes])
def test_ten_times_as_many_that_sleep_take_ten_times_as_long(act: Callable[[int], float]) -> None:
    assert seconds(act, 50_000) < 40 * seconds(act, 5000)


@pytest.mark.anyio
async def test_thousands_of_receiving_ends_may_be_closed_while_a_task_sleeps_in_each() -> None:
    async def receive(end: Any) -> None:
        with pytest.raises(anyio.ClosedResourceError):
            await end.receive()

    async def scenario(many: int) -> float:
        async with dss.open_hub[int]() as hub, anyio.create_task_group() as tasks:
            ends = [hub.clone() for _ in range(many)]
            for end in ends:
                tasks.start_soon(receive, end)
            while hub.statistics().tasks_waiting_receive < many:
                await anyio.sleep(0)
            begun = time.perf_counter()
            for end in ends:
                end.close()
            took = time.perf_counter() - begun
            assert hub.statistics().tasks_waiting_receive == 0
        return took

    few = await scenario(400)
    assert await scenario(4000) < 40 * few
