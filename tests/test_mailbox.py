"""The state that threads share, without an event loop and without a socket.

What is said of a hub here is said of both: a polled hub is taken because it needs nothing else.
"""

from __future__ import annotations

import gc
import itertools
import logging
import math
import sys
import threading
from collections import Counter as Tally
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import anyio.to_thread
import pytest
from bytecodes import run_interrupted
from conftest import all_told, registered

import dss_anyio as dss
from dss_anyio._core.errors import hub_gone, portal_aborted, portal_closed
from dss_anyio._core.mailbox import Mailbox
from dss_anyio._core.reports import MOST_REPORTS
from dss_anyio._core.source import UNREGISTERED, Lane, Source
from dss_anyio._core.steps import Counter
from dss_anyio._core.waiter import WaitForPlace
from dss_anyio.testing import threads, until

POLICIES = ["block", "drop_oldest", "drop_newest"]
DROPPING = ["drop_oldest", "drop_newest"]
CALLS: dict[str, Callable[[dss.Portal[Any], Any], object]] = {
    "send": lambda portal, item: portal.send(item),
    "send_nowait": lambda portal, item: portal.send_nowait(item),
    "offer": lambda portal, item: portal.offer(item),
    "send_many": lambda portal, item: portal.send_many([item]),
    "send_callback": lambda portal, item: portal.send_callback()(item),
}


class Ledger:
    """What was accepted and what became of it, written down outside of the library."""

    def __init__(self, limit: float = 1024, overflow: Any = "block", **hooks: Any) -> None:
        self.errors: list[tuple[str, str | None]] = []
        self.hub: dss.PolledHub[Any] = dss.open_polled_hub(
            limit,
            overflow=overflow,
            on_error=lambda exc, source: self.errors.append((type(exc).__name__, source)),
        )
        self.accepted = 0
        self.received: list[Any] = []
        self.handed_back: list[Any] = []
        self.source: dss.Portal[Any] = self.hub.register(
            "source", on_undelivered=self.handed_back.append, **hooks
        )

    def offer(self, *items: Any) -> list[bool]:
        outcomes = [self.source.offer(item) for item in items]
        self.accepted += sum(outcomes)
        return outcomes

    def poll(self, max_items: int | None = None) -> list[Any]:
        batch = self.hub.poll(max_items)
        self.received += batch
        return batch

    def check(self) -> None:
        """The counts are those of the ledger, for the hub and for its one source."""
        hub = self.hub.statistics()
        assert hub.received == len(self.received)
        assert hub.dropped + hub.undelivered == len(self.handed_back)
        assert hub.queued == len(self.hub)
        assert hub.sent == self.accepted
        source = hub.sources.get("source")
        if source is not None:
            assert source[:4] == (hub.received, hub.queued, hub.dropped, hub.undelivered)
            assert source.sent == hub.sent


@pytest.fixture
def ledger(request: pytest.FixtureRequest) -> Iterator[Callable[..., Ledger]]:
    """Make ledgers; in the end their hubs are closed and the counts add up."""
    made: list[Ledger] = []

    def make(*args: Any, **kwargs: Any) -> Ledger:
        made.append(Ledger(*args, **kwargs))
        return made[-1]

    yield make
    for each in made:
        each.hub.close()
        each.check()
        assert each.hub.statistics().queued == 0


def at_each_bytecode(
    make: Callable[[], Mailbox],
    act: Callable[[Mailbox], object],
    intrude: Callable[[Mailbox], object],
) -> Iterator[Mailbox]:
    """A mailbox in which *intrude* came before the first, second, ... last bytecode of *act*."""
    for at in itertools.count():
        mailbox = make()
        if not run_interrupted(lambda m=mailbox: act(m), lambda m=mailbox: intrude(m), at):  # type: ignore[misc]
            assert at > 5, "the call was hardly traced at all"
            return
        yield mailbox


# -- the bound -------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 3, 1024, 5000])
def test_a_hub_takes_exactly_as_many_items_as_it_has_places(
    ledger: Callable[..., Ledger], limit: int
) -> None:
    book = ledger(limit)
    assert book.offer(*range(limit + 2)) == [True] * limit + [False, False]
    assert len(book.hub) == limit
    with pytest.raises(anyio.WouldBlock, match=f"holds {limit} items already; use send"):
        book.source.send_nowait("one too many")
    assert book.poll() == list(range(limit))
    assert book.offer(*range(limit + 1)) == [True] * limit + [False]


def test_each_item_that_is_taken_makes_one_place(ledger: Callable[..., Ledger]) -> None:
    book = ledger(3)
    book.offer(0, 1, 2)
    for item in range(3, 20):
        assert book.poll(1) == [item - 3]
        assert book.offer(item, "no room") == [True, False]


def test_a_hub_without_a_limit_takes_everything(ledger: Callable[..., Ledger]) -> None:
    book = ledger(math.inf)
    assert all(book.offer(*range(5000)))
    assert book.hub.statistics().max_buffer_size == math.inf
    assert book.poll() == list(range(5000))


def test_a_rendezvous_hub_takes_nothing_while_nobody_waits(ledger: Callable[..., Ledger]) -> None:
    book = ledger(0)
    assert book.offer("item") == [False]
    with pytest.raises(anyio.WouldBlock, match=r"nobody is waiting to receive.*use send\(\)"):
        book.source.send_nowait("item")
    book.source.send_callback()("item")  # it drops what it cannot send, and counts that
    book.accepted += 1
    assert book.handed_back == ["item"]
    assert book.poll() == []


def test_a_rendezvous_hub_takes_what_blocked_senders_hold_in_their_order(
    ledger: Callable[..., Ledger],
) -> None:
    book = ledger(0)

    def send(number: int) -> None:
        until(lambda: len(book.hub.blocked()) == number)
        book.source.send(number)

    with threads(*[lambda number=number: send(number) for number in range(3)]):
        until(lambda: len(book.hub.blocked()) == 3)
        assert len(book.hub) == 0
        assert book.poll(1) == [0]
        assert len(book.hub) == 0
        assert book.poll() == [1, 2]
    book.accepted += 3


def test_a_rendezvous_hub_takes_one_item_for_each_receiver_that_waits() -> None:
    mailbox = Mailbox(0, "block")
    mailbox.places.seat(2)
    assert [mailbox.root.places.put(mailbox.root, item) for item in range(3)] == [True, True, False]
    mailbox.places.seat(2)  # two sleep, two items are there for them
    assert not mailbox.root.places.put(mailbox.root, "no third")
    assert mailbox.take() == 0
    mailbox.places.seat(1)
    assert not mailbox.root.places.put(mailbox.root, "no third")
    assert mailbox.take() == 1
    mailbox.places.seat(0)
    assert not mailbox.root.places.put(mailbox.root, "nobody waits")


