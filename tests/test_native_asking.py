"""``dss_ask``: a thread that never enters Python asks, and always gets an end (N4)."""

from __future__ import annotations

import ctypes
import gc
import itertools
from collections.abc import Callable
from typing import Any

import anyio
import anyio.to_thread
import pytest
from bytecodes import run_interrupted
from c_threads import (
    CLOSED,
    DEADLOCK,
    OK,
    REFUSED,
    RELEASED,
    TIMED_OUT,
    TOO_LARGE,
    TRUNCATED,
    UNANSWERED,
    Call,
    c,
    c_code,
    function,
    needs_the_extension,
    send,
)

import dss_anyio as dss
from dss_anyio.testing import eventually, until

pytestmark = [pytest.mark.anyio, needs_the_extension]
__all__ = ["c", "c_code"]  # fixtures


async def ask(c: ctypes.CDLL, sender: dss.native.NativeSender, question: bytes) -> Any:
    return await anyio.to_thread.run_sync(Call(c, sender, question).join)


async def test_handlers_answer_refuse_and_throw_away(c: ctypes.CDLL) -> None:
    kept: list[Any] = []
    errors: list[Any] = []

    async def later(request: bytes) -> bytes:
        await anyio.sleep(0)
        return b"later " + request

    def handler(item: bytes) -> Any:
        return {
            b"now": b"at once",
            b"later": None if item != b"later" else later(item),
            b"none": None,
            b"array": bytearray(b"array"),
            b"long": 100 * b"x",
            b"wrong": 7,
        }[item]

    async with dss.open_hub(on_error=lambda exc, name: errors.append((exc, name))) as hub:
        sender = hub.register("lib", decode=lambda raw: kept.append(raw) or raw).native_sender()
        hub.task_group.start_soon(hub.serve, handler)
        assert await ask(c, sender, b"now") == (OK, b"at once")
        assert await ask(c, sender, b"later") == (OK, b"later later")
        assert await ask(c, sender, b"none") == (OK, b"")
        assert await ask(c, sender, b"array") == (OK, b"array")
        assert await ask(c, sender, b"long") == (TRUNCATED, 64 * b"x")
        assert await ask(c, sender, b"unknown") == (REFUSED, b"KeyError: b'unknown'")
        assert not errors
        status, text = await ask(c, sender, b"wrong")
        assert (status, text[:48]) == (
            REFUSED, b"TypeError: the answer to dss_ask must be bytes, ",
        )  # fmt: skip
        ((exc, name),) = errors
        assert (type(exc), name) == (TypeError, "lib")
        assert len(kept) == 7  # each was decoded
        counts = hub.statistics()
        assert (counts.requests.answered, counts.requests.refused) == (6, 1)
        assert counts.requests.open == 0
        assert counts.sources["lib"].received == 7


async def test_a_token_may_be_answered_later_and_from_elsewhere_or_be_forgotten(
    c: ctypes.CDLL,
) -> None:
    async with dss.open_hub() as hub:
        sender = hub.register("lib").native_sender()
        call = Call(c, sender, b"question", 30.0)
        request = await hub.receive()
        assert isinstance(request, dss.Request)
        assert (request.item, request.source, request.abandoned) == (b"question", "lib", False)
        assert request.remaining is not None
        assert 20 < request.remaining <= 30
        (blocked,) = hub.blocked()
        assert (blocked.source, blocked.call) == ("lib", "dss_ask")
        assert await anyio.to_thread.run_sync(request.reply, b"answer")
        assert not request.reply(b"another")
        assert call.join() == (OK, b"answer")
        del request
        call = Call(c, sender, b"question")
        request = await hub.receive()
        del request
        assert call.join() == (UNANSWERED, b"")
        async with await hub_receives(hub, call := Call(c, sender, b"question")):
            pass
        assert call.join() == (UNANSWERED, b"")


async def hub_receives(hub: dss.Hub[Any], _: Call) -> Any:
    return await hub.receive()


