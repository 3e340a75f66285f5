"""Sources with a bound and a policy of their own neither crowd out others nor are crowded out."""

from __future__ import annotations

import itertools
import json
import math
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from bytecodes import run_interrupted
from test_receiver import asleep

import dss_anyio as dss
from dss_anyio._core.line import Line, Mark, Ticket
from dss_anyio._core.mailbox import Mailbox
from dss_anyio._core.source import Lane, Source
from dss_anyio._core.waiter import WaitForPlace
from dss_anyio._tools.telling import document
from dss_anyio.testing import eventually, threads, until

POLICIES = ["block", "drop_oldest", "drop_newest"]


def lengths(hub: Any) -> tuple[int, int]:
    """How many entries the line has, and how many of them are husks and marks."""
    line = hub._mailbox.line
    return len(line.entries), len(line._husks)


# -- the neighbours --------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("hubs", POLICIES)
def test_a_noisy_source_neither_fills_the_hub_nor_has_others_dropped(
    hubs: Any, policy: Any
) -> None:
    with dss.open_polled_hub[Any](3, overflow=hubs) as hub:
        noisy = hub.register("noisy", max_buffer_size=2, overflow=policy)
        quiet = hub.register("quiet")
        for number in range(100):
            assert noisy.offer(number) is (policy != "block" or number < 2)
            if number % 40 == 0:
                assert quiet.offer(f"quiet {number}")
        kept = {"block": [0, 1], "drop_newest": [0, 1], "drop_oldest": [98, 99]}[policy]
        items = hub.poll()
        assert [item for item in items if isinstance(item, int)] == kept
        assert [item for item in items if isinstance(item, str)] == [
            "quiet 0",
            "quiet 40",
            "quiet 80",
        ]
        counts = hub.statistics()
        dropped = 0 if policy == "block" else 98
        assert counts.sources["noisy"][:4] == (2, 0, dropped, 0)
        assert counts.sources["quiet"][:4] == (3, 0, 0, 0)
        assert (counts.received, counts.dropped, counts.sent) == (5, dropped, 5 + dropped)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("hubs", POLICIES)
def test_a_full_hub_does_not_concern_a_source_with_room_of_its_own(hubs: Any, policy: Any) -> None:
    with dss.open_polled_hub[Any](2, overflow=hubs) as hub:
        own = hub.register("own", max_buffer_size=3, overflow=policy)
        hub.portal.send_many([1, 2])
        assert [own.offer(f"own {number}") for number in range(3)] == [True] * 3
        assert hub.statistics().dropped == 0
        hub.portal.offer(3)
        expected: list[Any] = [1, 2, "own 0", "own 1", "own 2"]
        if hubs == "drop_oldest":
            expected = [2, "own 0", "own 1", "own 2", 3]
        assert hub.poll() == expected


@pytest.mark.parametrize("hubs", POLICIES)
def test_a_source_without_a_bound_takes_no_room_of_the_others(hubs: Any) -> None:
    with dss.open_polled_hub[int](1, overflow=hubs) as hub:
        everything = hub.register("everything", max_buffer_size=math.inf)
        everything.send_many(range(5000))
        assert hub.portal.offer(5000)
        assert hub.poll() == list(range(5001))
        assert hub.statistics().dropped == 0


def test_the_oldest_of_the_hub_is_dropped_wherever_items_of_other_bounds_stand() -> None:
    with dss.open_polled_hub[Any](2, overflow="drop_oldest") as hub:
        kept = hub.register("kept", max_buffer_size=math.inf, overflow="block")
        latest = hub.register("latest", max_buffer_size=1, overflow="drop_oldest")
        for number in range(50):
            kept.send(f"kept {number}") if number % 10 == 0 else None
            latest.send(f"latest {number}")
            hub.portal.send(number)
        assert hub.poll() == [*(f"kept {each}" for each in range(0, 50, 10)), 48, "latest 49", 49]


# -- the order -------------------------------------------------------------------------------------


def test_the_latest_value_stands_where_it_was_accepted() -> None:
    with dss.open_polled_hub[str]() as hub:
        meter = hub.register("meter", max_buffer_size=1, overflow="drop_oldest")
        for item in ("meter 0", "a", "meter 1", "b", "c", "meter 2", "d"):
            (meter if item.startswith("meter") else hub.portal).send(item)
        assert hub.poll() == ["a", "b", "c", "meter 2", "d"]


