"""Native senders: what threads send that never enter Python (N3, and what a source promises)."""

from __future__ import annotations

import ctypes
import gc
import itertools
import threading
from typing import Any

import anyio
import anyio.to_thread
import pytest
from bytecodes import run_interrupted
from c_threads import (
    CLOSED,
    DEADLOCK,
    DROPPED,
    FULL,
    GIVE,
    INVALID,
    OK,
    RELEASED,
    SEND_AGAIN_WHILE_FULL,
    SEND_WAIT,
    TIMED_OUT,
    TOO_LARGE,
    Call,
    Pool,
    c,
    c_code,
    function,
    in_order,
    needs_the_extension,
    send,
)

import dss_anyio as dss
from dss_anyio._core.books import NOTHING
from dss_anyio._core.steps import IN_TURN
from dss_anyio.testing import eventually, until

pytestmark = [pytest.mark.anyio, needs_the_extension]
__all__ = ["c", "c_code"]  # fixtures


# -- What arrives ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("calls", "fresh"), [(20_000, False), (300, True)])
@pytest.mark.parametrize("way", [SEND_WAIT, SEND_AGAIN_WHILE_FULL, GIVE])
async def test_each_threads_items_arrive_in_its_order(
    c: ctypes.CDLL, way: int, calls: int, fresh: bool
) -> None:
    """*fresh*: each call from a thread of its own."""
    async with dss.open_hub() as hub:
        sender = hub.register("pool").native_sender(64 if way != GIVE else 4 * calls)
        pool = Pool(c, sender, 4, calls, way=way, fresh=fresh)
        received: list[Any] = []
        async for item in hub:
            received.append(bytes(item))
            del item
            if len(received) == 4 * calls:
                break
        assert in_order(received) == dict.fromkeys(range(4), calls)
        await anyio.to_thread.run_sync(pool.join)
        counts = hub.statistics()
        assert counts.sources["pool"].received == counts.received == counts.sent == 4 * calls
        assert pool.count(OK) == 4 * calls
        gc.collect()
        assert pool.released == (4 * calls if way == GIVE else 0)


async def test_what_an_iteration_has_received_is_counted_at_once() -> None:
    """Also in the middle of a turn, when that ends, when another sender comes, and at the end."""
    async with dss.open_hub(1000) as hub:
        library = hub.register("library")
        sender = library.native_sender()
        received = 0
        for more in 1, 5, 127, 128, 129, 300:
            for _ in range(more):
                send(sender, b"item")
            async for _ in hub:
                received += 1
                counts = hub.statistics()
                assert counts.received == counts.sources["library"].received == received
                assert counts.sent == received + counts.current_buffer_used
                if not counts.current_buffer_used:
                    break
        send(sender, b"before the other one")
        assert await hub.__anext__() == b"before the other one"
        other = library.native_sender()
        send(other, b"its own")
        library.close()
        assert await hub.__anext__() == b"its own"
        hub.register("the next one").native_sender()  # those that ended are forgotten now
        assert hub.statistics().sources["library"].received == received + 2


async def test_batches_arrive_whole_and_in_order(c: ctypes.CDLL) -> None:
    async with dss.open_hub() as hub:
        pool = Pool(c, hub.portal.native_sender(), 4, 20_000, way=SEND_WAIT)
        received: list[bytes] = []
        while len(received) < 80_000:
            batch = await hub.receive_many(100)
            assert 1 <= len(batch) <= 100
            received += batch
        assert in_order(received) == dict.fromkeys(range(4), 20_000)
        pool.join()


def test_a_polled_hub_is_woken_by_its_datagram(c: ctypes.CDLL) -> None:
    import select

    with dss.open_polled_hub() as hub:
        sender = hub.register("pool").native_sender(64)
        pool = Pool(c, sender, 2, 2_000, way=SEND_WAIT)
        received: list[bytes] = []
        while len(received) < 4_000:
            assert select.select([hub], [], [], 10)[0]
            received += hub.poll()
        assert in_order(received) == {0: 2_000, 1: 2_000}
        pool.join()
        assert not hub.poll()
        assert not select.select([hub], [], [], 0)[0], "readable although there is nothing"
        call = Call(c, sender, b"one", waits_for_room=True)
        assert hub.wait(10)
        assert call.join() == (OK, b"")
        assert hub.poll() == [b"one"]
        assert not hub.wait(0.01)


