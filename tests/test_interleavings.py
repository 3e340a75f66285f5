"""At every bytecode of one call, another one runs: all schedules of two calls, tried one by one.

A trace function stops the first call before its *n*-th bytecode inside of the library, runs the
second one from beginning to end, and lets the first one go on; *n* goes from 0 until the first call
has fewer bytecodes. It does not matter that it happens in one thread: what two calls share does not
depend on the thread, and for a signal handler or a finalizer this is exactly what happens. So what
is seen here holds for a second thread that comes in between, for a handler that sends, for a hub
that is closed right there.
"""

from __future__ import annotations

import gc
import math
import select
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from types import FrameType
from typing import Any

import anyio
import pytest
from bytecodes import before_bytecode, run_interrupted

import dss_anyio as dss

POLICIES = ["block", "drop_oldest", "drop_newest"]
KINDS = [(1, "block"), (2, "block"), (math.inf, "block"), (1, "drop_newest")]
KINDS += [(1, "drop_oldest"), (2, "drop_oldest")]


class World:
    """A polled hub with a source, and everything that becomes of the items."""

    def __init__(self, limit: float, overflow: Any, queued: int = 0) -> None:
        self.hub = dss.open_polled_hub(limit, overflow=overflow)
        self.accepted: list[Any] = []
        self.received: list[Any] = []
        self.undelivered: list[Any] = []
        self.source = self.hub.register("source", on_undelivered=self.undelivered.append)
        self.hub._mailbox.home.thread = None  # the one thread of the test plays all the parts
        for number in range(queued):
            self.offer(f"queued {number}")

    def offer(self, item: Any, portal: Any = None) -> None:
        portal = portal or self.source
        if portal.offer(item):
            self.accepted.append(item)

    def poll(self, most: int | None = None) -> None:
        try:
            self.received += self.hub.poll(most)
            self.hub._mailbox.home.thread = None  # as in __init__
        except (anyio.EndOfStream, anyio.ClosedResourceError):
            pass

    def put_late(self) -> None:
        """Two senders that have found their portals open go on only now."""
        for portal, item in ((self.source, "late"), (self.hub.portal, "own late")):
            if portal._lane.places.put(portal._lane, item):
                self.accepted.append(item)

    def finish(self) -> None:
        """Nothing is lost, nothing came twice, the counts add up."""
        limit = self.hub.statistics().max_buffer_size
        assert len(self.hub) <= limit
        self.poll()
        if not self.hub._mailbox.ended:  # a second end would hide what the first one has missed
            self.hub.close()
        self.check()
        self.put_late()
        self.check()

    def check(self) -> None:
        ends = sorted(self.received + self.undelivered)
        # The hub's own portal has nobody to hand an item back to: it is only counted.
        unseen = sorted(item for item in self.accepted if item.startswith("own"))
        for item in self.received:
            if item in unseen:
                unseen.remove(item)
        assert sorted(ends + unseen) == sorted(self.accepted)
        counts = self.hub.statistics()
        assert counts.received == len(self.received)
        assert counts.dropped + counts.undelivered == len(self.undelivered) + len(unseen)
        assert counts.queued == 0
        assert counts.errors == 0


def every_bytecode(
    make: Callable[[], World], act: Callable[[World], object], intrude: Callable[[World], object]
) -> Iterator[World]:
    at = 0
    while True:
        world = make()
        intruded = run_interrupted(lambda: act(world), lambda: intrude(world), at, only_shared=True)
        yield world
        if not intruded:
            assert at > 5, "the first call was hardly traced at all"
            return
        at += 1


ACTS: dict[str, Callable[[World], object]] = {
    "offer": lambda world: world.offer("first"),
    "poll": lambda world: world.poll(),
    "poll one": lambda world: world.poll(1),
    "abort": lambda world: world.source.abort(),
    "close the portal": lambda world: world.source.close(),
    "close the hub": lambda world: world.hub.close(),
    "close the senders": lambda world: world.hub.close_senders(),
}
INTRUSIONS: dict[str, Callable[[World], object]] = {
    "offer": lambda world: world.offer("second"),
    "offer twice": lambda world: [world.offer("second"), world.offer("third")],
    "poll": lambda world: world.poll(),
    "abort": lambda world: world.source.abort(),
    "close the hub": lambda world: world.hub.close(),
    "put late": lambda world: world.put_late(),
    "close the hub, then put late": lambda world: [world.hub.close(), world.put_late()],
}
TWO_RECEIVERS = {("poll", "poll"), ("poll one", "poll")}  # polling is for one thread at a time