@pytest.mark.parametrize("most", [None, 1, 2, 3])
@pytest.mark.parametrize("hubs", POLICIES)
def test_the_order_of_acceptance_is_one_for_all_bounds(hubs: Any, most: int | None) -> None:
    with dss.open_polled_hub[int](1000, overflow=hubs) as hub:
        portals = [
            hub.portal,
            hub.register("shared"),
            *(
                hub.register(f"{limit} {policy}", max_buffer_size=limit, overflow=policy)  # type: ignore[arg-type]
                for limit, policy in itertools.product([100, math.inf], POLICIES)
            ),
        ]
        portals += [portal.clone() for portal in portals]
        ways = itertools.islice(itertools.permutations(portals), 0, 300_000, 60_000)
        sent = list(enumerate(itertools.chain(*ways)))
        for item, portal in sent:
            portal.send(item)
        polled: list[int] = []
        while len(polled) < len(sent):
            polled += hub.poll(most)
        assert polled == list(range(len(sent)))
        assert (len(hub), *lengths(hub)) == (0, 0, 0)


def test_what_is_replaced_leaves_nothing_behind_while_nobody_receives() -> None:
    with dss.open_polled_hub[Any](64) as hub:
        latest = [
            hub.register(f"topic {number}", max_buffer_size=1, overflow="drop_oldest")
            for number in range(10)
        ]
        latest.append(hub.register("last two", max_buffer_size=2, overflow="drop_oldest"))
        for number in range(2000):
            for portal in latest:
                portal.send(number)
        assert len(hub) == 12
        assert lengths(hub) == (1, 1)
        for number in range(64):
            hub.portal.send("between")
            for portal in latest:
                portal.send(number)
        assert len(hub) == 12 + 64
        assert max(lengths(hub)) <= 2 * 64 + 1
        assert hub.poll() == ["between"] * 63 + [62, "between"] + [63] * 11
        assert lengths(hub) == (0, 0)


# -- the bound, with many threads ------------------------------------------------------------------