def test_somebody_elses_socket_is_notified_as_well(c: ctypes.CDLL) -> None:
    import socket

    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as neighbour,
        dss.open_polled_hub() as hub,
    ):
        neighbour.bind(("127.0.0.1", 0))
        neighbour.settimeout(10)
        sender = hub.portal.native_sender()
        hub.wake_address = neighbour.getsockname()
        hub.poll()
        assert [send(sender, b"1"), send(sender, b"2")] == [OK, OK]
        assert neighbour.recv(16)
        neighbour.setblocking(False)
        with pytest.raises(BlockingIOError):
            neighbour.recv(16)  # one for both
        assert hub.poll() == [b"1", b"2"]


@pytest.mark.parametrize("many", [1, 2, 3, 4])
@pytest.mark.parametrize(
    "way",
    ["poll 1", "poll 2", "poll 3", "dispatch 1", "dispatch", "many 1", "many 3"]
    + ["receive", "nowait", "iterate", "serve"],
)
async def test_the_line_and_each_of_many_senders_get_their_turn(way: str, many: int) -> None:
    """All are full all the time; after a few turns, everybody was served."""
    seen: list[bytes] = []
    wanted = {b"line", *(b"%d" % number for number in range(many))}
    most = int(way[-1]) if way[-1].isdigit() else None
    with dss.open_polled_hub[bytes]() as polled:
        async with dss.open_hub[bytes]() as hub:
            used = polled if way.startswith(("poll", "dispatch")) else hub
            senders = [used.register(f"lib {number}").native_sender() for number in range(many)]
            for number in range(many):
                for _ in range(100):
                    assert send(senders[number], b"%d" % number) == OK
            for _ in range(100):
                used.portal.send_nowait(b"line")
            turns = 4 * (many + 1)  # of them half are the line's
            if way == "iterate":
                turns = 2 * IN_TURN
            if way == "iterate":
                async for item in hub:
                    seen.append(item)
                    if len(seen) == turns:
                        break
            elif way == "serve":
                hub.task_group.start_soon(hub.serve, seen.append)
                await eventually(lambda: len(seen) == 100 * (many + 1))
            else:
                for _ in range(turns):
                    if way.startswith("poll"):
                        seen += polled.poll(most)
                    elif way.startswith("dispatch"):
                        polled.dispatch(seen.append, most)
                    elif way.startswith("many"):
                        seen += await hub.receive_many(most)
                    else:
                        seen.append(
                            hub.receive_nowait() if way == "nowait" else await hub.receive()
                        )
            if most is not None or way in ("iterate", "receive", "nowait", "serve"):
                del seen[turns * (most or 1) :]
            assert set(seen[:turns]) == wanted
            polled.poll()


async def test_a_handler_gets_items_of_the_line_and_of_inlets_in_turn(c: ctypes.CDLL) -> None:
    seen: list[Any] = []
    async with dss.open_hub() as hub:
        portal = hub.register("both")
        first, second = portal.native_sender(), portal.native_sender()
        for number in range(50):
            portal.send_nowait(number)
            send(first, b"first")
            send(second, b"second")
        hub.task_group.start_soon(hub.serve, seen.append)
        await eventually(lambda: len(seen) == 150)
        assert [item for item in seen if isinstance(item, int)] == list(range(50))
        # Nobody is served only after the others.
        assert {b"first", b"second", 0} <= set(seen[:6])
        Call(c, first, b"late", waits_for_room=True).join()
        await eventually(lambda: seen[-1] == b"late")


