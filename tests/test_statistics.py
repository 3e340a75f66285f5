"""What ``statistics()`` tells of ended sources, of the requests of each source, and of feeds."""

from __future__ import annotations

import itertools
import math
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import anyio
import pytest
from bytecodes import run_interrupted
from conftest import registered

import dss_anyio as dss
from dss_anyio.testing import threads, until

ENDS: dict[str, Callable[[dss.Portal[int]], None]] = {
    "close": lambda portal: portal.close(),
    "abort": lambda portal: portal.abort(),
}
NO_REQUESTS = dict.fromkeys(dss.RequestStatistics._fields, 0)


def fates(hub: Any, name: str) -> tuple[int, ...]:
    """Received, queued, dropped, undelivered."""
    return tuple(hub.statistics().sources[name][:4])


def add_up(hub: Any) -> None:
    """The counts of the hub are those of its sources, if nothing was sent in another way."""
    counts = hub.statistics()
    for count in ("received", "queued", "dropped", "undelivered", "sent"):
        assert getattr(counts, count) == sum(
            getattr(each, count) for each in counts.sources.values()
        )
    for ending in dss.RequestStatistics._fields:
        of_each = [getattr(each.requests, ending) for each in counts.sources.values()]
        assert getattr(counts.requests, ending) == sum(of_each)


# -- Sources that have ended -----------------------------------------------------------------------


@pytest.mark.parametrize("end", ENDS)
def test_the_counts_of_a_source_that_has_ended_stay(end: str) -> None:
    with dss.open_polled_hub[int](2, overflow="drop_newest") as hub:
        portal = hub.register("source")
        portal.send(1)
        assert hub.poll() == [1]
        portal.send_many([2, 3, 4])
        assert fates(hub, "source") == (1, 2, 1, 0)
        ENDS[end](portal)
        assert registered(hub) == []
        left = (1, 2, 1, 0) if end == "close" else (1, 0, 1, 2)
        assert fates(hub, "source") == left, "also what it has queued"
        assert hub.statistics().sources["source"].registered is False
        add_up(hub)
        hub.close_senders()
        with suppress(anyio.EndOfStream):
            hub.poll()
        add_up(hub)
    left = (3, 0, 1, 0) if end == "close" else (1, 0, 1, 2)
    assert fates(hub, "source") == left, "also after the end of the hub"
    assert hub.statistics().sources["source"].sent == 4
    add_up(hub)


def test_the_counts_stay_when_the_hub_ends_with_its_sources() -> None:
    with dss.open_polled_hub[int]() as hub:
        hub.register("source").send_many([1, 2])
        assert hub.poll(1) == [1]
    assert fates(hub, "source") == (1, 0, 0, 1)
    assert registered(hub) == []
    add_up(hub)


@pytest.mark.anyio
@pytest.mark.parametrize("drain", [False, True])
async def test_the_counts_of_an_open_source_stay_after_its_block(drain: bool) -> None:
    async with dss.open_hub[int]() as hub:
        opened = hub.open_source("library", lambda portal: portal, lambda portal: None, drain=drain)
        async with opened as source:
            source.portal.send(1)
            assert await hub.receive() == 1
            source.portal.send(2)
            assert registered(hub) == ["library"]
        assert registered(hub) == []
        assert fates(hub, "library") == ((1, 1, 0, 0) if drain else (1, 0, 0, 1))
        add_up(hub)
    assert fates(hub, "library") == (1, 0, 0, 1)


@pytest.mark.parametrize("end", ENDS)
def test_the_counts_of_a_name_that_is_registered_again_add_up(end: str) -> None:
    with dss.open_polled_hub[int](1, overflow="drop_oldest") as hub:
        for life in range(1, 4):
            portal = hub.register("source")
            assert hub.statistics().sources["source"].registered
            portal.send_many([1, 2])  # the first one is dropped
            hub.poll()
            assert fates(hub, "source") == (life, 0, life, 0)
            ENDS[end](portal)
            assert list(hub.statistics().sources) == ["source"]
        add_up(hub)