@pytest.mark.parametrize("hubs", POLICIES)
@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
@pytest.mark.parametrize("limit", [1, 3])
def test_each_bound_is_exact_and_each_item_ends_once_whoever_sends(
    switching_fast: None, limit: int, policy: Any, hubs: Any
) -> None:
    mailbox = Mailbox(2, hubs)
    handed_back: list[tuple[int, int]] = []
    lanes = []
    for number in range(2):  # two sources with a bound of their own, each with two senders
        source = Source(str(number), on_undelivered=handed_back.append)
        places = mailbox.make_places(limit, policy)
        lanes += [mailbox.open_lane(source, places), mailbox.open_lane(source, places)]
    shared = mailbox.open_lane(Source("shared", on_undelivered=handed_back.append))
    accepted: list[list[tuple[int, int]]] = [[] for _ in range(5)]

    def send(number: int) -> None:
        lane = [*lanes, shared][number]
        for item in range(1000):
            if lane.places.put(lane, (number, item)):
                accepted[number].append((number, item))

    received: list[tuple[int, int]] = []
    with threads(*[lambda number=number: send(number) for number in range(5)]) as started:
        while any(thread.is_alive() for thread in started):
            batch = mailbox.take_many(None)
            of = Counter(number // 2 for number, _ in batch)
            assert all(many <= (2 if source == 2 else limit) for source, many in of.items())
            received += batch
    last = mailbox.take_many(None)
    received += last
    assert Counter(received + handed_back) == Counter(itertools.chain(*accepted))
    assert mailbox.books.received == len(received)
    assert mailbox.books.counts["dropped"].value == len(handed_back)
    assert not len(mailbox)
    assert not mailbox.entries()
    for number in range(5):
        own = [item for sender, item in received if sender == number]
        assert own == sorted(own)
        if number < 4:
            assert len(accepted[number]) == 1000
    if policy == "drop_oldest":  # the newest of each source is never dropped
        for source in (0, 1):
            assert {(2 * source, 999), (2 * source + 1, 999)} & set(received)


class World:
    """A mailbox with two lanes of one source, and everything that becomes of the items."""

    def __init__(self, limit: int, queued: int) -> None:
        self.sent = self.unseen = 0
        self.received: list[Any] = []
        self.handed_back: list[Any] = []
        self.mailbox = Mailbox(8, "block")
        source = Source("source", on_undelivered=self.handed_back.append)
        self.places: Any = self.mailbox.make_places(limit, "drop_oldest")
        self.lanes = [self.mailbox.open_lane(source, self.places) for _ in range(2)]
        for number in range(queued):
            self.mailbox.root.places.put(self.mailbox.root, "the hub's own")
            self.put(number % 2)

    def put(self, lane: int, many: int = 1) -> None:
        items = range(self.sent, self.sent + many)
        self.sent += many
        self.places.put_many(self.lanes[lane], [*items], 0)

    def take(self, most: int | None) -> None:
        items = self.mailbox.take_many(most)
        self.received += [item for item in items if item != "the hub's own"]

    def check(self, limit: int) -> None:
        line = self.mailbox.line
        queued = [*self.lanes[0].items, *self.lanes[1].items]
        assert len(queued) <= limit
        assert line.tickets.keys() == {*queued} == self.places.order.keys()
        self.take(None)
        assert not self.mailbox.entries()
        assert not len(self.mailbox)
        assert not line._husks
        assert len(self.places.pile) == limit
        assert sorted(self.received + self.handed_back) == list(range(self.sent))
        account = self.lanes[0].source.account
        assert account.received == len(self.received)
        given_back = account.value_of("dropped") + account.value_of("undelivered")
        assert given_back == len(self.handed_back)


ACTS: dict[str, Callable[[World, int], object]] = {
    "put": lambda world, lane: world.put(lane),
    "put many": lambda world, lane: world.put(lane, 2),
    "take": lambda world, lane: world.take(1),
    "take many": lambda world, lane: world.take(None),
    "take back": lambda world, lane: world.mailbox.take_back(world.lanes[lane]),
    "sweep": lambda world, lane: world.mailbox.sweep(),
}


@pytest.mark.parametrize("queued", [0, 2])
@pytest.mark.parametrize("limit", [1, 2])
@pytest.mark.parametrize("intrusion", ["put", "put many", "take", "take back"])
@pytest.mark.parametrize("act", ACTS)
def test_any_two_calls_may_meet_at_any_bytecode_of_the_first(
    act: str, intrusion: str, limit: int, queued: int
) -> None:
    """Guards ``Line.put_ticket`` and ``is_over``: no ticket is left without a mark."""
    if intrusion == "take" and act in ("take", "take many", "sweep"):
        return  # one receives at a time
    for at in itertools.count():
        world = World(limit, queued)
        intruded = run_interrupted(
            lambda world=world: ACTS[act](world, 0),  # type: ignore[misc]
            lambda world=world: ACTS[intrusion](world, 1),  # type: ignore[misc]
            at,
            only_shared=True,
        )
        world.check(limit)
        if not intruded:
            assert at > 5, "the call was hardly traced at all"
            return


@pytest.mark.parametrize("before", [0, 1], ids=["an empty line", "one stands there"])
def test_what_a_sender_puts_stays_in_order_if_another_one_puts_at_any_bytecode(before: int) -> None:
    """Guards that each mark has tickets of its own. Some of what is put may be dropped."""
    for at in itertools.count():
        mailbox = Mailbox(100, "block")
        dropping = mailbox.open_lane(Source("d"), mailbox.make_places(100, "drop_oldest"))
        keeping = mailbox.open_lane(Source("k"))

        def put(lane: Lane, item: Any) -> None:
            assert lane.places.put(lane, item)

        def second(dropping: Lane = dropping, keeping: Lane = keeping) -> None:
            for number, lane in enumerate((dropping, keeping)):
                put(lane, ("second", number))

        for _ in range(before):
            put(dropping, ("nobody", 0))
        intruded = run_interrupted(
            lambda lane=dropping: put(lane, ("first", 0)),  # type: ignore[misc]
            second,
            at,
            only_shared=True,
        )
        if not intruded:
            second()
        for number, lane in enumerate((dropping, keeping, dropping), 2):
            put(lane, ("second", number))
            put(lane, ("first", number))
        received: list[Any] = mailbox.take_many(None)
        for who in ("first", "second"):
            numbers = [number for by, number in received if by == who]
            assert numbers == sorted(numbers)
        assert len(received) == before + 9
        assert not mailbox.entries()
        if not intruded:
            assert at > 5
            return


def test_a_ticket_that_comes_while_its_mark_is_closed_is_found_or_has_another_mark() -> None:
    """A sender has looked at the last entry before the receiver has taken that out, and goes on.

    Guards the second look of ``Line.is_over``, and its order.
    """
    for at in itertools.count():
        mailbox = Mailbox(8, "block")
        lane = mailbox.open_lane(Source("source"), mailbox.make_places(1, "drop_oldest"))
        mark, line = Mark(), mailbox.line

        def go_on(line: Line = line, mark: Mark = mark, lane: Any = lane) -> None:
            line.entries.append(mark)  # which the sender has seen there
            line.put_ticket(Ticket(lane))
            line.entries.remove(mark)

        found: list[Any] = []
        line._husks.append(None)
        intruded = run_interrupted(
            lambda line=line, mark=mark, found=found: found.append(line.take_ticket(mark)),  # type: ignore[misc]
            go_on,
            at,
            only_shared=True,
        )
        assert found[0] is not None or line.entries or not intruded
        if not intruded:
            assert at > 5
            return


# -- who waits -------------------------------------------------------------------------------------


def test_a_sender_waits_for_the_room_of_its_own_source_and_blocked_says_so() -> None:
    with dss.open_polled_hub[str](1) as hub:
        own = hub.register("own", max_buffer_size=1, overflow="block")
        hub.portal.send("the hub is full")
        own.send("own 1")
        with threads(lambda: own.send("own 2"), lambda: hub.portal.send("another")):
            until(lambda: len(hub.blocked()) == 2)
            assert {(each.source, each.room) for each in hub.blocked()} == {
                ("own", "source"),
                (None, "hub"),
            }
            until(lambda: hub.statistics().tasks_waiting_send == 2)
            assert hub.poll(1) == ["the hub is full"]  # which is no room for the source
            until(lambda: len(hub.blocked()) == 1)
            assert hub.blocked()[0].source == "own"
            assert hub.poll(1) == ["own 1"]
        assert hub.poll() == ["another", "own 2"]
        assert hub.statistics().tasks_waiting_send == 0


def test_a_request_waits_for_the_same_room_and_then_for_its_answer() -> None:
    with dss.open_polled_hub[Any](1) as hub:
        own = hub.register("own", max_buffer_size=1)
        own.send("first")
        answers: list[Any] = []
        with threads(lambda: answers.append(own.request("question"))):
            until(lambda: [each.room for each in hub.blocked()] == ["source"])
            assert hub.poll() == ["first"]
            until(lambda: [each.room for each in hub.blocked()] == [None])
            (request,) = hub.poll()
            request.reply("answer")
        assert answers == ["answer"]


def test_a_request_that_is_dropped_releases_its_asker() -> None:
    with dss.open_polled_hub[Any](8) as hub:
        latest = hub.register("latest", max_buffer_size=1, overflow="drop_oldest")
        first = latest.request_soon("first")
        latest.send("second")
        with pytest.raises(dss.NoReplyError, match="dropped"):
            first.result(0)
        kept = hub.register("kept", max_buffer_size=1, overflow="drop_newest")
        kept.send("first")
        with pytest.raises(dss.NoReplyError, match="dropped"):
            kept.request_soon("second").result(0)
        assert hub.poll() == ["second", "first"]
        assert hub.statistics().requests.unanswered == 2


def test_errors_name_the_source_whose_room_is_taken() -> None:
    with dss.open_polled_hub[int]() as hub:
        own = hub.register("camera", max_buffer_size=2)
        own.send_many([1, 2])
        with pytest.raises(
            anyio.WouldBlock, match="2 items of source 'camera' in .* are queued already"
        ):
            own.send_nowait(3)
        raised: list[str] = []

        def send() -> None:
            with pytest.raises(TimeoutError) as info:
                own.send(3, timeout=0.01)
            raised.append(str(info.value))

        with threads(send):
            pass
        assert "for another item from source 'camera'" in raised[0]
        own.send_callback()(3)  # drops, and counts
        assert hub.statistics().sources["camera"][:4] == (0, 2, 1, 0)


@pytest.mark.anyio
async def test_a_task_waits_for_the_room_of_its_own_source() -> None:
    async with dss.open_hub[str](1) as hub:
        own = hub.register("own", max_buffer_size=1)
        await own.asend("own 1")
        with anyio.move_on_after(0.01):
            await own.asend("given up")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(own.asend, "own 2")
            await eventually(hub.blocked)
            assert hub.blocked()[0].room == "source"
            assert await hub.receive() == "own 1"
        assert await hub.receive_many() == ["own 2"]


def test_clones_share_the_room_of_their_source() -> None:
    handed_back: list[int] = []
    with dss.open_polled_hub[int]() as hub:
        for policy in ("block", "drop_oldest"):
            own = hub.register(
                policy,
                max_buffer_size=2,
                overflow=policy,
                on_undelivered=handed_back.append,  # type: ignore[arg-type]
            )
            other = own.clone()
            own.send(1)
            other.send(2)
            assert other.offer(3) is own.offer(4) is (policy == "drop_oldest")
            other.abort()  # its place is free at once
            own.send(5)
            with pytest.raises(anyio.ClosedResourceError):
                other.send(6)
            assert hub.poll() == ([1, 5] if policy == "block" else [4, 5])
            own.close()
        assert handed_back == [2, 1, 2, 3]


def test_the_end_of_a_portal_releases_who_waits_for_its_room() -> None:
    with dss.open_polled_hub[int]() as hub:
        own = hub.register("own", max_buffer_size=1)
        own.send(1)
        raised: list[BaseException] = []

        def send() -> None:
            try:
                own.send(2)
            except anyio.ClosedResourceError as exc:
                raised.append(exc)

        with threads(send):
            until(hub.blocked)
            own.close()
        assert len(raised) == 1
        assert hub.poll() == [1]


@pytest.mark.parametrize("policy", POLICIES)
def test_what_is_queued_is_handed_back_at_the_end(policy: Any) -> None:
    handed_back: list[int] = []
    with dss.open_polled_hub[int](1) as hub:
        own = hub.register(
            "own", max_buffer_size=3, overflow=policy, on_undelivered=handed_back.append
        )
        own.send_many([1, 2, 3])
        offer = own.offer
    assert sorted(handed_back) == [1, 2, 3]
    assert offer(4) is False
    counts = hub.statistics()
    assert (counts.queued, counts.undelivered, counts.sent) == (0, 3, 3)


@pytest.mark.anyio
async def test_an_iteration_takes_items_of_all_bounds_in_their_order() -> None:
    async with dss.open_hub[int](4) as hub:
        latest = hub.register("latest", max_buffer_size=2, overflow="drop_oldest")
        plain = hub.register("plain", max_buffer_size=2)
        for portal in (hub.portal, latest, plain, latest, hub.portal, plain, latest):
            portal.send(hub.statistics().sent)
        hub.close_senders()
        assert [item async for item in hub] == [0, 2, 3, 4, 5, 6]


@pytest.mark.anyio
async def test_several_receivers_that_sleep_are_all_woken_for_items_with_tickets() -> None:
    async with dss.open_hub[int]() as hub:
        topics = [
            hub.register(f"{number}", max_buffer_size=1, overflow="drop_oldest")
            for number in range(3)
        ]
        got: list[int] = []
        all_there = anyio.Event()

        async def receive(receiver: Any) -> None:
            got.append(await receiver.receive())
            if len(got) == 3:
                all_there.set()
            await all_there.wait()  # nobody receives twice

        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(receive, hub)
            while hub.statistics().tasks_waiting_receive < 3:
                await anyio.sleep(0)
            for number, topic in enumerate(topics):
                topic.send(number)
            with anyio.fail_after(10):
                await all_there.wait()
        assert sorted(got) == [0, 1, 2]


@pytest.mark.anyio
@pytest.mark.parametrize("hubs", POLICIES)
@pytest.mark.parametrize("way", ["iterate", "batches", "two receivers"])
async def test_threads_send_through_all_kinds_of_sources_while_a_loop_receives(
    switching_fast: None, way: str, hubs: Any
) -> None:
    """Nobody sleeps beside an item, each thread's items come in its order, the newest ones come."""
    many = 400
    async with dss.open_hub[Any](4, overflow=hubs) as hub:
        handed_back: list[Any] = []
        kinds: list[tuple[float | None, Any]] = [(1, "drop_oldest"), (3, "drop_oldest")]
        kinds += [(2, "block"), (2, "drop_newest"), (None, None), (0, "block"), (math.inf, "block")]
        sources = [
            hub.register(
                f"{limit} {policy}",
                max_buffer_size=limit,
                overflow=policy,
                on_undelivered=handed_back.append,
            )
            for limit, policy in kinds
        ]

        def send(sender: int) -> None:
            mine = [source.clone() for source in sources]
            for number in range(many):
                for kind, portal in enumerate(mine):
                    portal.send((kind, sender, number))
            for portal in mine:
                portal.close()

        received: list[Any] = []

        async def receive(receiver: Any) -> None:
            if way == "batches":
                try:
                    while True:
                        received.extend(await receiver.receive_many())
                except anyio.EndOfStream:
                    return
            async for item in receiver:
                received.append(item)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(receive, hub)
            if way == "two receivers":
                other = hub.clone()
                tasks.start_soon(receive, other)
            with threads(*[lambda sender=sender: send(sender) for sender in range(3)]) as started:
                with anyio.fail_after(50):
                    while any(thread.is_alive() for thread in started):
                        await anyio.sleep(0.001)
            hub.close_senders()
        if way == "two receivers":
            other.close()
        counts = hub.statistics()
    assert Counter(received + handed_back) == Counter(
        itertools.product(range(len(kinds)), range(3), range(many))
    )
    assert counts.dropped == len(handed_back)
    for sender in range(3):
        mine = [(number, kind) for kind, by, number in received if by == sender]
        assert mine == sorted(mine)
    for kind in (0, 1):
        assert any(each[0] == kind and each[2] == many - 1 for each in received)
    for kind in (2, 5, 6):
        assert sum(each[0] == kind for each in received) == 3 * many


# -- rendezvous ------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_a_source_may_meet_the_receiver_in_a_hub_that_has_room() -> None:
    async with dss.open_hub[str]() as hub:
        plain = hub.portal
        meets = hub.register("meets", max_buffer_size=0, overflow="block")
        drops = hub.register("drops", max_buffer_size=0, overflow="drop_newest")
        with pytest.raises(anyio.WouldBlock, match="nobody is waiting to receive"):
            meets.send_nowait("nobody waits")
        assert drops.offer("dropped")
        async with anyio.create_task_group() as tasks:
            got: list[str] = []

            async def receive() -> None:
                got.append(await hub.receive())

            tasks.start_soon(receive)
            await asleep(hub)
            assert meets.offer("met")
            assert not meets.offer("one receiver, one item")
            assert drops.offer("dropped as well")  # they share the seats
        assert got == ["met"]
        plain.send("queued")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(meets.asend, "waits")
            await eventually(hub.blocked)
            assert hub.blocked()[0].room == "source"
            assert await hub.receive() == "queued"
            assert await hub.receive() == "waits"
        assert hub.statistics().sources["drops"][:4] == (0, 0, 2, 0)


@pytest.mark.anyio
async def test_a_receiver_that_sleeps_already_meets_a_source_that_comes_later() -> None:
    async with dss.open_hub[str](4) as hub:
        async with anyio.create_task_group() as tasks:
            got: list[str] = []

            async def receive() -> None:
                got.append(await hub.receive())

            tasks.start_soon(receive)
            await asleep(hub)
            meets = hub.register("meets", max_buffer_size=0)
            with anyio.fail_after(10):
                await meets.asend("met")
        assert got == ["met"]


@pytest.mark.parametrize("hubs", POLICIES)
@pytest.mark.parametrize("limit", [0, 4])
def test_a_polled_hub_meets_the_senders_of_a_source(limit: int, hubs: Any) -> None:
    with dss.open_polled_hub[int](limit, overflow=hubs) as hub:
        one = hub.register("one", max_buffer_size=0, overflow="block")
        two = hub.register("two", max_buffer_size=0, overflow="block")
        with threads(lambda: one.send(1)):
            until(lambda: len(hub.blocked()) == 1)
            with threads(lambda: two.send(2)):
                until(lambda: len(hub.blocked()) == 2)
                assert hub.poll() == [1, 2]
        with threads(lambda: one.send(3)):
            assert hub.wait(10)
        assert hub.poll() == [3]


def test_no_sender_is_met_for_whom_there_is_no_receiver() -> None:
    with dss.open_polled_hub[str](0) as hub:
        own = hub.register("own", max_buffer_size=2)
        own.send_many(["first", "second"])
        with threads(lambda: hub.portal.send("waits")):
            until(hub.blocked)
            assert hub.poll(1) == ["first"]
            assert len(hub) == 1
            assert hub.poll(2) == ["second", "waits"]


# -- asking for it ---------------------------------------------------------------------------------


def test_statistics_say_which_bound_is_a_sources_own() -> None:
    with dss.open_polled_hub[int](64, overflow="drop_newest") as hub:
        hub.register("shared")
        hub.register("own", max_buffer_size=7)
        hub.register("policy", overflow="drop_oldest")
        hub.register("any", max_buffer_size=math.inf, overflow="block")
        sources = hub.statistics().sources
        assert {name: each.max_buffer_size for name, each in sources.items()} == {
            "shared": None,
            "own": 7,
            "policy": 64,  # as many as the hub, but not with the others
            "any": math.inf,
        }


def test_programs_that_are_watched_tell_the_bounds_of_their_sources() -> None:
    with dss.open_polled_hub[int](4, name="watched") as hub:
        hub.register("shared")
        hub.register("own", max_buffer_size=1).send(1)
        hub.register("any", max_buffer_size=math.inf)
        with threads(lambda: hub.source("own").send(2)):
            until(hub.blocked)
            (told,) = [each for each in json.loads(document())["hubs"] if each["name"] == "watched"]
            hub.poll()
        assert "max_buffer_size" not in told["sources"]["shared"]
        assert told["sources"]["own"]["max_buffer_size"] == 1
        assert told["sources"]["any"]["max_buffer_size"] is None  # as of a hub: there is no limit
        assert told["blocked"][0]["room"] == "source"


def test_what_is_not_given_is_as_the_hubs() -> None:
    with dss.open_polled_hub[int](2, overflow="drop_newest") as hub:
        own = hub.register("own", max_buffer_size=1)
        own.send_many([1, 2])
        other = hub.register("other", overflow="drop_oldest")
        other.send_many([3, 4, 5])
        assert hub.poll() == [1, 4, 5]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"max_buffer_size": -1}, "must not be negative"),
        ({"max_buffer_size": 1.0}, "must be an integer or math.inf"),
        ({"max_buffer_size": True}, "must be an integer or math.inf"),
        ({"overflow": "drop"}, "overflow must be one of"),
    ],
)
def test_a_bound_that_cannot_be_is_refused_and_registers_nothing(given: Any, said: str) -> None:
    with dss.open_polled_hub[int]() as hub:
        with pytest.raises(ValueError, match=said):
            hub.register("source", **given)
        hub.register("source")
        assert hub.statistics().open_send_streams == 2


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_hub_in_a_thread_has_such_sources_as_well(backend: str) -> None:
    with dss.start_hub(1, backend=backend) as hub:
        latest = hub.register("latest", max_buffer_size=1, overflow="drop_oldest")
        latest.send_many(range(100))
        assert hub.portal.call(hub.receive) == 99