@pytest.mark.parametrize("way", ["receive_nowait", "receive", "iterate", "serve"])
async def test_what_decode_keeps_from_the_receiver_is_passed_over(way: str) -> None:
    def decode(raw: bytes) -> Any:
        return {b"bad": lambda: 1 // 0, b"none": lambda: NOTHING}.get(raw, lambda: raw)()

    errors: list[str] = []
    received: list[Any] = []
    async with dss.open_hub(on_error=lambda exc, _: errors.append(type(exc).__name__)) as hub:
        portal = hub.register("lib", decode=decode)
        sender = portal.native_sender()
        for item in (b"bad", b"none", b"good"):
            send(sender, item)
        if way == "serve":
            portal.close()
            hub.portal.close()
            await hub.serve(received.append)
        elif way == "iterate":
            received.append(await hub.__anext__())
        else:
            received.append(hub.receive_nowait() if way != "receive" else await hub.receive())
        assert received == [b"good"]
        assert hub.statistics().sources["lib"][:4] == (2, 0, 0, 1)
    assert errors == ["ZeroDivisionError"]


async def test_a_source_decodes_what_comes_and_counts_it() -> None:
    async with dss.open_hub() as hub:
        portal = hub.register("numbers", decode=int)
        sender = portal.native_sender()
        for data in (b"1", b"2", b"none", b"4"):
            assert send(sender, data) == OK
        assert len(hub) == len(sender) == 4
        assert hub.statistics().sources["numbers"].queued == 4
        assert [await hub.receive(), await hub.receive()] == [1, 2]
        assert await hub.receive_many() == [4]
        assert hub.statistics().sources["numbers"][:4] == (3, 0, 0, 1)
        assert hub.statistics().errors == 1


# -- The bound, and what does not fit --------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 7, 64])
async def test_the_bound_is_exact(limit: int) -> None:
    async with dss.open_hub() as hub:
        sender = hub.portal.native_sender(limit)
        room = limit
        for taken in (1, limit // 2 + 1, limit, limit):
            accepted = 0
            while send(sender, b"%d" % accepted) == OK:
                accepted += 1
            assert accepted == room
            assert len(sender) == limit
            room = min(taken, limit)
            for _ in range(room):
                await hub.receive()
        assert repr(sender) == f"<NativeSender of {hub.name}: open, 0 of {limit} queued>"


async def test_policies_drop_the_newest_or_the_oldest() -> None:
    async with dss.open_hub(overflow="drop_oldest") as hub:
        newest = hub.register("newest").native_sender(3, overflow="drop_newest")
        oldest = hub.register("oldest").native_sender(3)  # as the hub
        for sender in (newest, oldest):
            statuses = [send(sender, b"%d" % number) for number in range(7)]
            assert statuses == [OK] * 3 + [DROPPED] * 4
        received = await hub.receive_many()
        assert sorted(received) == sorted([b"0", b"1", b"2", b"4", b"5", b"6"])
        counts = hub.statistics()
        assert (counts.sent, counts.received, counts.dropped) == (14, 6, 8)
        assert counts.sources["newest"][:4] == counts.sources["oldest"][:4] == (3, 0, 4, 0)


@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest"])
async def test_what_many_threads_send_and_what_is_dropped_is_counted_to_the_last_item(
    c: ctypes.CDLL, overflow: Any
) -> None:
    async with dss.open_hub() as hub:
        sender = hub.register("pool").native_sender(16, overflow=overflow)
        pools = [Pool(c, sender, 2, 20_000, way=way) for way in (0, GIVE)]
        received: list[bytes] = []
        with anyio.move_on_after(0.2):
            async for item in hub:
                received.append(bytes(item))
                del item
        for pool in pools:
            await anyio.to_thread.run_sync(pool.join)
        received += map(bytes, await hub.receive_many() if len(hub) else [])
        counts = hub.statistics()
        assert counts.sent == sum(pool.accepted for pool in pools) == 80_000
        assert counts.received == len(received)
        assert counts.dropped == 80_000 - len(received)
        assert counts.dropped >= sum(pool.count(DROPPED) for pool in pools)
        gc.collect()
        assert pools[1].released == 40_000


async def test_what_cannot_be_is_refused_and_changes_nothing() -> None:
    async with dss.open_hub() as hub:
        sender = hub.portal.native_sender(2, item_size=4)
        assert send(sender, b"12345") == TOO_LARGE
        assert send(sender, None, 3) == INVALID
        assert send(sender, None, 0) == send(sender, b"1234") == OK
        assert await hub.receive_many() == [b"", b"1234"]
        for wrong in (0, -1, 1 << 25, 1.5, True, float("inf")):
            with pytest.raises(ValueError, match="max_buffer_size must be"):
                hub.portal.native_sender(wrong)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="item_size must be from 1 to"):
            hub.portal.native_sender(item_size=0)
        with pytest.raises(ValueError, match="overflow must be one of"):
            hub.portal.native_sender(overflow="drop")  # type: ignore[arg-type]
    not_open: dss.Hub[Any] = dss.open_hub()
    with pytest.raises(RuntimeError, match="is not open yet"):
        not_open.portal.native_sender()


# -- Waiting for room ------------------------------------------------------------------------------


async def test_a_thread_waits_for_room_and_is_seen_to(c: ctypes.CDLL) -> None:
    async with dss.open_hub() as hub:
        sender = hub.register("lib").native_sender(1)
        assert send(sender, b"first") == OK
        call = Call(c, sender, b"second", waits_for_room=True)
        await eventually(lambda: len(hub.blocked()) == 1)
        (blocked,) = hub.blocked()
        assert (blocked.source, blocked.call) == ("lib", "dss_send_wait")
        assert "1 blocked" in repr(hub)
        assert await hub.receive() == b"first"
        assert await hub.receive() == b"second"
        assert call.join() == (OK, b"")
        assert not hub.blocked()


async def test_one_free_place_is_enough_for_one_who_waits(c: ctypes.CDLL) -> None:
    async with dss.open_hub() as hub:
        sender = hub.portal.native_sender(64)
        for _ in range(64):
            assert send(sender, b"first") == OK
        call = Call(c, sender, b"second", waits_for_room=True)
        await eventually(lambda: len(hub.blocked()) == 1)
        assert await hub.receive() == b"first"
        await eventually(lambda: call.done)
        assert call.join() == (OK, b"")
        assert len(hub) == 64
        await hub.receive_many()


async def test_of_those_who_wait_for_room_each_wakes_the_next(c: ctypes.CDLL) -> None:
    async with dss.open_hub() as hub:
        sender = hub.portal.native_sender(64)
        for _ in range(64):
            assert send(sender, b"first") == OK
        calls = [Call(c, sender, b"second", waits_for_room=True) for _ in range(20)]

        def all_sleep_for_one_place() -> bool:
            waiting = hub.blocked()
            return len(waiting) == 20 and min(each.seconds for each in waiting) > 0.1

        await eventually(all_sleep_for_one_place)
        assert len(await hub.receive_many(20)) == 20
        await eventually(lambda: all(call.done for call in calls))
        assert {call.join() for call in calls} == {(OK, b"")}
        assert len(hub) == 64
        await hub.receive_many()


async def test_a_wait_for_room_ends_in_time(c: ctypes.CDLL) -> None:
    async with dss.open_hub() as hub:
        sender = hub.portal.native_sender(1)
        assert send(sender, b"first") == OK
        call = Call(c, sender, b"second", 0.05, waits_for_room=True)
        assert await anyio.to_thread.run_sync(call.join) == (TIMED_OUT, b"")
        assert await hub.receive_many() == [b"first"]


async def test_the_hubs_own_thread_does_not_wait_for_itself() -> None:
    wait = function("dss_send_wait", ctypes.c_char_p, ctypes.c_size_t, ctypes.c_double)
    async with dss.open_hub() as hub:
        sender = hub.portal.native_sender(1)
        assert wait(sender.address, b"1", 1, -1.0) == OK
        assert wait(sender.address, b"2", 1, -1.0) == DEADLOCK


async def test_a_thread_that_has_the_ident_of_one_that_has_polled_may_wait() -> None:
    """A pthread_t is the next thread's as soon as one has ended."""
    wait = function("dss_send_wait", ctypes.c_char_p, ctypes.c_size_t, ctypes.c_double)
    with dss.open_polled_hub() as hub:
        sender = hub.portal.native_sender(1)
        idents: list[int] = []
        statuses: list[int] = []

        def poll() -> None:
            idents.append(threading.get_ident())
            hub.poll()

        def send_two() -> None:
            idents.append(threading.get_ident())
            for item in (b"1", b"2"):
                statuses.append(wait(sender.address, item, 1, 10.0))

        for _ in range(50):  # until the system gives one again
            idents.clear()
            for act in (poll, send_two):
                thread = threading.Thread(target=act)
                thread.start()
                if act is poll:
                    thread.join()
            until(lambda: statuses)
            received = []
            while len(received) < 2:
                received += hub.poll()
            thread.join()
            assert (statuses, received) == ([OK, OK], [b"1", b"2"])
            statuses.clear()
            if idents[0] == idents[1]:
                break
        else:
            pytest.skip("this system gives no ident twice")


@pytest.mark.parametrize("end", ["hub", "abort", "close", "close_senders"])
async def test_every_end_releases_a_thousand_that_wait_for_room(c: ctypes.CDLL, end: str) -> None:
    async with dss.open_hub() as hub:
        portal = hub.register("lib")
        sender = portal.native_sender(1)
        send(sender, b"first")
        calls = [Call(c, sender, b"more", waits_for_room=True) for _ in range(1_000)]
        await eventually(lambda: len(hub.blocked()) == 1_000)
        if end == "abort":
            portal.abort()
        elif end == "close":
            portal.close()
        elif end == "close_senders":
            hub.close_senders()
        if end != "hub":
            await eventually(lambda: all(call.done for call in calls))
            assert len(hub) == (0 if end == "abort" else 1)
    assert {call.join() for call in calls} == {(RELEASED, b"")}
    assert send(sender, b"late") == CLOSED
    assert hub.statistics().late >= 1


# -- The end ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("end", ["hub", "abort"])
async def test_what_nobody_receives_is_handed_back_once(c: ctypes.CDLL, end: str) -> None:
    back: list[bytes] = []
    async with dss.open_hub() as hub:
        portal = hub.register("lib", on_undelivered=lambda item: back.append(bytes(item)))
        sender = portal.native_sender(256)
        pool = Pool(c, sender, 2, 50, way=GIVE)
        pool.join()
        received = [bytes(await hub.receive()) for _ in range(10)]
        if end == "abort":
            portal.abort()
            assert len(back) == 90
        else:
            counts = hub.statistics()
    assert len(back) == 90
    assert in_order(received + back) == {0: 50, 1: 50}
    counts = hub.statistics()
    assert (counts.sent, counts.received, counts.undelivered) == (100, 10, 90)
    gc.collect()
    assert pool.released == 100


async def test_what_came_through_the_hubs_own_portal_counts_as_undelivered(c: ctypes.CDLL) -> None:
    async with dss.open_hub() as hub:
        pool = Pool(c, hub.portal.native_sender(), 1, 7, way=GIVE)
        pool.join()
        assert await hub.receive() is not None
    assert hub.statistics().undelivered == 6
    gc.collect()
    assert pool.released == 7


async def test_after_a_graceful_close_the_rest_is_received_then_the_stream_ends() -> None:
    async with dss.open_hub() as hub:
        portal = hub.register("lib")
        sender = portal.native_sender()
        assert [send(sender, b"%d" % number) for number in range(3)] == [OK] * 3
        portal.close()
        assert send(sender, b"late") == CLOSED
        hub.portal.close()
        assert [item async for item in hub] == [b"0", b"1", b"2"]
        with pytest.raises(anyio.ClosedResourceError):
            portal.native_sender()


@pytest.mark.timeout(120)
async def test_what_was_accepted_before_the_end_is_never_lost(c: ctypes.CDLL) -> None:
    """Threads send as fast as they can while the hub ends, again and again."""
    for turn in range(30):
        back: list[Any] = []
        received: list[Any] = []
        async with dss.open_hub() as hub:
            portal = hub.register("lib", on_undelivered=back.append)
            sender = portal.native_sender(64)
            pool = Pool(c, sender, 3, way=SEND_WAIT if turn % 2 else SEND_AGAIN_WHILE_FULL)
            while len(received) < 200:
                received += await hub.receive_many()
            if turn % 3 == 0:
                portal.abort()
            elif turn % 3 == 1:
                portal.close()
        pool.stop()
        assert len(received) + len(back) == pool.accepted
        in_order(received + back)
        counts = hub.statistics()
        assert (counts.sent, counts.undelivered) == (pool.accepted, len(back))


async def test_ended_senders_leave_nothing_in_a_long_lived_hub() -> None:
    from dss_anyio._hub.base import mailbox_of

    async with dss.open_hub() as hub:
        for number in range(200):
            with hub.register(f"lib {number}") as portal:
                sender = portal.native_sender(4, overflow="drop_newest")
                for _ in range(6):
                    send(sender, b"item")
            assert len(await hub.receive_many()) == 4
        mailbox = mailbox_of(hub)
        assert mailbox.inlets is not None
        assert len(mailbox.inlets.all) < 3
        assert not mailbox.inside.waiters
        assert len(mailbox.registry.lanes) < 60
        assert hub.statistics().dropped == 400


def test_at_each_bytecode_of_making_a_sender_another_one_may_be_made() -> None:
    """The one that is made must not be taken for one that has ended."""
    for at in itertools.count():
        with dss.open_polled_hub() as hub:
            one, other = hub.register("one"), hub.register("other")
            senders: list[Any] = []
            interrupted = run_interrupted(
                lambda: senders.append(one.native_sender(4)),
                lambda: senders.append(other.native_sender(4)),
                at,
                only_shared=True,
            )
            for sender in senders:
                assert send(sender, b"item") == OK
            assert hub.poll() == [b"item"] * len(senders)
        if not interrupted:
            break
    assert at > 10


async def test_at_each_bytecode_of_making_a_sender_another_one_gets_its_turn() -> None:
    """An iteration has a short way for the only one: it must not be that of one of two."""
    for at in itertools.count():
        async with dss.open_hub[bytes]() as hub:
            one, other = hub.register("one"), hub.register("other")
            senders: list[Any] = []
            interrupted = run_interrupted(
                lambda: senders.append(one.native_sender()),
                lambda: senders.append(other.native_sender()),
                at,
                only_shared=True,
            )
            for sender in senders:
                for _ in range(8):
                    assert send(sender, b"%d" % senders.index(sender)) == OK
            received: list[bytes] = []
            async for item in hub:
                received.append(item)
                if len(received) == 8:
                    break
            assert len(set(received)) == len(senders)
        if not interrupted:
            break
    assert at > 10


def test_what_an_ended_sender_has_dropped_is_counted_once_whenever_somebody_looks() -> None:
    """At each bytecode of forgetting it somebody looks, and at each of looking it is forgotten."""
    from dss_anyio._hub.base import mailbox_of

    for swap in (False, True):
        for at in itertools.count():
            with dss.open_polled_hub() as hub:
                with hub.register("lib") as portal:
                    sender = portal.native_sender(1, overflow="drop_newest")
                    for _ in range(3):
                        send(sender, b"item")
                    assert hub.poll() == [b"item"]
                inlets = mailbox_of(hub).inlets
                assert inlets is not None

                def look() -> None:
                    counts = hub.statistics()
                    assert counts.dropped == counts.sources["lib"].dropped == 2

                acts = [inlets._forget_those_that_ended, look]
                first, second = acts[::-1] if swap else acts
                interrupted = run_interrupted(first, second, at, only_shared=True)
                look()
                inlets._forget_those_that_ended()
                assert not inlets.all
                look()
            if not interrupted:
                break
        assert at > 10


def test_two_threads_that_end_and_send_agree_in_a_polled_hub(c: ctypes.CDLL) -> None:
    for _ in range(30):
        with dss.open_polled_hub() as hub:
            back: list[Any] = []
            sender = hub.register("lib", on_undelivered=back.append).native_sender(32)
            pool = Pool(c, sender, 2, way=SEND_WAIT)
            received: list[Any] = []
            while len(received) < 100:
                hub.wait(10)
                received += hub.poll()
        pool.stop()
        assert len(received) + len(back) == pool.accepted
        in_order(received + back)
        assert send(sender, b"late") == CLOSED
    assert FULL < OK