@pytest.mark.parametrize("in_task", [False, True])
async def test_an_asker_whose_time_is_over_cancels_its_handler(
    c: ctypes.CDLL, in_task: bool
) -> None:
    ended = anyio.Event()

    async def handler(_: bytes) -> None:
        try:
            await anyio.sleep_forever()
        finally:
            ended.set()

    async with dss.open_hub() as hub:
        sender = hub.portal.native_sender()
        if in_task:
            hub.task_group.start_soon(hub.serve, handler)
        call = Call(c, sender, b"question", 0.05)
        if not in_task:
            request = await hub.receive()
            with anyio.fail_after(10):
                await request.wait_abandoned()  # although nobody waits for another item
            assert request.abandoned
            assert not request.reply(b"late")
            ended.set()
        with anyio.fail_after(10):
            await ended.wait()
        assert call.join() == (TIMED_OUT, b"")
        await eventually(lambda: hub.statistics().requests.abandoned == 1)


async def test_a_question_whose_asker_has_gone_is_skipped(c: ctypes.CDLL) -> None:
    async with dss.open_hub() as hub:
        sender = hub.register("lib").native_sender(2)
        call = Call(c, sender, b"question", 0.01)
        assert await anyio.to_thread.run_sync(call.join) == (TIMED_OUT, b"")
        assert send(sender, b"item") == OK
        assert await hub.receive() == b"item"
        assert hub.statistics().sources["lib"][:4] == (1, 0, 0, 1)
        assert [send(sender, b"1"), send(sender, b"2")] == [OK, OK]
        call = Call(c, sender, b"no room", 0.01)
        assert await anyio.to_thread.run_sync(call.join) == (TIMED_OUT, b"")
        assert await hub.receive_many() == [b"1", b"2"]


async def test_a_question_that_is_given_up_and_never_received_is_counted(c: ctypes.CDLL) -> None:
    async with dss.open_hub() as hub:
        portal = hub.register("lib")
        call = Call(c, portal.native_sender(2), b"question", 0.01)
        assert await anyio.to_thread.run_sync(call.join) == (TIMED_OUT, b"")
        portal.close()
    assert hub.statistics().requests == (0, 0, 0, 0, 1, 0)


async def test_the_end_of_the_hub_releases_those_who_ask_before_it_stops_the_library(
    c: ctypes.CDLL,
) -> None:
    calls: list[Call] = []
    left: list[Any] = []
    async with dss.open_hub() as hub:
        portal = hub.register("lib", stop=lambda: left.extend(call.join() for call in calls))
        sender = portal.native_sender(3)
        calls += [Call(c, sender, b"question") for _ in range(6)]
        await eventually(lambda: len(hub.blocked()) == 6)
        kept = [await hub.receive(), await hub.receive()]
        await eventually(lambda: len(sender) == 3)
    assert left == [(RELEASED, b"")] * 6
    assert [request.abandoned for request in kept] == [True, True]
    counts = hub.statistics().requests
    assert (counts.released, counts.open) == (5, 0)  # two received, three queued; one had no room
    assert hub.statistics().sources["lib"].undelivered == 3
    assert hub.statistics().sources["lib"].registered is False


@pytest.mark.parametrize("end", ["abort", "source"])
async def test_every_end_releases_those_who_ask(c: ctypes.CDLL, end: str) -> None:
    """Some wait for room, some in the queue, some for a handler, some for a forgotten answer."""
    told: list[str] = []
    begun: list[bytes] = []

    async def handler(item: bytes) -> None:
        begun.append(item)
        try:
            await anyio.sleep_forever()
        finally:
            told.append("cancelled")

    async with dss.open_hub() as hub:
        stopped: list[bool] = []
        async with hub.open_source(
            "lib",
            lambda portal: (portal, portal.native_sender(100)),
            # The library joins its threads here, which are blocked in our calls.
            lambda _: stopped.append(all(call.join() == (RELEASED, b"") for call in calls)),
        ) as source:
            portal, sender = source.value
            calls: list[Call] = []
            hub.task_group.start_soon(hub.serve, handler)
            calls += [Call(c, sender, b"question") for _ in range(300)]
            await eventually(lambda: len(hub.blocked()) == 300)
            await eventually(lambda: len(begun) == 64 and len(sender) == 100)
            if end == "abort":
                portal.abort()
        assert stopped == [True]
        await eventually(lambda: hub.statistics().requests.open == 0)
        await eventually(lambda: len(told) == 64)
    counts = hub.statistics().requests
    assert counts.open == 0
    assert counts.abandoned == 0
    assert counts.released >= 64