@pytest.mark.parametrize(("limit", "policy"), KINDS)
@pytest.mark.parametrize("intrusion", INTRUSIONS)
@pytest.mark.parametrize("act", ACTS)
def test_any_two_calls_may_meet_at_any_bytecode(
    act: str, intrusion: str, limit: float, policy: str
) -> None:
    if (act, intrusion) in TWO_RECEIVERS:
        return
    for queued in (0, 2):
        for world in every_bytecode(
            lambda queued=queued: World(limit, policy, queued), ACTS[act], INTRUSIONS[intrusion]
        ):
            world.finish()


@pytest.mark.parametrize("latest", ["own latest", "source's latest"])
@pytest.mark.parametrize("limit", [1, 2])
def test_the_latest_item_survives_drop_oldest_whoever_comes_between(
    limit: int, latest: str
) -> None:
    """Guards ``_move``: no place is ever in the receiver's hands."""

    def make() -> World:
        return World(limit, "drop_oldest", limit)

    def offer(world: World) -> None:
        world.offer(latest, world.hub.portal if latest == "own latest" else None)

    for world in every_bytecode(make, lambda world: world.poll(1), offer):
        world.poll()
        if latest in world.accepted:  # all but the last round
            assert world.received[-1] == latest
        world.finish()


@pytest.mark.parametrize("queued", [0, 1])
def test_no_datagram_is_lost_if_an_item_comes_at_any_bytecode_of_poll(queued: int) -> None:
    def make() -> World:
        world = World(8, "block", queued)
        world.hub.fileno()
        return world

    for world in every_bytecode(make, lambda w: w.poll(), lambda w: w.offer("second")):
        if len(world.hub):
            assert select.select([world.hub], [], [], 5)[0], "an item waits and nobody is told"
        world.finish()


def test_a_wait_ends_if_an_item_comes_at_any_bytecode_of_it() -> None:
    for world in every_bytecode(
        lambda: World(8, "block"), lambda w: w.hub.wait(0.005), lambda w: w.offer("second")
    ):
        if world.accepted:  # all but the last round
            assert world.hub.wait(5)
        world.finish()


@pytest.mark.parametrize(
    ("intrusion", "outcome"),
    [
        ("poll", None),
        ("abort", anyio.ClosedResourceError),
        ("close the portal", anyio.ClosedResourceError),
        ("close the hub", anyio.BrokenResourceError),
        ("close the senders", anyio.ClosedResourceError),
    ],
)
def test_a_send_that_waits_ends_whatever_happens_at_any_bytecode_of_it(
    intrusion: str, outcome: type[Exception] | None
) -> None:
    """Guards ``wait_for_room``: first enter, then look. The timeout would show a lost sender."""

    def act(world: World) -> None:
        try:
            world.source.send("first", timeout=20)
        except (anyio.ClosedResourceError, anyio.BrokenResourceError) as exc:
            world.raised = type(exc)  # type: ignore[attr-defined]
        else:
            world.accepted.append("first")
            world.raised = None  # type: ignore[attr-defined]

    intrude = {**ACTS, **INTRUSIONS}[intrusion]
    for at in range(count_bytecodes_until_waiting()):  # beyond, it would come too late
        world = World(1, "block", 1)
        assert run_interrupted(lambda: act(world), lambda: intrude(world), at)
        if outcome is None:
            assert world.raised is None  # type: ignore[attr-defined]
        else:
            assert world.raised in (outcome, None)  # type: ignore[attr-defined]
        assert not world.hub.blocked()
        world.finish()