def test_what_an_ended_source_has_queued_is_counted_beside_its_successors() -> None:
    with dss.open_polled_hub[int]() as hub:
        first = hub.register("source")
        first.send(1)
        first.close()
        second = hub.register("source")
        second.send_many([2, 3])
        assert fates(hub, "source") == (0, 3, 0, 0)
        second.abort()
        assert fates(hub, "source") == (0, 1, 0, 2)
        assert hub.poll() == [1]
        assert fates(hub, "source") == (1, 0, 0, 2)
        add_up(hub)


def test_a_name_that_was_refused_is_not_counted() -> None:
    with dss.open_polled_hub[int]() as hub:
        hub.register("source").send(1)
        with pytest.raises(ValueError, match="registered already"):
            hub.register("source")
        assert fates(hub, "source") == (0, 1, 0, 0)
        hub.close_senders()
        with pytest.raises(anyio.ClosedResourceError):
            hub.register("too late")
        assert list(hub.statistics().sources) == ["source"]
    with pytest.raises(anyio.BrokenResourceError):
        hub.register("even later")
    assert list(hub.statistics().sources) == ["source"]


@pytest.mark.parametrize("how", ["send", "send_nowait", "offer", "send_many"])
@pytest.mark.parametrize("end", ENDS)
def test_an_item_that_is_put_after_its_lane_was_forgotten_is_counted(how: str, end: str) -> None:
    """At each bytecode of a send its source ends, and lanes that are closed and empty are tidied.

    Guards the order in ``Registry._tidy``, and that lanes which were forgotten are still counted.
    """
    for at in itertools.count():
        with dss.open_polled_hub[int]() as hub:
            portal = hub.register("source")

            def send() -> None:
                with suppress(anyio.ClosedResourceError):
                    getattr(portal, how)([1] if how == "send_many" else 1)

            def end_and_tidy() -> None:
                ENDS[end](portal)
                hub._mailbox.registry._tidy()

            send()
            hub.poll()
            interrupted = run_interrupted(send, end_and_tidy, at, only_shared=True)
            received, queued, dropped, undelivered = fates(hub, "source")
            assert (received, dropped) == (1, 0)
            assert queued + undelivered <= 1
            add_up(hub)
            polled = hub.poll()
            assert fates(hub, "source")[0] == 1 + len(polled)
            add_up(hub)
        if not interrupted:
            break
    assert at > 5


class Held:
    """A source with an item that was put by a sender that was held up until its lane was closed."""

    def __init__(self, hub: dss.PolledHub[int]) -> None:
        self.hub = hub
        portal = hub.register("source")
        portal.send(1)
        portal.close()
        self.lane = portal._lane

    def tidy(self) -> None:
        item = self.lane.items.popleft()  # it is not there yet
        self.hub._mailbox.registry._tidy()
        self.lane.items.append(item)

    def look(self) -> None:
        counts = self.hub.statistics()
        assert counts.sources["source"].queued == len(self.lane.items)
        assert counts.sent == counts.queued == 1


def test_at_each_bytecode_of_the_statistics_a_lane_may_be_tidied_away() -> None:
    """What is counted in one list and in the other is counted once, and never left out."""
    for at in itertools.count():
        with dss.open_polled_hub[int]() as hub:
            held = Held(hub)
            interrupted = run_interrupted(held.look, held.tidy, at, only_shared=True)
            held.look()
        if not interrupted:
            break
    assert at > 20


def test_at_each_bytecode_of_tidying_somebody_may_look_at_the_statistics() -> None:
    for at in itertools.count():
        with dss.open_polled_hub[int]() as hub:
            held = Held(hub)
            late: list[int] = []

            def put_and_look() -> None:
                if late:
                    held.lane.items.append(late.pop())
                held.look()

            def tidy() -> None:
                late.append(held.lane.items.popleft())
                hub._mailbox.registry._tidy()
                held.lane.items.extend(late)

            interrupted = run_interrupted(tidy, put_and_look, at, only_shared=True)
            held.look()
        if not interrupted:
            break
    assert at > 10


