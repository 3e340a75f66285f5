"""What an item costs, in steps that are the same on every machine: a guard against getting slower.

Two things are counted inside of the library. The calls into the interpreter: each of them is a step
on a container that threads share, so this is the number of atomic operations of an item (a step
takes the container's mutex where there is no GIL). And the bytecodes, with some room, because each
CPython counts a little differently. Where a count is exceeded for a good reason, raise it here, and
say in the commit what is bought with it.
"""

from __future__ import annotations

import contextlib
import gc
import math
import sys
import threading
import tracemalloc
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import anyio
import pytest

import dss_anyio as dss
from dss_anyio._core.steps import TURN
from dss_anyio._ending.order import end_source
from dss_anyio.testing import threads


def is_ours(frame: FrameType) -> bool:
    return bool(frame.f_globals.get("__name__", "").startswith("dss_anyio."))


def steps(act: Callable[[], object]) -> list[str]:
    """The functions of the interpreter that the library calls in *act*."""
    called: list[str] = []

    def profile(frame: FrameType, event: str, what: Any) -> None:
        if event == "c_call" and is_ours(frame):
            called.append(what.__name__)

    gc.disable()  # or the end of an earlier hub would be counted, wherever a collection hits
    sys.setprofile(profile)
    try:
        act()
    finally:
        sys.setprofile(None)
        gc.enable()
    return called


class Count:
    """The bytecodes and the calls of the library's own functions, in all threads."""

    def __init__(self) -> None:
        self.bytecodes = self.calls = 0

    def trace(self, frame: FrameType, event: str, _: Any) -> Any:
        if not is_ours(frame):
            return None
        frame.f_trace_opcodes = True
        if event == "call":
            self.calls += 1
        elif event == "opcode":
            self.bytecodes += 1
        return self.trace


@contextmanager
def counted() -> Iterator[Count]:
    """Count in this thread, and in those that are started inside of the block."""
    count = Count()
    before = sys.gettrace()
    gc.disable()  # as above
    threading.settrace(count.trace)
    sys.settrace(count.trace)
    try:
        yield count
    finally:
        sys.settrace(before)
        threading.settrace(None)  # type: ignore[arg-type]  # the stubs do not know that
        gc.enable()


