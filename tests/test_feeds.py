"""Feeds: what a callback with a deadline takes, and what the loop fills in advance."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from bytecodes import run_interrupted
from conftest import BACKENDS

import dss_anyio as dss
from dss_anyio.testing import eventually, threads, until

pytestmark = pytest.mark.anyio


async def test_what_is_fed_is_taken_in_its_order() -> None:
    async with dss.open_hub[Any]() as hub:
        feed = hub.open_feed(math.inf)
        for item in range(100):
            feed.send_nowait(item)
        assert len(feed) == 100
        taken: list[int] = []
        with threads(lambda: taken.extend(feed.take_nowait() for _ in range(100))):
            pass
        assert taken == list(range(100))
        assert feed.statistics() == (0, math.inf, 100, 0, 0)
        assert feed.statistics().sent == 100


async def test_the_bound_is_exact_and_senders_wait() -> None:
    async with dss.open_hub[Any]() as hub:
        feed = hub.open_feed(3, name="audio")
        for sender in range(4):
            hub.task_group.start_soon(send_many, feed, sender, 50)
        await anyio.wait_all_tasks_blocked()
        assert len(feed) == 3
        assert [each[:2] for each in hub.blocked()] == [("audio", "feed.send")] * 4
        with pytest.raises(anyio.WouldBlock, match="holds 3 items"):
            feed.send_nowait("one too many")
        taken: list[tuple[int, int]] = []
        longest = 0
        while len(taken) < 200:
            longest = max(longest, len(feed))
            if len(feed):
                taken.append(feed.take_nowait())
            else:
                await anyio.lowlevel.checkpoint()
        assert longest == 3
        for sender in range(4):
            assert [n for who, n in taken if who == sender] == list(range(50))
        assert feed.statistics() == (0, 3, 200, 0, 1)
        await eventually(lambda: hub.blocked() == [])


async def send_many(feed: dss.Feed[Any], sender: int, many: int) -> None:
    for number in range(many):
        await feed.send((sender, number))


async def test_threads_take_while_tasks_send(switching_fast: None) -> None:
    taken: list[tuple[int, int]] = []

    def take() -> None:
        try:
            while True:
                taken.append(feed.take(timeout=20))
        except anyio.EndOfStream:
            pass

    async with dss.open_hub[Any]() as hub:
        feed = hub.open_feed(2)
        with threads(take, take, take) as takers:
            async with anyio.create_task_group() as tasks:
                for sender in range(3):
                    tasks.start_soon(send_many, feed, sender, 100)
            feed.close()
            await eventually(lambda: not any(taker.is_alive() for taker in takers))
        assert sorted(taken) == [(sender, number) for sender in range(3) for number in range(100)]
        counts = feed.statistics()
        assert (counts.taken, counts.underruns) == (300, 3)  # each taker has heard of the end


async def test_a_taker_waits_and_is_seen_to_wait() -> None:
    async with dss.open_hub[Any]() as hub:
        feed = hub.open_feed(3, name="audio")
        taken: list[object] = []
        with threads(lambda: taken.append(feed.take())):
            await eventually(hub.blocked)
            [blocked] = hub.blocked()
            assert blocked[:2] == ("audio", "feed.take")
            await feed.send("item")
            await eventually(lambda: taken)
        assert taken == ["item"]
        assert hub.blocked() == []


EMPTY: dict[str, tuple[Callable[[dss.Feed[Any]], object], type[Exception]]] = {
    "take_nowait": (lambda feed: feed.take_nowait(), anyio.WouldBlock),
    "take": (lambda feed: feed.take(timeout=0.01), TimeoutError),
}
DEFAULT: dict[str, Callable[[dss.Feed[Any]], object]] = {
    "take_nowait": lambda feed: feed.take_nowait(b"silence"),
    "take_nowait(default=)": lambda feed: feed.take_nowait(default=b"silence"),
    "take": lambda feed: feed.take(timeout=0.01, default=b"silence"),
}


async def run_in_thread(func: Callable[..., object], *args: object) -> object:
    outcome: list[object] = []

    def run() -> None:
        try:
            outcome.append(func(*args))
        except Exception as exc:
            outcome.append(exc)

    with threads(run):
        await eventually(lambda: outcome)
    return outcome[0]


@pytest.mark.parametrize("how", EMPTY)
async def test_nothing_in_time_is_an_error_and_an_underrun(how: str) -> None:
    take, error = EMPTY[how]
    async with dss.open_hub[Any]() as hub:
        feed = hub.open_feed(1)
        assert isinstance(await run_in_thread(take, feed), error)
        feed.close()
        assert isinstance(await run_in_thread(take, feed), anyio.EndOfStream)
        assert feed.statistics().underruns == 2
    assert isinstance(await run_in_thread(take, feed), anyio.BrokenResourceError)
    assert feed.statistics().underruns == 3


@pytest.mark.parametrize("how", DEFAULT)
async def test_with_a_default_it_never_raises_and_counts(how: str) -> None:
    async with dss.open_hub[Any]() as hub:
        feed = hub.open_feed(1)
        feed.send_nowait("item")
        assert await run_in_thread(DEFAULT[how], feed) == "item"
        assert await run_in_thread(DEFAULT[how], feed) == b"silence"
        feed.close()
        assert await run_in_thread(DEFAULT[how], feed) == b"silence"
    assert await run_in_thread(DEFAULT[how], feed) == b"silence"
    assert feed.statistics() == (0, 1, 1, 3, 0)


async def test_what_is_in_a_closed_feed_can_still_be_taken_and_nothing_added() -> None:
    async with dss.open_hub[Any]() as hub:
        with hub.open_feed(5) as feed:
            await feed.send(1)
            feed.send_nowait(2)
        with pytest.raises(anyio.ClosedResourceError):
            feed.send_nowait(3)
        with pytest.raises(anyio.ClosedResourceError):
            await feed.send(3)
        await feed.aclose()  # a second time
        assert [feed.take_nowait(), feed.take()] == [1, 2]
        with pytest.raises(anyio.EndOfStream):
            feed.take()


async def test_closing_it_releases_who_waits_on_both_sides() -> None:
    async with dss.open_hub[Any]() as hub:
        full, empty = hub.open_feed(1), hub.open_feed(1)
        full.send_nowait("item")
        outcomes: list[type[BaseException]] = []

        async def send() -> None:
            try:
                await full.send("another")
            except Exception as exc:
                outcomes.append(type(exc))

        def take() -> None:
            try:
                empty.take()
            except Exception as exc:
                outcomes.append(type(exc))

        hub.task_group.start_soon(send)
        with threads(take):
            await eventually(lambda: len(hub.blocked()) == 2)
            full.close()
            empty.close()
        await eventually(lambda: len(outcomes) == 2)
        assert set(outcomes) == {anyio.ClosedResourceError, anyio.EndOfStream}


async def test_the_end_of_the_hub_releases_who_waits_on_both_sides() -> None:
    outcomes: list[str] = []

    async def send(feed: dss.Feed[str]) -> None:
        try:
            await feed.send("another")
        except anyio.BrokenResourceError:
            outcomes.append("sender")

    def take(feed: dss.Feed[str]) -> None:
        with pytest.raises(anyio.BrokenResourceError):
            feed.take()
        assert feed.take(default="default") == "default"
        outcomes.append("taker")

    async with anyio.create_task_group() as tasks:
        async with dss.open_hub[Any]() as hub:
            full, empty = hub.open_feed(1), hub.open_feed(1)
            full.send_nowait("item")
            tasks.start_soon(send, full)  # a task that outlives the hub
            taker = threading.Thread(target=take, args=(empty,))
            taker.start()
            await eventually(lambda: len(hub.blocked()) == 2)
        taker.join(10)
    assert sorted(outcomes) == ["sender", "taker"]
    with pytest.raises(anyio.BrokenResourceError):
        full.send_nowait("late")
    with pytest.raises(anyio.BrokenResourceError):
        hub.open_feed(1)


async def test_a_task_of_the_hub_that_was_woken_when_it_ended_is_cancelled_as_the_others_are() -> (
    None
):
    """Guards the second ``checkpoint`` of ``send``: else the hub's end is an error of its task."""
    async with dss.open_hub[Any]() as hub:
        feed = hub.open_feed(1)
        feed.send_nowait(1)
        hub.task_group.start_soon(feed.send, 2)
        await anyio.wait_all_tasks_blocked()
        assert feed.take_nowait() == 1
        await anyio.lowlevel.checkpoint()  # it was woken, and has not run: the end comes first