def test_no_count_ever_goes_back_while_sources_end_and_come_again_in_other_threads() -> None:
    """Nothing is moved when a source ends, so whoever looks finds all that was there before."""
    accepted = {f"source {number}": 0 for number in range(4)}
    end = threading.Event()

    with dss.open_polled_hub[int](8, overflow="drop_oldest") as hub:

        def live(name: str) -> None:
            for life in itertools.count():
                if end.is_set():
                    return
                with hub.register(name) as portal:
                    accepted[name] += sum(portal.offer(1) for _ in range(10))
                    if life % 3 == 0:
                        portal.abort()

        def look() -> None:
            before: dict[str, Any] = {}
            while not end.is_set():
                for name, each in hub.statistics().sources.items():
                    last = before.get(name, each)
                    for count in ("received", "dropped", "undelivered"):
                        assert getattr(each, count) >= getattr(last, count), (name, count)
                    before[name] = each

        jobs = [lambda name=name: live(name) for name in accepted]
        with threads(*jobs, look, look):
            polls = 0
            while polls < 30 or min(accepted.values()) < 100:
                hub.wait(0.1)
                hub.poll()
                polls += 1
            end.set()
        assert {name: each.sent for name, each in hub.statistics().sources.items()} == accepted
        add_up(hub)
    assert {name: each.sent for name, each in hub.statistics().sources.items()} == accepted
    add_up(hub)


# -- Requests by source ----------------------------------------------------------------------------


def test_each_ending_of_a_request_is_counted_for_its_source() -> None:
    with dss.open_polled_hub[int, dss.Request[int]]() as hub:
        one, other = hub.register("one"), hub.register("other")
        futures = [one.request_soon(number) for number in range(6)]
        futures[4].cancel()
        other.request_soon(1)
        hub.portal.request_soon(1)
        answered, refused, unanswered, is_open, *_ = hub.poll(5)
        answered.reply(1)
        refused.reply_error(LookupError())
        with unanswered:
            pass
        sources = hub.statistics().sources
        assert sources["one"].requests._asdict() == {
            **NO_REQUESTS,
            "answered": 1,
            "refused": 1,
            "unanswered": 1,
            "abandoned": 1,
            "open": 2,
        }
        assert sources["other"].requests == (0, 0, 0, 0, 0, 1)
        one.abort()
        assert is_open.abandoned
        sources = hub.statistics().sources
        assert sources["one"].requests == (1, 1, 1, 2, 1, 0), "also after its end"
        assert hub.statistics().requests == (1, 1, 1, 2, 1, 2), "with that of the hub's own portal"
        del _
    assert hub.statistics().sources["one"].requests == (1, 1, 1, 2, 1, 0)
    assert sum(hub.statistics().requests) == 8


@pytest.mark.anyio
async def test_whatever_way_a_source_asks_in_its_requests_are_counted() -> None:
    async with dss.open_hub[int]() as hub:
        hub.task_group.start_soon(hub.serve, lambda item: item + 1)
        portal = hub.register("source")
        callback = portal.request_callback(timeout=10, default=0)

        def ask() -> None:
            assert portal.request(1) == 2
            with portal.clone() as clone:
                assert clone.request(1) == 2
            assert callback(1) == 2

        await anyio.to_thread.run_sync(ask)
        assert await portal.arequest(1) == 2
        assert portal.request_soon(1).cancel()
        await anyio.to_thread.run_sync(portal.call, int)  # a call is no request
        counts = hub.statistics()
        assert counts.sources["source"].requests == (4, 0, 0, 0, 1, 0)
        assert counts.requests == (4, 0, 0, 0, 1, 0)
        hub.close_senders()