@pytest.mark.parametrize("policy", DROPPING)
def test_a_rendezvous_hub_that_drops_drops_what_nobody_waits_for(
    ledger: Callable[..., Ledger], policy: str
) -> None:
    book = ledger(0, policy)
    assert book.offer("first", "second") == [True, True]
    assert book.handed_back == ["first", "second"]
    assert book.poll() == []


@pytest.mark.parametrize(
    ("size", "said"),
    [
        (-1, "must not be negative"),
        (-math.inf, "must be an integer or math.inf"),
        (math.nan, "must be an integer or math.inf"),
        (1.0, "must be an integer or math.inf"),
        (True, "must be an integer or math.inf"),
        ("3", "must be an integer or math.inf"),
        (None, "must be an integer or math.inf"),
        ((1 << 24) + 1, "8 bytes are reserved"),
    ],
)
def test_a_size_that_cannot_be_is_refused(size: Any, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        dss.open_polled_hub(size)


@pytest.mark.parametrize("policy", ["drop", "", None, 0, "Block"])
def test_a_policy_that_does_not_exist_is_refused(policy: Any) -> None:
    with pytest.raises(ValueError, match="overflow must be one of"):
        dss.open_polled_hub(overflow=policy)


@pytest.mark.parametrize("limit", [1, 3])
def test_the_bound_is_exact_however_many_threads_send(switching_fast: None, limit: int) -> None:
    mailbox = Mailbox(limit, "block")
    accepted = [0] * 4
    longest = 0

    def send(number: int) -> None:
        for item in range(2000):
            accepted[number] += mailbox.root.places.put(mailbox.root, item)

    received = 0
    done = threading.Event()

    def receive() -> None:
        nonlocal longest, received
        while not done.is_set() or len(mailbox):
            longest = max(longest, len(mailbox))
            batch = mailbox.take_many(None)
            longest = max(longest, len(batch))
            received += len(batch)

    receiver = threading.Thread(target=receive, daemon=True)
    receiver.start()
    with threads(*[lambda number=number: send(number) for number in range(4)]):
        pass
    done.set()
    receiver.join(10)
    assert longest <= limit
    assert received == sum(accepted) == mailbox.books.received


@pytest.mark.parametrize("many", [1, 3])
def test_the_bound_is_exact_if_another_item_comes_at_any_bytecode_of_put(many: int) -> None:
    """Guards ``room.pop()`` in ``put`` and ``put_many``: first take a place, then put the item."""
    accepted: list[int] = []

    def make() -> Mailbox:
        accepted.clear()
        return Mailbox(2, "block")

    for mailbox in at_each_bytecode(
        make,
        lambda m: accepted.append(m.root.places.put_many(m.root, ["act"] * many, 0)),
        lambda m: accepted.extend(
            [m.root.places.put(m.root, "intrude"), m.root.places.put(m.root, "intrude")]
        ),
    ):
        assert sum(accepted) == len(mailbox) == 2
    for mailbox in at_each_bytecode(
        make,
        lambda m: accepted.append(m.root.places.put(m.root, "act")),
        lambda m: accepted.append(m.root.places.put_many(m.root, ["intrude"] * many, 0)),
    ):
        assert sum(accepted) == len(mailbox) == min(2, 1 + many)


# -- the end, at any bytecode ----------------------------------------------------------------------


@pytest.mark.parametrize("act", ["enter", "end"])
def test_the_first_one_that_waits_is_released_if_the_end_comes_at_any_bytecode(act: str) -> None:
    """Guards ``end``: the refusal is written first, and then comes the look at who is there."""
    released: list[str] = []

    def make() -> Mailbox:
        released.clear()
        mailbox = Mailbox(1, "block")
        mailbox.root.places.put(mailbox.root, "queued")
        return mailbox

    def enter(mailbox: Mailbox) -> None:
        if mailbox.root.refusal is None:
            blocked = WaitForPlace(
                mailbox.root, "item", "send", lambda: released.append("released")
            )
            mailbox.wait_for_place(blocked)
        else:
            released.append("refused")

    def end(mailbox: Mailbox) -> None:
        mailbox.end(hub_gone)

    steps = (enter, end) if act == "enter" else (end, enter)
    for mailbox in at_each_bytecode(make, *steps):
        assert released
        assert mailbox.registry.open_lanes == {}


def test_a_portal_that_is_opened_at_any_bytecode_of_the_end_is_closed() -> None:
    lanes: list[Lane] = []

    def make() -> Mailbox:
        lanes.clear()
        return Mailbox(1, "block")

    def open_lane(mailbox: Mailbox) -> None:
        lanes.append(mailbox.open_lane(Source("source")))

    def end(mailbox: Mailbox) -> None:
        mailbox.end(hub_gone)

    for steps in itertools.permutations([open_lane, end]):
        for mailbox in at_each_bytecode(make, *steps):
            assert lanes[0].refusal is hub_gone
            assert mailbox.registry.open_lanes == {}


# -- what a full hub does --------------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("limit", [1, 3])
def test_drop_newest_keeps_what_is_there(
    ledger: Callable[..., Ledger], limit: int, call: str
) -> None:
    book = ledger(limit, "drop_newest")
    for item in range(10):
        assert CALLS[call](book.source, item) in (None, True)
        book.accepted += 1
        book.check()
    assert book.handed_back == list(range(limit, 10))
    assert book.hub.statistics().dropped == 10 - limit
    assert book.poll() == list(range(limit))


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("limit", [1, 3])
def test_drop_oldest_keeps_the_latest(ledger: Callable[..., Ledger], limit: int, call: str) -> None:
    book = ledger(limit, "drop_oldest")
    for item in range(10):
        assert CALLS[call](book.source, item) in (None, True)
        book.accepted += 1
        assert len(book.hub) == min(item + 1, limit)
        book.check()
    assert book.handed_back == list(range(10 - limit))
    assert book.hub.statistics().dropped == 10 - limit
    assert book.poll() == list(range(10 - limit, 10))


@pytest.mark.parametrize("policy", POLICIES)
def test_a_hub_without_a_limit_drops_nothing(ledger: Callable[..., Ledger], policy: str) -> None:
    book = ledger(math.inf, policy)
    book.offer(*range(100))
    assert book.hub.statistics().dropped == 0
    assert book.poll() == list(range(100))


@pytest.mark.parametrize(
    ("policy", "kept", "dropped"),
    [("drop_oldest", [3, 4], [0, 1, 2]), ("drop_newest", [0, 1], [2, 3, 4])],
)
def test_send_many_drops_as_the_policy_says(
    ledger: Callable[..., Ledger], policy: str, kept: list[int], dropped: list[int]
) -> None:
    book = ledger(2, policy)
    book.source.send_many(range(5))
    book.accepted = 5
    assert book.handed_back == dropped
    assert book.poll() == kept


def test_what_is_dropped_goes_back_to_the_source_it_came_from() -> None:
    with dss.open_polled_hub[int](1, overflow="drop_oldest") as hub:
        back_to_a: list[int] = []
        back_to_b: list[int] = []
        a = hub.register("a", on_undelivered=back_to_a.append)
        b = hub.register("b", on_undelivered=back_to_b.append)
        a.send(1)
        b.send(2)
        hub.portal.send(3)
        a.send(4)
        assert (back_to_a, back_to_b) == ([1], [2])
        assert hub.poll() == [4]
        statistics = hub.statistics()
        assert statistics.dropped == 3
        assert statistics.sources["a"][:4] == (1, 0, 1, 0)
        assert statistics.sources["b"][:4] == (0, 0, 1, 0)


def test_with_drop_oldest_the_place_of_what_was_taken_back_is_free_at_once() -> None:
    with dss.open_polled_hub[int](2, overflow="drop_oldest") as hub:
        source = hub.register("source")
        hub.portal.send(1)
        source.send(2)
        source.abort()
        assert len(hub) == 1
        hub.portal.send(3)
        assert hub.statistics().dropped == 0
        hub.portal.send(4)
        assert hub.statistics().dropped == 1
        assert hub.poll() == [3, 4]


@pytest.mark.parametrize("policy", DROPPING)
@pytest.mark.parametrize("limit", [1, 3])
def test_each_item_ends_once_while_many_threads_overflow_the_hub(
    switching_fast: None, limit: int, policy: str
) -> None:
    mailbox = Mailbox(limit, policy)  # type: ignore[arg-type]
    handed_back: list[tuple[int, int]] = []
    lanes = [
        mailbox.open_lane(Source(str(number), on_undelivered=handed_back.append))
        for number in range(4)
    ]

    def send(number: int) -> None:
        for item in range(800):
            assert lanes[number].places.put(lanes[number], (number, item))

    received: list[tuple[int, int]] = []
    with threads(*[lambda number=number: send(number) for number in range(4)]) as started:
        while any(thread.is_alive() for thread in started):
            batch = mailbox.take_many(None)
            assert len(batch) <= limit
            received += batch
    received += mailbox.take_many(None)
    assert Tally(received + handed_back) == Tally(itertools.product(range(4), range(800)))
    assert mailbox.books.received == len(received)
    assert mailbox.books.counts["dropped"].value == len(handed_back)
    assert [lane.source.account["dropped"].value for lane in lanes] == [
        sum(sender == number for sender, _ in handed_back) for number in range(4)
    ]
    for number in range(4):
        own = [item for sender, item in received if sender == number]
        assert own == sorted(own)


@pytest.mark.parametrize("queued", [0, 1, 2])
@pytest.mark.parametrize("intrusion", ["put", "take", "take_many"])
def test_each_item_ends_once_if_another_call_comes_at_any_bytecode_of_an_overflow(
    intrusion: str, queued: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards ``_overflow``: who takes an entry out of the queue, and nobody else, drops it."""
    handed_back: list[str] = []
    received: list[str] = []
    monkeypatch.setattr(UNREGISTERED, "on_undelivered", handed_back.append)

    def make() -> Mailbox:
        handed_back.clear()
        received.clear()
        mailbox = Mailbox(2, "drop_oldest")
        for number in range(queued):
            mailbox.root.places.put(mailbox.root, f"queued {number}")
        return mailbox

    def take(mailbox: Mailbox) -> None:
        try:
            received.append(mailbox.take())
        except anyio.WouldBlock:
            pass

    intrude: dict[str, Callable[[Mailbox], object]] = {
        "put": lambda m: m.root.places.put(m.root, "intruder"),
        "take": take,
        "take_many": lambda m: received.extend(m.take_many(None)),
    }
    sent = {f"queued {number}" for number in range(queued)} | {"first", "second"}
    if intrusion == "put":
        sent.add("intruder")
    for mailbox in at_each_bytecode(
        make, lambda m: m.root.places.put_many(m.root, ["first", "second"], 0), intrude[intrusion]
    ):
        received += mailbox.take_many(None)
        assert sorted(received + handed_back) == sorted(sent)
        assert mailbox.books.received == len(received)
        assert mailbox.books.counts["dropped"].value == len(handed_back)


# -- the order -------------------------------------------------------------------------------------


def test_items_come_in_the_order_in_which_they_were_sent_whatever_portal_they_went_through() -> (
    None
):
    with dss.open_polled_hub[int]() as hub:
        a = hub.register("a")
        portals = [hub.portal, a, hub.portal.clone(), a.clone(), hub.register("b")]
        ways = list(itertools.islice(itertools.cycle(itertools.permutations(portals)), 30))
        for item, portal in enumerate(itertools.chain(*ways)):
            portal.send(item)
        assert hub.poll() == list(range(150))
        for portal in portals:
            portal.close()


def test_senders_get_room_in_the_order_in_which_they_began_to_wait() -> None:
    with dss.open_polled_hub[int](1) as hub:
        hub.portal.send(-1)
        others = [hub.register("a"), hub.register("b")]

        def send(number: int) -> None:
            until(lambda: len(hub.blocked()) == number)
            (hub.portal, *others)[number % 3].send(number)

        with threads(*[lambda number=number: send(number) for number in range(5)]):
            until(lambda: len(hub.blocked()) == 5)
            for number in range(-1, 5):
                assert hub.poll() == [number]
        assert hub.poll() == []


def test_a_sender_that_gives_up_lets_the_next_one_pass() -> None:
    with dss.open_polled_hub[str](1) as hub:
        hub.portal.send("first")

        def give_up() -> None:
            with pytest.raises(TimeoutError):
                hub.portal.send("given up", timeout=0.05)

        def wait() -> None:
            until(hub.blocked)
            hub.portal.send("patient")

        with threads(give_up, wait) as (impatient, _):
            impatient.join(10)
            until(lambda: [call.call for call in hub.blocked()] == ["send"])
            assert hub.poll() == ["first"]
        assert hub.poll() == ["patient"]


@pytest.mark.parametrize("portal", ["hub's own", "source's"])
def test_what_send_many_puts_in_one_go_stays_together(portal: str) -> None:
    """Guards the one ``extend`` in ``_put_in_place``: another item comes at any bytecode."""

    def send_many(mailbox: Mailbox) -> None:
        lane = mailbox.root if portal == "hub's own" else mailbox.open_lane(Source("source"))
        assert lane.places.put_many(lane, [1, 2, 3], 0) == 3

    for mailbox in at_each_bytecode(
        lambda: Mailbox(math.inf, "block"),
        send_many,
        lambda m: m.root.places.put(m.root, "intruder"),
    ):
        assert mailbox.take_many(None) in (["intruder", 1, 2, 3], [1, 2, 3, "intruder"])


# -- the bell --------------------------------------------------------------------------------------


def test_the_first_item_rings_the_bell_and_the_others_do_not() -> None:
    mailbox = Mailbox(math.inf, "block")
    rings: list[str] = []
    mailbox.bell.arm(lambda _: rings.append("rung"))
    for item in range(100):
        mailbox.root.places.put(mailbox.root, item)
    mailbox.root.places.put_many(mailbox.root, [1, 2, 3], 0)
    assert rings == ["rung"]
    assert not mailbox.bell.disarm(), "whoever took it has called it"
    mailbox.bell.arm(lambda _: rings.append("rung again"))
    mailbox.root.places.put_many(mailbox.root, [1, 2, 3], 0)
    assert rings == ["rung", "rung again"]


def test_a_bell_that_was_disarmed_does_not_ring() -> None:
    mailbox = Mailbox(math.inf, "block")
    rings: list[str] = []
    mailbox.bell.arm(lambda _: rings.append("rung"))
    assert mailbox.bell.disarm()
    assert not mailbox.bell.disarm()
    mailbox.root.places.put(mailbox.root, "item")
    mailbox.bell.ring()
    assert rings == []


@pytest.mark.parametrize("policy", POLICIES)
def test_the_bell_rings_when_the_item_is_there(policy: str) -> None:
    mailbox = Mailbox(1, policy)  # type: ignore[arg-type]
    seen: list[int] = []
    for lane in (mailbox.root, mailbox.open_lane(Source("source"))):
        mailbox.bell.arm(lambda _: seen.append(len(mailbox)))
        assert lane.places.put(lane, "item")
        mailbox.take()
    assert seen == [1, 1]


def test_a_ring_that_failed_is_left_to_the_next_item() -> None:
    """Out of memory, or out of stack: the item is accepted, and the receiver is not forgotten."""
    mailbox = Mailbox(math.inf, "block")
    rings: list[str] = []

    def ring(_: Mailbox) -> None:
        rings.append("rung")
        if len(rings) < 3:
            raise MemoryError

    mailbox.bell.arm(ring)
    for item in range(5):
        assert mailbox.root.places.put(mailbox.root, item)
    assert len(rings) == 3
    assert mailbox.take_many(None) == [0, 1, 2, 3, 4]


def test_a_ring_that_ctrl_c_has_struck_is_repeated() -> None:
    mailbox = Mailbox(math.inf, "block")
    rings: list[str] = []

    def ring(_: Mailbox) -> None:
        rings.append("rung")
        if len(rings) == 1:
            raise KeyboardInterrupt

    mailbox.bell.arm(ring)
    with pytest.raises(KeyboardInterrupt):
        mailbox.root.places.put(mailbox.root, "item")
    assert len(rings) >= 2  # once too often does no harm
    assert mailbox.take() == "item"


def test_the_bell_rings_when_the_last_portal_is_closed() -> None:
    mailbox = Mailbox(math.inf, "block")
    rings: list[str] = []
    lane = mailbox.open_lane(Source("source"))
    mailbox.bell.arm(lambda _: rings.append("rung"))
    mailbox.registry.close_lane(mailbox.root, portal_closed)
    assert rings == []
    mailbox.registry.close_lane(lane, portal_closed)
    assert rings == ["rung"]


def test_the_bell_rings_once_if_another_item_comes_at_any_bytecode_of_put() -> None:
    """Guards ``bell.pop``: one step gives the bell to one sender."""
    rings: list[int] = []

    def make() -> Mailbox:
        rings.clear()
        mailbox = Mailbox(math.inf, "block")
        mailbox.bell.arm(lambda _: rings.append(len(mailbox)))
        return mailbox

    for act, intrude in itertools.permutations(
        [
            lambda m: m.root.places.put(m.root, 1),
            lambda m: m.root.places.put_many(m.root, [2, 3], 0),
        ]
    ):
        for mailbox in at_each_bytecode(make, act, intrude):
            assert len(rings) == 1
            assert rings[0] > 0, "rung before the item was there"
            assert len(mailbox) == 3


@pytest.mark.parametrize("intrusion", ["put", "put_many"])
def test_no_ring_is_lost_at_any_bytecode_of_arming_and_looking(intrusion: str) -> None:
    """The receiver arms and then looks; this is the argument above the bell, tried out."""
    rings: list[str] = []
    seen: list[int] = []

    def make() -> Mailbox:
        rings.clear()
        seen.clear()
        return Mailbox(math.inf, "block")

    def sleep(mailbox: Mailbox) -> None:
        mailbox.bell.arm(lambda _: rings.append("rung"))
        seen.append(len(mailbox))

    intrude: dict[str, Callable[[Mailbox], object]] = {
        "put": lambda m: m.root.places.put(m.root, 1),
        "put_many": lambda m: m.root.places.put_many(m.root, [1, 2], 0),
    }
    for _ in at_each_bytecode(make, sleep, intrude[intrusion]):
        assert rings or seen[0]


# -- waiting ---------------------------------------------------------------------------------------


class Wakes(list[str]):
    """Counts how often somebody who waits was woken."""

    def __call__(self) -> None:
        self.append("woken")


def wait_in(mailbox: Mailbox, item: object, lane: Lane | None = None) -> tuple[WaitForPlace, Wakes]:
    wakes = Wakes()
    blocked = WaitForPlace(lane or mailbox.root, item, "send", wakes)
    mailbox.wait_for_place(blocked)
    return blocked, wakes


def test_a_wait_ends_at_once_if_room_has_come_meanwhile() -> None:
    mailbox = Mailbox(1, "block")
    blocked, wakes = wait_in(mailbox, "item")
    assert wakes == ["woken"]
    assert not blocked.refused
    mailbox.leave(blocked)
    assert mailbox.take() == "item"


def test_a_wait_ends_at_once_if_the_portal_was_closed_meanwhile() -> None:
    mailbox = Mailbox(1, "block")
    mailbox.root.places.put(mailbox.root, "full")
    mailbox.registry.close_lane(mailbox.root, portal_closed)
    blocked, wakes = wait_in(mailbox, "item")
    assert wakes == ["woken"]
    assert blocked.refused
    assert blocked.lane.refusal is portal_closed


def test_a_wait_ends_once_whoever_comes_first() -> None:
    mailbox = Mailbox(1, "block")
    mailbox.root.places.put(mailbox.root, "full")
    accepted, wakes = wait_in(mailbox, "accepted")
    mailbox.take()
    assert wakes == ["woken"]
    assert not accepted.withdraw()
    accepted.refuse(hub_gone)  # wakes it once more, which does no harm
    assert not accepted.refused

    withdrawn, wakes = wait_in(mailbox, "withdrawn")
    assert withdrawn.withdraw()
    withdrawn.refuse(hub_gone)
    assert not withdrawn.refused
    assert not withdrawn.accept()

    refused, wakes = wait_in(mailbox, "refused")
    mailbox.end(hub_gone)
    assert wakes == ["woken"]
    assert refused.refused
    assert refused.lane.refusal is hub_gone
    assert not refused.withdraw()


def test_closing_one_portal_releases_those_who_wait_in_it_and_no_others() -> None:
    mailbox = Mailbox(1, "block")
    mailbox.root.places.put(mailbox.root, "full")
    lane = mailbox.open_lane(Source("source"))
    own, own_wakes = wait_in(mailbox, "own")
    other, other_wakes = wait_in(mailbox, "other", lane)
    mailbox.registry.close_lane(lane, portal_closed)
    assert (own_wakes, other_wakes) == ([], ["woken"])
    assert mailbox.take() == "full"
    assert own_wakes == ["woken"]
    assert mailbox.take() == "own"
    for blocked in (own, other):
        mailbox.leave(blocked)
    assert not mailbox.inside.waiters
    assert not mailbox.places.waiting


def test_a_waker_that_fails_does_not_keep_the_others_from_being_released() -> None:
    """The event loop a task has waited in may be gone: its wake raises RuntimeError."""
    mailbox = Mailbox(1, "block")
    mailbox.root.places.put(mailbox.root, "full")

    def gone() -> None:
        raise RuntimeError("Event loop is closed")

    mailbox.wait_for_place(WaitForPlace(mailbox.root, "lost loop", "asend", gone))
    other, wakes = wait_in(mailbox, "other")
    mailbox.end(hub_gone)
    assert wakes == ["woken"]
    assert other.refused
    assert other.lane.refusal is hub_gone


def full_mailbox() -> Mailbox:
    mailbox = Mailbox(1, "block")
    mailbox.root.places.put(mailbox.root, "full")
    return mailbox


@pytest.mark.parametrize("room", ["is taken back", "is received", "is received with others"])
@pytest.mark.parametrize("portal", ["hub's own", "source's"])
def test_no_sender_is_forgotten_if_room_comes_at_any_bytecode_of_its_wait(
    portal: str, room: str
) -> None:
    """Guards ``wait_for_room``, ``_free`` and ``take``: first enter, or free, and then look."""
    if (portal, room) == ("hub's own", "is taken back"):
        return  # the hub's own portal leaves that to the receiver
    lanes: list[Lane] = []
    waits: list[tuple[WaitForPlace, Wakes]] = []

    def make() -> Mailbox:
        waits.clear()
        mailbox = Mailbox(1, "block")
        own = portal == "hub's own"
        lanes[:] = [mailbox.root if own else mailbox.open_lane(Source("source"))]
        lanes[0].places.put(lanes[0], "full")
        return mailbox

    make_room: dict[str, Callable[[Mailbox], object]] = {
        "is taken back": lambda m: m.take_back(lanes[0]),
        "is received": lambda m: m.take(),
        "is received with others": lambda m: m.take_many(None),
    }
    for wait, intrude in itertools.permutations(
        [lambda m: waits.append(wait_in(m, "waited")), make_room[room]]
    ):
        for mailbox in at_each_bytecode(make, wait, intrude):
            ((blocked, wakes),) = waits
            assert wakes, "the sender waits for ever"
            assert not blocked.refused
            assert mailbox.take() == "waited"
            assert len(mailbox.places.free or ()) == 1


@pytest.mark.parametrize("end", ["of the portal", "of the hub"])
def test_no_sender_is_forgotten_if_the_end_comes_at_any_bytecode_of_its_wait(end: str) -> None:
    """Guards ``wait_for_room`` and ``_refuse``: enter, then look; refuse, then copy."""
    waits: list[tuple[WaitForPlace, Wakes]] = []

    def make() -> Mailbox:
        waits.clear()
        return full_mailbox()

    def refuse(mailbox: Mailbox) -> None:
        if end == "of the portal":
            mailbox.registry.close_lane(mailbox.root, portal_closed)
        else:
            mailbox.end(hub_gone)

    for wait, intrude in itertools.permutations(
        [lambda m: waits.append(wait_in(m, "waited")), refuse]
    ):
        for mailbox in at_each_bytecode(make, wait, intrude):
            ((blocked, wakes),) = waits
            assert wakes, "the sender waits for ever"
            assert blocked.refused
            assert blocked.lane.refusal is (portal_closed if end == "of the portal" else hub_gone)
            assert mailbox.take() == "full"
            assert len(mailbox) == 0


@pytest.mark.parametrize("another", [False, True], ids=["", "and another one comes"])
def test_no_place_is_lost_if_its_sender_gives_up_at_any_bytecode_of_its_coming(
    another: bool,
) -> None:
    """Guards ``_admit``: a place nobody wants goes back, and whoever came meanwhile is found."""
    waits: list[tuple[WaitForPlace, Wakes]] = []
    withdrawn: list[bool] = []

    def make() -> Mailbox:
        withdrawn.clear()
        mailbox = full_mailbox()
        waits[:] = [wait_in(mailbox, "first")]
        return mailbox

    def give_up(mailbox: Mailbox) -> None:
        first, _ = waits[0]
        withdrawn.append(first.withdraw())
        mailbox.leave(first)
        if another:
            waits.append(wait_in(mailbox, "second"))

    for mailbox in at_each_bytecode(make, lambda m: m.take(), give_up):
        if withdrawn == [False]:
            assert mailbox.take() == "first"
        if another:
            assert waits[1][1], "the second one waits for ever"
            assert mailbox.take() == "second"
        assert len(mailbox) == 0
        assert len(mailbox.places.free or ()) == 1


def test_who_comes_while_a_place_is_held_for_one_that_gave_up_gets_it() -> None:
    """Guards the second look in ``_admit``, after it has put the place back."""
    waits: list[tuple[WaitForPlace, Wakes]] = []

    def make() -> Mailbox:
        mailbox = full_mailbox()
        waits[:] = [wait_in(mailbox, "first")]
        waits[0][0].withdraw()  # and is about to leave
        return mailbox

    for mailbox in at_each_bytecode(
        make, lambda m: m.take(), lambda m: waits.append(wait_in(m, "second"))
    ):
        assert waits[1][1], "the second one waits for ever"
        assert mailbox.take() == "second"
        assert len(mailbox.places.free or ()) == 1


def test_threads_that_wait_for_room_all_get_it(switching_fast: None) -> None:
    for _ in range(40):
        with dss.open_polled_hub[int](1) as hub:

            def send(hub: dss.PolledHub[int] = hub) -> None:
                for item in range(15):
                    hub.portal.send(item, timeout=10)

            with threads(send, send, send):
                received = 0
                while received < 45:
                    received += len(hub.poll())
            assert not hub.blocked()


# -- decode ----------------------------------------------------------------------------------------


def test_decode_runs_in_the_receiving_thread_when_the_item_is_received() -> None:
    with dss.open_polled_hub[tuple[int, int]]() as hub:

        def decode(raw: str) -> tuple[int, int]:
            return int(raw), threading.get_ident()

        source = hub.register("source", decode=decode)
        with threads(lambda: source.send("12")):
            pass
        assert hub.poll() == [(12, threading.get_ident())]


def test_decode_may_return_anything() -> None:
    odd = [None, False, 0, [], (), hub_gone, Mailbox(1, "block").root]
    with dss.open_polled_hub[Any]() as hub:
        source = hub.register("source", decode=odd.__getitem__)
        source.send_many(range(len(odd)))
        assert hub.poll() == odd


def test_an_item_may_be_anything() -> None:
    odd: list[Any] = [None, False, 0, [], (), hub_gone, Mailbox(1, "block"), Source("x")]
    with dss.open_polled_hub[Any]() as hub:
        hub.portal.send_many(odd)
        hub.register("source").send_many(odd)
        received = hub.poll()
        assert len(received) == 2 * len(odd)
        assert all(one is other for one, other in zip(received, odd + odd, strict=True))


def test_what_decode_refuses_goes_back_and_the_rest_is_received(
    ledger: Callable[..., Ledger],
) -> None:
    book = ledger(decode=lambda raw: 12 // raw)
    book.offer(0, 1, 0, 2, 0)
    assert book.poll() == [12, 6]
    assert book.handed_back == [0, 0, 0]
    assert book.hub.statistics().undelivered == 3
    all_told(book.hub, book.errors, 3)
    assert book.errors == [("ZeroDivisionError", "source")] * 3
    assert book.hub.statistics().errors == 3


def test_what_decode_refuses_gives_its_place_back(ledger: Callable[..., Ledger]) -> None:
    book = ledger(1, decode=lambda raw: 12 // raw)
    for _ in range(3):
        assert book.offer(0, 0) == [True, False]
        assert book.poll() == []
    assert book.offer(1, 1) == [True, False]
    assert book.poll() == [12]


def test_ctrl_c_in_decode_loses_no_other_item(ledger: Callable[..., Ledger]) -> None:
    def decode(raw: int) -> int:
        if raw == 2:
            raise KeyboardInterrupt
        return raw

    book = ledger(decode=decode)
    book.offer(1, 2, 3)
    assert book.poll() == [1, 3]
    with pytest.raises(KeyboardInterrupt):
        book.poll()
    assert book.handed_back == [2]
    assert book.poll() == []
    book.offer(2)
    with pytest.raises(KeyboardInterrupt):
        book.poll()


def test_decode_may_send_to_the_hub_it_decodes_for(ledger: Callable[..., Ledger]) -> None:
    book = ledger(decode=lambda raw: (raw, book.offer(raw + 1) if raw < 3 else None))
    book.offer(1)
    assert [book.poll(), book.poll(), book.poll(), book.poll()] == [
        [(1, [True])],
        [(2, [True])],
        [(3, None)],
        [],
    ]


# -- errors of hooks -------------------------------------------------------------------------------


def test_an_error_in_on_undelivered_concerns_the_hubs_side_only() -> None:
    errors: list[tuple[str, str | None]] = []
    hub = dss.open_polled_hub[int](
        1,
        overflow="drop_newest",
        on_error=lambda exc, source: errors.append((repr(exc), source)),
    )
    calls: list[int] = []

    def on_undelivered(item: int) -> None:
        calls.append(item)
        raise ValueError(item) if item % 2 else SystemExit(item)

    source = hub.register("source", on_undelivered=on_undelivered)
    source.send_many(range(4))
    assert calls == [1, 2, 3]
    assert errors == [], "not in the sending thread"
    assert hub.poll(1) == [0]
    all_told(hub, errors, 3)
    assert errors == [
        ("ValueError(1)", "source"),
        ("SystemExit(2)", "source"),
        ("ValueError(3)", "source"),
    ]
    source.send_many([4, 5])
    hub.close()
    assert calls == [1, 2, 3, 5, 4]
    assert [error for error, _ in errors[3:]] == ["ValueError(5)", "SystemExit(4)"]
    assert hub.statistics().errors == 5


def test_an_error_that_nobody_has_asked_for_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with dss.open_polled_hub[int]() as hub:
        hub.register("divider", decode=lambda raw: 1 // raw).send(0)
        hub.portal.send_callback(lambda: 1 // 0)()
        hub.poll()
        hub.poll()
    assert [(each.name, each.levelno) for each in caplog.records] == [
        ("dss_anyio", logging.ERROR)
    ] * 2
    assert sorted(each.getMessage().split(":")[0] for each in caplog.records) == [
        f"error in {hub.name}",
        f"error in source 'divider' in {hub.name}",
    ]
    assert all(each.exc_info[0] is ZeroDivisionError for each in caplog.records if each.exc_info)


def test_an_error_in_on_error_is_logged_with_what_it_was_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def on_error(exc: BaseException, source: str | None) -> None:
        raise RuntimeError("on_error")

    with dss.open_polled_hub[int](on_error=on_error) as hub:
        hub.portal.send_callback(lambda: 1 // 0)()
        hub.poll()
    (record,) = caplog.records
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], RuntimeError)
    assert isinstance(record.exc_info[1].__cause__, ZeroDivisionError)


def test_more_errors_than_can_be_kept_are_counted() -> None:
    errors: list[BaseException] = []
    with dss.open_polled_hub[int](on_error=lambda exc, source: errors.append(exc)) as hub:
        callback = hub.portal.send_callback(lambda: 1 // 0)
        for _ in range(MOST_REPORTS + 50):
            callback()
        while hub._mailbox.reports:
            hub.poll()  # one turn of them each time
        assert len(errors) == MOST_REPORTS
        assert hub.statistics().errors == MOST_REPORTS + 50


def test_on_undelivered_may_send_to_the_hub_that_drops() -> None:
    """Each drop of the one source makes an item of the other, which makes the next drop."""
    with dss.open_polled_hub[int](2, overflow="drop_oldest") as hub:
        log = hub.register("log")
        noisy = hub.register("noisy", on_undelivered=log.send_nowait)
        noisy.send_many([1, 2, 3])
        assert hub.poll() == [2, 3]
        statistics = hub.statistics()
        assert statistics.sources["noisy"][:4] == (0, 0, 3, 0)
        assert statistics.sources["log"][:4] == (2, 0, 1, 0)
        assert (statistics.sent, statistics.dropped, statistics.errors) == (6, 4, 0)


# -- taking back -----------------------------------------------------------------------------------


def test_the_queue_passes_over_what_was_taken_back() -> None:
    with dss.open_polled_hub[int](6) as hub:
        a, b = hub.register("a"), hub.register("b")
        for item, portal in enumerate([a, b, a, b, a, hub.portal]):
            portal.send(item)
        a.abort()
        assert len(hub) == 3
        assert hub.portal.offer(6)
        assert [hub.poll(1), hub.poll()] == [[1], [3, 5, 6]]
        assert hub.statistics().undelivered == 3


def test_a_place_that_was_taken_back_goes_to_a_sender_that_waits() -> None:
    with dss.open_polled_hub[str](1) as hub:
        source = hub.register("source")
        source.send("taken back")
        with threads(lambda: hub.portal.send("waited")):
            until(hub.blocked)
            source.abort()
        assert hub.poll() == ["waited"]


def test_an_item_that_was_on_its_way_when_its_portal_was_aborted_goes_back() -> None:
    mailbox = Mailbox(2, "block")
    handed_back: list[str] = []
    lane = mailbox.open_lane(Source("source", on_undelivered=handed_back.append))
    mailbox.registry.close_lane(lane, portal_aborted)
    mailbox.take_back(lane)
    lane.places.put(lane, "late")  # the sender has read ``lane.refusal`` before
    with pytest.raises(anyio.WouldBlock):
        mailbox.take()
    assert handed_back == ["late"]
    assert mailbox.books.counts["undelivered"].value == 1
    assert [mailbox.root.places.put(mailbox.root, item) for item in range(3)] == [True, True, False]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("limit", [1, math.inf])
def test_an_item_that_was_on_its_way_when_the_mailbox_ended_goes_back(
    limit: float, policy: str
) -> None:
    mailbox = Mailbox(limit, policy)  # type: ignore[arg-type]
    handed_back: list[str] = []
    lane = mailbox.open_lane(Source("source", on_undelivered=handed_back.append))
    lane.places.put(lane, "queued")
    mailbox.end(hub_gone)
    mailbox.sweep()
    assert handed_back == ["queued"]
    for late in ("late", "later"):
        assert lane.places.put(lane, late)
    assert handed_back == ["queued", "late", "later"]
    assert mailbox.books.counts["undelivered"].value == 3
    assert len(mailbox) == 0


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("portal", ["hub's own", "source's"])
def test_each_item_ends_once_if_the_end_comes_at_any_bytecode_of_put(
    policy: str, portal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards ``sweep``: the bell is put before the last look at the queue."""
    handed_back: list[str] = []
    lanes: list[Lane] = []
    accepted: list[bool] = []
    source = UNREGISTERED if portal == "hub's own" else Source("source")
    monkeypatch.setattr(source, "on_undelivered", handed_back.append)

    def make() -> Mailbox:
        handed_back.clear()
        accepted.clear()
        mailbox = Mailbox(2, policy)  # type: ignore[arg-type]
        lanes[:] = [mailbox.root if source is UNREGISTERED else mailbox.open_lane(source)]
        lanes[0].places.put(lanes[0], "queued")
        return mailbox

    def end(mailbox: Mailbox) -> None:
        mailbox.end(hub_gone)
        mailbox.sweep()

    for put, intrude in itertools.permutations(
        [lambda _: accepted.append(lanes[0].places.put(lanes[0], "item")), end]
    ):
        for mailbox in at_each_bytecode(make, put, intrude):
            assert accepted == [True]
            assert sorted(handed_back) == ["item", "queued"]
            assert mailbox.books.counts["undelivered"].value == len(handed_back)
            assert len(mailbox) == 0


def test_each_item_ends_once_while_the_hub_is_closed_under_its_senders(
    switching_fast: None,
) -> None:
    for _ in range(100):
        hub = dss.open_polled_hub[tuple[int, int]](math.inf)
        handed_back: list[tuple[int, int]] = []
        accepted: list[tuple[int, int]] = []
        begun = threading.Event()

        def send(
            source: dss.Portal[tuple[int, int]],
            accepted: list[tuple[int, int]] = accepted,
            begun: threading.Event = begun,
        ) -> None:
            number = threading.get_ident()
            for item in itertools.count():
                if not source.offer((number, item)):
                    return
                accepted.append((number, item))
                begun.set()

        sources = [hub.register(name, on_undelivered=handed_back.append) for name in "abc"]
        with threads(*[lambda source=source, send=send: send(source) for source in sources]):
            assert begun.wait(10)
            received = hub.poll()
            hub.close()
        assert Tally(handed_back + received) == Tally(accepted)
        statistics = hub.statistics()
        assert (statistics.received, statistics.undelivered) == (len(received), len(handed_back))
        assert statistics.queued == 0


# -- counting --------------------------------------------------------------------------------------


def test_a_counter_begins_at_zero_and_looking_at_it_changes_nothing() -> None:
    counter = Counter()
    assert [counter.value, counter.value] == [0, 0]
    counter.add_one()
    counter.add_one()
    assert [counter.value, counter.value] == [2, 2]


def test_a_counter_loses_nothing_if_somebody_counts_at_any_bytecode_of_counting() -> None:
    """Guards ``Counter``: ``+= 1`` has bytecodes at which somebody else's would be lost."""
    for at in itertools.count():
        counter = Counter()
        interrupted = run_interrupted(counter.add_one, counter.add_one, at)
        assert counter.value == 1 + interrupted
        if not interrupted:
            break


def test_a_counter_counts_exactly_whoever_counts(switching_fast: None) -> None:
    counter = Counter()

    def count() -> None:
        for _ in range(20_000):
            counter.add_one()

    with threads(count, count, count, count):
        pass
    assert counter.value == 80_000


def test_the_statistics_say_what_is_open_and_who_waits() -> None:
    with dss.open_polled_hub[int](1) as hub:
        assert hub.statistics()[:6] == (0, 1, 1, 1, 0, 0)
        source = hub.register("source")
        clone = source.clone()
        source.send(1)
        assert hub.statistics()[:6] == (1, 1, 3, 1, 0, 0)
        with threads(lambda: clone.send(2)):
            until(hub.blocked)
            assert hub.statistics()[:6] == (1, 1, 3, 1, 1, 0)
            assert hub.poll(1) == [1]
        clone.close()
        assert hub.statistics()[:6] == (1, 1, 2, 1, 0, 0)
        assert hub.statistics().queued == 1
    statistics = hub.statistics()
    assert statistics[:6] == (0, 1, 0, 0, 0, 0)
    assert (statistics.received, statistics.undelivered, statistics.sent) == (1, 1, 2)
    assert registered(hub) == []


# -- a husk too many -------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_no_receiver_sleeps_beside_an_item_that_a_husk_too_many_hides() -> None:
    """``take_back`` counts one husk too many, and withdraws it. Guards that nobody counts husks."""
    async with dss.open_hub[str]() as hub:
        sender = hub.register("sender")
        sender.send("an item")
        hub._mailbox.line._husks.append(None)  # a thread that aborts another source is here
        with anyio.fail_after(10):
            await hub._sleepers.sleep(hub._end)
            assert await hub.receive() == "an item"
        hub._mailbox.line._husks.pop()


def test_no_polled_hub_sleeps_on_beside_an_item_that_a_husk_too_many_has_hidden() -> None:
    """Guards the ring after ``Line.take_back`` has withdrawn it."""
    found: list[bool] = []
    with dss.open_polled_hub[str]() as hub:
        aborted, sender = hub.register("aborted"), hub.register("sender")
        hub._mailbox.line._husks.append(None)  # the thread that aborts is here
        sender.send("an item")  # whose wake comes to nothing
        with threads(lambda: found.append(hub.wait(10))):
            until(lambda: hub.statistics().tasks_waiting_receive and hub._mailbox.bell.armed)
            hub._mailbox.line._husks.pop()
            aborted.abort()  # goes on to its end
        assert found == [True]
        assert hub.poll() == ["an item"]


@pytest.mark.anyio
async def test_the_stream_does_not_end_before_an_item_that_such_a_husk_hides() -> None:
    async with dss.open_hub[Any]() as hub:
        aborted, sender = hub.register("aborted"), hub.register("sender")
        aborted.send_many(range(129))  # one more than a receiver passes over at once
        sender.send("the last item")
        hub.close_senders()
        aborted.abort()
        hub._mailbox.line._husks.append(None)  # another thread aborts it as well, and is here
        with pytest.raises(anyio.WouldBlock):
            hub.receive_nowait()
        hub._mailbox.line._husks.pop()
        assert [item async for item in hub] == ["the last item"]


# -- at the end of the stack -----------------------------------------------------------------------


def free_places(hub: dss.PolledHub[int]) -> list[None]:
    places: Any = hub._mailbox.places
    free: list[None] = getattr(places, "pile", places.free)
    return free


@pytest.mark.parametrize("how", ["receive_nowait", "poll"])
def test_at_each_depth_of_the_stack_a_receiver_lets_in_who_waits_or_takes_nothing(how: str) -> None:
    """The item that it has in hand is not lost, nor is its place. Guards ``Places.admit``."""
    wrong: list[Any] = []
    refused = 0
    for left in range(4, 60):
        with dss.open_polled_hub[int](1) as hub:
            hub.portal.send(1)
            waiting = hub.portal.request_soon(2)  # as a thread that waits in ``send``
            received: list[Any] = []

            def take() -> None:
                if how == "poll":
                    received.extend(hub.poll(1))  # noqa: B023
                else:
                    received.append(hub._mailbox.take())  # noqa: B023

            try:
                at_depth(sys.getrecursionlimit() - left, take)
            except RecursionError:
                refused += 1
            while more := hub.poll():
                received += more
            for each in received[1:]:
                each.reply("answered")
            if received[:1] != [1] or not waiting.done() or len(free_places(hub)) != 1:
                wrong.append((left, received, waiting))
    assert wrong == []
    assert 0 < refused < 56, "the end of the stack was not tried"


def at_depth(depth: int, func: Callable[[], object]) -> None:
    """Call *func* with so many calls below it on the stack."""
    frame: Any = sys._getframe()
    while frame is not None:
        depth, frame = depth - 1, frame.f_back

    def descend(left: int) -> None:
        if left > 0:
            descend(left - 1)
        else:
            func()

    descend(depth)


@pytest.mark.parametrize("own", [True, False], ids=["hub.portal", "a source"])
@pytest.mark.parametrize("overflow", ["block", "drop_oldest", "drop_newest"])
def test_at_each_depth_of_the_stack_what_is_accepted_is_counted_and_nothing_else(
    overflow: Any, own: bool
) -> None:
    """The stack may end at any call within a call. Guards ``reach``."""
    dropped: list[int] = []
    with dss.open_polled_hub[int](4, overflow=overflow) as hub:
        portal = hub.portal if own else hub.register("source", on_undelivered=dropped.append)
        callback = portal.send_callback()
        accepted: list[int] = []
        tried = itertools.count()

        def descend() -> None:
            try:
                descend()
            except RecursionError:
                pass
            number = next(tried)
            try:
                if portal.offer(number):
                    accepted.append(number)
            except RecursionError:  # it could not be called
                pass

        descend()
        received = hub.poll()
        counts = hub.statistics()
        assert counts.sent == len(accepted) == counts.received + counts.dropped
        assert counts.received == len(received) == 4
        if not own:
            assert sorted(received + dropped) == accepted
        assert len(free_places(hub)) == 4
        assert next(tried) > 100

        def descend_and_call_back() -> None:
            try:
                descend_and_call_back()
            except RecursionError:
                pass
            try:
                callback(0)
            except RecursionError:
                pass

        descend_and_call_back()
        hub.poll()
        counts = hub.statistics()
        assert counts.sent == counts.received + counts.dropped
        if not own:
            assert len(dropped) == counts.dropped
        assert len(free_places(hub)) == 4


def test_statistics_may_start_a_collection_that_closes_a_portal() -> None:
    """Where a collection may begin at any allocation: until CPython 3.11."""

    class Closer:
        def __init__(self, portal: dss.Portal[int]) -> None:
            self.portal = portal
            self.itself = self

        def __del__(self) -> None:
            self.portal.close()

    thresholds = gc.get_threshold()
    try:
        with dss.open_polled_hub[int]() as hub:
            for number in range(200):
                portals = [hub.register(f"{number} {each}") for each in range(20)]
                gc.collect()
                Closer(portals[3])
                gc.set_threshold(number + 1, 10, 10)
                hub.statistics()
                gc.set_threshold(*thresholds)
                for portal in portals:
                    portal.close()
    finally:
        gc.set_threshold(*thresholds)