async def test_after_a_graceful_close_what_was_asked_is_still_answered(c: ctypes.CDLL) -> None:
    async with dss.open_hub() as hub:
        portal = hub.register("lib")
        sender = portal.native_sender()
        first, second = Call(c, sender, b"1"), Call(c, sender, b"2")
        await eventually(lambda: len(sender) == 2)
        request = await hub.receive()
        portal.close()
        assert await ask(c, sender, b"late") == (CLOSED, b"")
        assert request.reply(b"first")
        request = await hub.receive()
        assert request.reply(b"second")
        assert {first.join(), second.join()} == {(OK, b"first"), (OK, b"second")}


async def test_the_hubs_own_thread_is_refused() -> None:
    ask_here = function(
        "dss_ask", ctypes.c_char_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_size_t,
        ctypes.c_void_p, ctypes.c_double,
    )  # fmt: skip
    async with dss.open_hub() as hub:
        sender = hub.portal.native_sender(item_size=4)
        assert ask_here(sender.address, b"1", 1, None, 0, None, -1.0) == DEADLOCK
        assert ask_here(sender.address, b"12345", 5, None, 0, None, -1.0) == TOO_LARGE
        assert not len(hub)
    assert ask_here(sender.address, b"1", 1, None, 0, None, -1.0) == CLOSED


@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest"])
async def test_a_question_that_is_dropped_is_unanswered(c: ctypes.CDLL, overflow: Any) -> None:
    async with dss.open_hub() as hub:
        sender = hub.portal.native_sender(1, overflow=overflow)
        first = Call(c, sender, b"first")
        await eventually(lambda: len(sender) == 1)
        second = Call(c, sender, b"second")
        dropped, other = (first, second) if overflow == "drop_oldest" else (second, first)
        assert await anyio.to_thread.run_sync(dropped.join) == (UNANSWERED, b"")
        request = await hub.receive()
        request.reply(b"answer")
        assert other.join() == (OK, b"answer")
        assert hub.statistics().dropped == 1


def test_in_a_polled_hub_handlers_answer_and_hear_who_gives_up(c: ctypes.CDLL) -> None:
    with dss.open_polled_hub() as hub:
        sender = hub.register("lib").native_sender()
        call = Call(c, sender, b"question")
        assert hub.wait(10)
        assert hub.dispatch(lambda item: item + b"!") == 1
        assert call.join() == (OK, b"question!")
        call = Call(c, sender, b"question", 0.05)
        assert hub.wait(10)
        (request,) = hub.poll()
        assert call.join() == (TIMED_OUT, b"")
        assert hub.wait(0.1) is False
        assert hub.poll() == []
        assert request.abandoned
        last = Call(c, sender, b"question")
        until(lambda: len(hub) == 1)
    assert last.join() == (RELEASED, b"")


async def test_a_thousand_ask_at_once_and_each_gets_its_own_answer(c: ctypes.CDLL) -> None:
    async with dss.open_hub() as hub:
        sender = hub.portal.native_sender(16)
        hub.task_group.start_soon(hub.serve, lambda item: item)
        calls = [Call(c, sender, b"%d" % number) for number in range(1000)]
        await eventually(lambda: all(call.done for call in calls))
        assert [call.join() for call in calls] == [(OK, b"%d" % n) for n in range(1000)]


# -- A question on its way out of the queue, and the end -------------------------------------------