async def test_a_sender_that_was_woken_and_is_cancelled_passes_the_wake_on() -> None:
    """Guards what ``Feed._sleep`` does when it is cancelled."""
    async with dss.open_hub[Any]() as hub:
        feed = hub.open_feed(1)
        feed.send_nowait("first")
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(feed.send, "cancelled")
                await eventually(lambda: len(hub.blocked()) == 1)
                hub.task_group.start_soon(feed.send, "second")
                await eventually(lambda: len(hub.blocked()) == 2)
                assert feed.take_nowait() == "first"  # wakes the one that is cancelled
                scope.cancel()
        with anyio.fail_after(10):
            while not len(feed):
                await anyio.lowlevel.checkpoint()
        taken = [feed.take_nowait()]
        if taken == ["cancelled"]:  # it was quicker
            await eventually(lambda: len(feed))
            taken.append(feed.take_nowait())
        assert taken[-1] == "second"


@pytest.mark.parametrize("what_comes", ["an item", "the close", "the end"])
def test_a_taker_does_not_sleep_whatever_comes_at_whichever_bytecode(
    what_comes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards the look after ``_takers.append`` in ``Feed._wait``."""
    for at in range(1000):
        hub = dss.open_polled_hub[Any]()
        feed: dss.Feed[Any] = hub.open_feed(1)
        hub._mailbox.home.thread = None  # the one thread of the test plays both parts
        comes: dict[str, Callable[[], object]] = {
            "an item": lambda feed=feed: feed.send_nowait("item"),
            "the close": feed.close,
            "the end": hub.close,
        }
        came: list[bool] = []
        in_vain: list[bool] = []
        outcome: list[object] = []

        def come() -> None:
            came.append(True)
            comes[what_comes]()

        def fall_asleep(lock: Any, _: object) -> bool:
            """What would sleep now if *lock* were not free. Let the time be over at once."""
            if not came:
                in_vain.append(True)
                return False
            assert lock.acquire(False), "it would have slept until its time was over"
            return True

        def take() -> None:
            try:
                outcome.append(feed.take(timeout=3600))
            except (anyio.EndOfStream, anyio.BrokenResourceError) as exc:
                outcome.append(type(exc))
            except TimeoutError:
                assert in_vain

        monkeypatch.setattr("dss_anyio._portal.feed.acquire", fall_asleep)
        assert run_interrupted(take, come, at)
        hub.close()
        if in_vain:  # nothing had come by then: so much for what comes before
            assert at > 60
            return
        assert (
            outcome
            == {
                "an item": ["item"],
                "the close": [anyio.EndOfStream],
                "the end": [anyio.BrokenResourceError],
            }[what_comes]
        )
    raise AssertionError


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_taker_in_the_hubs_own_thread_is_told_instead_of_waiting(backend: str) -> None:
    async def main() -> None:
        async with dss.open_hub[Any]() as hub:
            feed = hub.open_feed(1)
            with pytest.raises(RuntimeError, match="take_nowait"):
                feed.take(default=1)
            feed.send_nowait("item")
            assert feed.take() == "item"

    name, options = BACKENDS[backend]
    anyio.run(main, backend=name, backend_options=options)


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "1"])
def test_a_bad_size_is_refused(size: Any) -> None:
    with dss.open_polled_hub[Any]() as hub:
        with pytest.raises(ValueError, match="positive integer or math.inf"):
            hub.open_feed(size)
        with pytest.raises(TypeError, match="name must be a string"):
            hub.open_feed(1, name=1)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="negative"):
            hub.open_feed(1).take(timeout=-1)


def test_a_polled_hub_feeds_as_well() -> None:
    with dss.open_polled_hub[Any]() as hub:
        feed = hub.open_feed(2, name="audio")
        taken: list[object] = []

        def take() -> None:
            taken.extend([feed.take(), feed.take()])

        with threads(take):
            until(hub.blocked)
            feed.send_nowait(1)
            until(lambda: taken or not len(feed))
            feed.send_nowait(2)
        assert taken == [1, 2]
        assert repr(feed) == "<Feed 'audio': open, 0 of 2 queued>"
    assert "ended" in repr(feed)