def test_a_delivery_that_waits_is_a_request_of_its_library() -> None:
    with dss.open_polled_hub[int, dss.Request[int]]() as hub:
        api = hub.api("1.0")
        utility, _ = api.register("old", lambda _: None)

        def deliver() -> None:
            api.deliver(utility, lambda *_: 1, lambda *_: None, None)

        with threads(deliver):
            until(lambda: len(hub))
            [request] = hub.poll()
            assert hub.statistics().sources["old"].requests.open == 1
            request.reply(1)
        assert hub.statistics().sources["old"].requests == (1, 0, 0, 0, 0, 0)
        api.unregister(utility)
    assert hub.statistics().sources["old"].requests.answered == 1


# -- Feeds -----------------------------------------------------------------------------------------


def test_the_counts_of_a_feed_are_among_those_of_its_hub() -> None:
    with dss.open_polled_hub[int]() as hub:
        assert hub.statistics().feeds == {}
        feed = hub.open_feed(2, name="speaker")
        feed.send_nowait(1)
        feed.send_nowait(2)
        with pytest.raises(anyio.WouldBlock):
            feed.send_nowait(3)
        assert feed.take_nowait() == 1
        assert hub.statistics().feeds == {"speaker": feed.statistics()}
        feed.take_nowait()
        feed.take_nowait(default=None)
        assert feed.statistics() == (0, 2, 2, 1, 1)
        assert hub.statistics().feeds == {"speaker": feed.statistics()}
        feed.send_nowait(4)
        feed.close()
        assert hub.statistics().feeds["speaker"] == (1, 2, 2, 1, 1), "what is left can be taken"
    assert hub.statistics().feeds["speaker"] == (1, 2, 2, 1, 1)
    assert hub.statistics().feeds["speaker"].sent == 3


def test_a_feed_without_a_name_has_a_number() -> None:
    with dss.open_polled_hub[int]() as hub:
        feeds = [hub.open_feed(math.inf) for _ in range(2)]
        feeds[1].send_nowait(1)
        assert [repr(each).split(":")[0] for each in feeds] == ["<Feed 'feed-1'", "<Feed 'feed-2'"]
        counts = hub.statistics().feeds
        assert {name: each.queued for name, each in counts.items()} == {"feed-1": 0, "feed-2": 1}
        with threads(feeds[0].take):
            until(lambda: len(hub.blocked()))
            assert hub.blocked()[0][:2] == ("feed-1", "feed.take")
            feeds[0].send_nowait(1)
    with dss.open_polled_hub[int]() as another:
        another.open_feed(1)
        assert list(another.statistics().feeds) == ["feed-1"], "each hub counts its own"


def test_the_counts_of_feeds_of_one_name_add_up() -> None:
    with dss.open_polled_hub[int]() as hub:
        for _ in range(3):
            feed = hub.open_feed(4, name="speaker")
            feed.send_nowait(1)
            feed.send_nowait(2)
            feed.take_nowait()
            assert feed.statistics() == (1, 4, 1, 0, 0), "of this one alone"
        one, other = hub.open_feed(8, name="speaker"), hub.open_feed(5, name="speaker")
        one.send_nowait(1)
        del feed  # and nobody holds the others any more, with the item in each
        assert hub.statistics().feeds == {"speaker": (1, 5, 3, 0, 0)}
        other.close()


def test_a_feed_that_was_refused_is_not_counted() -> None:
    with dss.open_polled_hub[int]() as hub:
        with pytest.raises(ValueError, match="max_buffer_size"):
            hub.open_feed(0)
        with pytest.raises(TypeError, match="name"):
            hub.open_feed(1, name=b"bytes")  # type: ignore[arg-type]
        assert hub.statistics().feeds == {}
    with pytest.raises(anyio.BrokenResourceError):
        hub.open_feed(1)
    assert hub.statistics().feeds == {}