@pytest.mark.anyio
async def test_open_source_has_a_bound_of_its_own_and_drains_it() -> None:
    async with dss.open_hub[int](1) as hub:
        got: list[int] = []

        async def receive() -> None:
            async for item in hub:
                got.append(item)

        async with anyio.create_task_group() as tasks:
            async with hub.open_source(
                "own",
                lambda portal: portal,
                lambda portal: portal.send_many([4, 5, 6]),
                drain=True,
                max_buffer_size=2,
                overflow="block",
            ) as source:
                source.portal.send_many([1, 2])
                assert source.portal.offer(3) is False
                tasks.start_soon(receive)
            hub.close_senders()
        assert got == [1, 2, 4, 5, 6]


def test_a_forked_child_forgets_who_waits_for_a_room_of_their_own() -> None:
    mailbox = Mailbox(4, "block")
    places = mailbox.make_places(1, "block")
    lane = mailbox.open_lane(Source("own"), places)
    places.put(lane, 1)
    thread = threading.Thread(target=lambda: None)
    thread.start()
    thread.join()
    waiter = WaitForPlace(lane, 2, "send", lambda: None)
    waiter.thread = thread.ident or 0
    mailbox.wait_for_place(waiter)
    assert len(places.waiting) == 1
    mailbox.forget()
    assert not places.waiting