def count_bytecodes_until_waiting() -> int:
    """The bytecodes of a ``send`` to a full hub up to its wait for the lock."""
    world = World(1, "block", 1)
    counted = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal counted
        if not frame.f_globals.get("__name__", "").startswith("dss_anyio."):
            return None
        if frame.f_code.co_name == "acquire":
            sys.settrace(None)
            return None
        frame.f_trace_opcodes = True
        counted += event == "opcode"
        return trace

    before = sys.gettrace()
    gc.disable()  # as in ``before_bytecode``
    sys.settrace(trace)
    try:
        with pytest.raises(TimeoutError):
            world.source.send("first", timeout=0)
    finally:
        sys.settrace(before)
        gc.enable()
    world.finish()
    return counted


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("act", ["offer", "poll", "abort"])
def test_a_signal_handler_that_raises_at_any_bytecode_costs_what_is_in_hand_at_most(
    act: str, policy: str
) -> None:
    """Ctrl-C in the main thread: the hub goes on, or ends, and nothing comes twice."""

    def interrupt(_: World) -> None:
        raise KeyboardInterrupt

    def interruptible(world: World) -> None:
        try:
            ACTS[act](world)
        except KeyboardInterrupt:
            pass

    for world in every_bytecode(lambda: World(2, policy, 2), interruptible, interrupt):
        world.offer("afterwards")
        try:
            world.poll()
        except KeyboardInterrupt:  # it came while a batch was being decoded, which was returned
            world.poll()
        world.hub.close()
        ends = world.received + world.undelivered
        assert len(ends) == len(set(ends)), "something came twice"
        # A poll has a batch in hand, a send that replaces the oldest item has two.
        in_hand = 1 if act == "abort" or (act, policy) == ("offer", "block") else 2
        with pytest.raises((anyio.ClosedResourceError, anyio.BrokenResourceError)):
            world.source.send("after the end", timeout=20)
        accepted = set(world.accepted) - {"first"}
        assert len(accepted - set(ends)) <= in_hand


@pytest.mark.anyio
@pytest.mark.parametrize("limit", [0, 1, math.inf])
@pytest.mark.parametrize("how", ["receive", "receive_many", "iterate"])
async def test_no_wake_is_lost_if_an_item_comes_at_any_bytecode_of_a_receive(
    how: str, limit: float
) -> None:
    """Guards ``Sleepers._rouse``: first arm, then look. A lost wake runs into the time limit."""
    at = 0
    while True:
        sent = False
        async with dss.open_hub(limit) as hub:

            def intrude(hub: dss.Hub[int] = hub) -> None:
                nonlocal sent
                sent = hub.portal.offer(1)

            async def send_later(hub: dss.Hub[int] = hub) -> None:
                # The receiver sleeps: the bytecodes are through, or the item came and was refused
                # because with limit 0 nobody was waiting yet.
                await anyio.wait_all_tasks_blocked()
                sys.settrace(None)
                if not sent:
                    await hub.portal.asend(1)

            hub.task_group.start_soon(send_later)
            with anyio.fail_after(10), before_bytecode(at, intrude) as intruded:
                if how == "receive":
                    assert await hub.receive() == 1
                elif how == "receive_many":
                    assert await hub.receive_many() == [1]
                else:
                    assert await hub.__anext__() == 1
            assert hub.statistics().wakes <= 1
        if not intruded:
            assert at > 20
            return
        at += 1


@pytest.mark.anyio
async def test_no_wake_is_lost_if_an_item_comes_while_another_one_is_handled_in_the_wake() -> None:
    """Guards the second look in ``Sleepers.wake_arrived``. A lost wake runs into the time limit."""
    for at in range(2000):
        async with dss.open_hub[int](math.inf) as hub:
            handled: list[int] = []
            hub.task_group.start_soon(hub.serve, handled.append)
            with anyio.fail_after(10):
                while not hub.statistics().tasks_waiting_receive:
                    await anyio.lowlevel.checkpoint()
                offer = hub.portal.offer
                with before_bytecode(at, lambda offer=offer: offer(2)) as intruded:
                    await anyio.to_thread.run_sync(offer, 1)
                    while not handled:
                        await anyio.lowlevel.checkpoint()
                while len(handled) <= len(intruded):
                    await anyio.lowlevel.checkpoint()
            assert handled == [1, 2][: len(handled)]
            hub.close_senders()
        if not intruded:
            assert at > 50
            return
    raise AssertionError("there is no end to the bytecodes")


@pytest.mark.parametrize("how", ["close", "abort", "end"])
def test_wherever_the_end_comes_a_request_does_not_stay_in_the_line(how: str) -> None:
    """Guards the look at the refusal in ``Mailbox.ask``, after the request got into the line."""
    for at in range(1000):
        with dss.open_polled_hub[Any](1) as hub:
            hub.portal.send("item")
            portal = hub.register("library")
            end = {"close": portal.close, "abort": portal.abort, "end": hub.close}[how]
            futures: list[Future[Any]] = []

            def ask(portal: Any = portal, futures: Any = futures) -> None:
                with suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
                    futures.append(portal.request_soon("question"))

            if not run_interrupted(ask, end, at):
                assert at > 20
                return
            for future in futures:
                assert isinstance(
                    future.exception(0), (anyio.ClosedResourceError, anyio.BrokenResourceError)
                )
            assert hub.statistics().tasks_waiting_send == 0
            assert hub.blocked() == []
    raise AssertionError