def test_the_end_releases_who_asks_although_the_one_before_had_given_up(c: ctypes.CDLL) -> None:
    with dss.open_polled_hub[Any]() as hub:
        portal = hub.register("lib")
        sender = portal.native_sender()
        assert Call(c, sender, b"gone", 0.01).join() == (TIMED_OUT, b"")
        call = Call(c, sender, b"kept")
        until(lambda: len(sender) == 2)
        portal.close()
        (request,) = hub.poll()
        assert request.item == b"kept"
        assert not call.done
    until(lambda: call.done)
    assert call.join() == (RELEASED, b"")
    assert request.abandoned


@pytest.mark.parametrize("way", ["poll", "dispatch", "receive", "iterate"])
async def test_the_end_releases_who_asks_wherever_the_portal_was_closed_meanwhile(
    c: ctypes.CDLL, way: str
) -> None:
    """At each bytecode of receiving the question its portal is closed; its token is kept."""
    for at in itertools.count():
        kept: list[Any] = []
        with dss.open_polled_hub[Any]() as polled:
            async with dss.open_hub[Any]() as hub:

                def iterate(hub: dss.Hub[Any] = hub, kept: list[Any] = kept) -> None:
                    try:
                        hub.__anext__().send(None)
                    except StopIteration as done:
                        kept.append(done.value)

                ways: dict[str, Callable[[], object]] = {
                    "poll": lambda polled=polled, kept=kept: kept.extend(polled.poll()),
                    "dispatch": lambda polled=polled, kept=kept: polled.dispatch(keep(kept)),
                    "receive": lambda hub=hub, kept=kept: kept.append(hub.receive_nowait()),
                    "iterate": iterate,
                }
                portal = (polled if way in ("poll", "dispatch") else hub).register("lib")
                sender = portal.native_sender()
                call = Call(c, sender, b"question")
                until(lambda sender=sender: len(sender) == 1)
                interrupted = run_interrupted(ways[way], portal.close, at, only_shared=True)
                if way != "dispatch":
                    assert [request.item for request in kept] == [b"question"]
                    assert not call.done
        until(lambda call=call: call.done)
        assert call.join()[0] in ((RELEASED, OK) if way == "dispatch" else (RELEASED,))
        if not interrupted:
            break
    assert at > 10


def keep(kept: list[Any]) -> Callable[[Any], bytes]:
    def handler(item: Any) -> bytes:
        kept.append(item)
        return b""

    return handler


def test_an_answer_in_the_middle_of_a_close_leaves_no_queue_open(c: ctypes.CDLL) -> None:
    """The last question is settled when its portal refuses already, and its queue does not."""
    for at in itertools.count():
        with dss.open_polled_hub[Any]() as hub:
            portal = hub.register("lib")
            sender = portal.native_sender()
            call = Call(c, sender, b"question")
            until(lambda sender=sender: len(sender) == 1)
            (request,) = hub.poll()
            interrupted = run_interrupted(
                portal.close, lambda request=request: request.reply(b"answer"), at, only_shared=True
            )
            request.reply(b"answer")
            assert call.join() == (OK, b"answer")
            assert send(sender, b"late") == CLOSED
        if not interrupted:
            break
    assert at > 10


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_while_a_question_is_received_leaves_nobody_waiting(c: ctypes.CDLL) -> None:
    """It is in its queue still, or was received, or its asker has an end.

    (A request that is struck while it is made has nothing to forget, and its destructor says so.)
    """
    for at in itertools.count():
        gc.freeze()  # all hubs of a test are kept until its end: see ``little_to_collect``
        if not struck_while_it_receives(c, at):
            break
    assert at > 100


def struck_while_it_receives(c: ctypes.CDLL, at: int) -> bool:
    def strike() -> None:
        raise KeyboardInterrupt

    received: list[Any] = []
    with dss.open_polled_hub[Any]() as hub:
        sender = hub.portal.native_sender(1)
        call = Call(c, sender, b"question", 10)
        until(lambda: len(sender) == 1)
        try:
            struck = run_interrupted(lambda: received.extend(hub.poll()), strike, at)
        except KeyboardInterrupt:
            struck = True
        received += hub.poll()
        for request in received:
            request.reply(b"answer")
        if not received:
            gc.collect()  # a question that is struck while it is made is left in a cycle
        assert call.join()[0] in (OK, UNANSWERED)
    return struck