def finish(coroutine: Coroutine[Any, Any, Any]) -> object:
    """Run *coroutine*, which must not wait."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("it waits")


def in_a_hub(*args: Any, **kwargs: Any) -> Callable[[Callable[[dss.Hub[int]], None]], None]:
    """Call the decorated function with an open hub, at once."""

    def decorate(act: Callable[[dss.Hub[int]], None]) -> None:
        async def main() -> None:
            async with dss.open_hub[int](*args, **kwargs) as hub:
                act(hub)

        anyio.run(main)

    return decorate


SENDERS = ["send", "send_nowait", "offer"]


@pytest.mark.parametrize("sender", SENDERS)
def test_to_send_an_item_takes_one_step_and_two_where_there_is_a_limit(sender: str) -> None:
    @in_a_hub(math.inf)
    def unbounded(hub: dss.Hub[int]) -> None:
        send = getattr(hub.portal, sender)
        assert steps(lambda: send(1)) == ["append"]

    @in_a_hub(1024)
    def bounded(hub: dss.Hub[int]) -> None:
        send = getattr(hub.portal, sender)
        assert steps(lambda: send(1)) == ["pop", "append"]  # its place comes first


@pytest.mark.parametrize("sender", SENDERS)
def test_an_item_of_a_source_takes_one_step_more(sender: str) -> None:
    @in_a_hub(math.inf)
    def unbounded(hub: dss.Hub[int]) -> None:
        with hub.register("source") as portal:
            send = getattr(portal, sender)
            assert steps(lambda: send(1)) == ["append", "append"]  # its turn


@pytest.mark.parametrize("sender", SENDERS)
def test_to_send_an_item_is_one_function(sender: str) -> None:
    @in_a_hub(1024)
    def bounded(hub: dss.Hub[int]) -> None:
        send = getattr(hub.portal, sender)
        with counted() as count:
            send(1)
        assert count.calls == 1
        assert count.bytecodes <= 50


def test_to_receive_an_item_takes_one_step_and_two_where_there_is_a_limit() -> None:
    @in_a_hub(math.inf)
    def unbounded(hub: dss.Hub[int]) -> None:
        hub.portal.send(1)
        assert steps(lambda: finish(hub.__anext__())) == ["popleft"]

    @in_a_hub(1024)
    def bounded(hub: dss.Hub[int]) -> None:
        hub.portal.send(1)
        assert steps(lambda: finish(hub.__anext__())) == ["popleft", "append"]  # its place


def test_to_receive_an_item_is_one_function() -> None:
    @in_a_hub(1024)
    def bounded(hub: dss.Hub[int]) -> None:
        hub.portal.send_many([1, 2])
        finish(hub.__anext__())
        with counted() as count:
            finish(hub.__anext__())
        assert count.calls == 1
        assert count.bytecodes <= 75


@pytest.mark.skipif(sys.version_info < (3, 11), reason="before, an object always has a dict")
def test_the_attributes_of_a_hub_that_has_slept_are_found_at_once() -> None:
    """Once somebody has asked for its ``__dict__``, each look at one of them is a search."""

    def has_a_dict(hub: dss.Hub[int]) -> bool:
        return any(type(held) is dict for held in gc.get_referents(hub))

    async def main() -> None:
        async with dss.open_hub[int]() as hub:
            with anyio.move_on_after(0.01):
                await hub.receive()
            assert not has_a_dict(hub)
            if sys.version_info < (3, 13):  # later ones go on finding them at once
                assert vars(hub)
                assert has_a_dict(hub), "it would be seen"

    anyio.run(main)


def test_to_iterate_over_a_thousand_items_takes_no_more_for_the_last_one() -> None:
    """A turn of the iteration costs, but not much."""

    @in_a_hub(math.inf)
    def unbounded(hub: dss.Hub[int]) -> None:
        def receive() -> None:
            for _ in range(TURN):
                finish(hub.__anext__())

        hub.portal.send_many(range(8 * TURN))
        hub._turn_began = math.inf  # the time for a checkpoint never comes
        with counted() as count:
            for _ in range(7):
                receive()
        assert count.bytecodes <= 7 * TURN * 60


@pytest.mark.parametrize("limit", [math.inf, 100_000])
def test_lots_cost_next_to_nothing_for_each_item(limit: float) -> None:
    @in_a_hub(limit)
    def lots(hub: dss.Hub[int]) -> None:
        batch = list(range(10_000))
        with counted() as count:
            hub.portal.send_many(batch)
        assert count.bytecodes <= 250
        with counted() as count:
            assert hub._mailbox.take_many(None) == batch
        assert count.bytecodes <= 250


@pytest.mark.parametrize(
    ("source", "most"), [(False, 9), (True, 18)], ids=["hub.portal", "a source"]
)
def test_a_queued_item_takes_eight_bytes_and_one_of_a_source_its_turn(
    source: bool, most: float
) -> None:
    many = 50_000

    @in_a_hub(math.inf)
    def unbounded(hub: dss.Hub[int]) -> None:
        portal = hub.register("source") if source else hub.portal
        send = portal.send_nowait
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(many):
            send(1)
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        portal.abort()
        assert (after - before) / many <= most


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_hub_is_opened_used_once_and_closed_within_so_many_steps(backend: str) -> None:
    async def live() -> None:
        async with dss.open_hub[int]() as hub:
            hub.portal.send_nowait(1)
            async for _ in hub:
                break

    async def main() -> Count:
        await live()  # the first one finds out which event loop this is
        with counted() as count:
            await live()
        return count

    count = anyio.run(main, backend=backend)
    assert count.calls <= 50  # on asyncio two of them for the witness of the loop's end
    assert count.bytecodes <= 1265  # an iteration looks whether this is the hub's thread


def end_of_the_hub(hub: dss.PolledHub[int], _: dss.Portal[int]) -> None:
    hub.close()


def end_of_the_portal(_: dss.PolledHub[int], portal: dss.Portal[int]) -> None:
    portal.close()


CALLBACKS: dict[str, tuple[int, int, Callable[[dss.Portal[int]], Callable[[int], object]]]] = {
    # calls, bytecodes
    "one way": (1, 20, lambda portal: portal.send_callback(pytest.fail)),
    "with a default": (
        1,
        25,
        lambda portal: portal.request_callback(pytest.fail, timeout=None, default=None),
    ),
    "that raises": (6, 90, lambda portal: portal.request_callback(pytest.fail, timeout=None)),
}


@pytest.mark.parametrize("source", [False, True], ids=["hub.portal", "a source"])
@pytest.mark.parametrize("end", [end_of_the_hub, end_of_the_portal])
@pytest.mark.parametrize("callback", CALLBACKS)
def test_a_callback_that_comes_too_late_is_cheap_for_ever(
    callback: str, end: Callable[..., None], source: bool
) -> None:
    """No item is made, nothing is kept, and the last one costs what the first one did."""
    most_calls, most_bytecodes, make = CALLBACKS[callback]
    many = 2000
    with dss.open_polled_hub[int]() as hub:
        portal = hub.register("source") if source else hub.portal
        late = make(portal)
        end(hub, portal)

        def call() -> None:
            with contextlib.suppress(anyio.BrokenResourceError, anyio.ClosedResourceError):
                assert late(1) is None

        def cost() -> tuple[int, int]:
            with counted() as count:
                call()
            return count.calls, count.bytecodes

        first = cost()
        assert first[0] <= most_calls
        assert first[1] <= most_bytecodes
        assert len(steps(call)) <= 1  # it is counted
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(many):
            call()
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert after - before < 1000, "something is kept of them"
        assert cost() == first
        assert hub.statistics().late == many + 3
        assert hub.statistics().errors == 0


@pytest.mark.skipif(
    sys.version_info[:2] == (3, 12), reason="CPython 3.12.1 crashes if two threads trace bytecodes"
)
@pytest.mark.anyio
@pytest.mark.parametrize(("act", "most"), [("call", 580), ("request", 1200)])
async def test_a_round_trip_takes_so_many_bytecodes_on_both_sides(act: str, most: int) -> None:
    trips = 50

    def ask() -> None:
        for number in range(trips + 5):
            if number == 5:  # the first ones make what is made once
                count.bytecodes = 0
            assert (hub.portal.call(int) if act == "call" else hub.portal.request(0)) == 0

    async with dss.open_hub[int]() as hub:
        with counted() as count:
            hub.task_group.start_soon(hub.serve, lambda item: item)
            with threads(ask) as [thread]:
                while thread.is_alive():
                    await anyio.sleep(0.01)
        hub.close_senders()
    assert most / 3 <= count.bytecodes / trips <= most


def end_alone(hub: dss.PolledHub[int], portal: dss.Portal[int]) -> None:
    """As the end of an ``open_source`` block."""
    mailbox, source = hub._mailbox, portal._lane.source
    mailbox.registry.release(source)
    end_source(mailbox, source, None, errors := [])
    assert errors == []


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda hub, portal: hub.register("another").close(), id="register"),
        pytest.param(lambda hub, portal: portal.clone().close(), id="clone"),
        pytest.param(lambda hub, portal: portal.close(), id="close"),
        pytest.param(lambda hub, portal: portal.abort(), id="abort"),
        pytest.param(end_alone, id="end_source"),
    ],
)
def test_what_comes_and_goes_costs_the_same_whatever_else_is_there(
    act: Callable[[dss.PolledHub[int], dss.Portal[int]], None],
) -> None:
    """So to begin or to end thousands of them one by one takes linear time."""

    def cost(others: int) -> int:
        with dss.open_polled_hub[int](1) as hub:
            hub.portal.send(0)
            for number in range(others):
                hub.register(f"source {number}").request_soon(0)  # waits for a place
            portal = hub.register("library")
            hub._mailbox.registry._tidy()  # it is done rarely, and looks at all
            with counted() as count:
                act(hub, portal)
        return count.bytecodes

    cost(1)  # what is made once
    assert cost(300) <= cost(3) + 50
