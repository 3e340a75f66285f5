"""However a request ends: what the asker gets, what the token says, and that it is counted.

========== ========================================================== ==========================
ending     brought about here by                                      the asker gets
========== ========================================================== ==========================
answered   ``reply``                                                  the value
refused    ``reply_error``, an error in ``decode``                    that exception
unanswered the token forgotten, its block left, dropped by the policy ``NoReplyError``
released   the hub's end, the portal's abort                          Broken-, ClosedResourceError
abandoned  a time limit, a cancelled future or task, an exception     ``TimeoutError``, or that
========== ========================================================== ==========================
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import ctypes
import gc
import math
import threading
import time
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from bytecodes import run_interrupted
from conftest import threads, until

import dss_anyio as dss
from dss_anyio._request import Question

pytestmark = pytest.mark.anyio


class OopsError(Exception):
    pass


class Asker:
    """Somebody who asks in one of the three ways, in a thread of its own."""

    def __init__(self, how: str, portal: dss.Portal[Any], item: object = "question") -> None:
        self.outcome: object = None
        self.future: concurrent.futures.Future[Any] | None = None
        self._ask = {
            "request": lambda: portal.request(item),
            "request_soon": lambda: self._soon(portal, item),
            "arequest": lambda: anyio.run(portal.arequest, item),
        }[how]
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _soon(self, portal: dss.Portal[Any], item: object) -> object:
        self.future = portal.request_soon(item)
        return self.future.result(20)

    def _run(self) -> None:
        try:
            self.outcome = self._ask()
        except BaseException as exc:
            self.outcome = exc

    async def end(self) -> object:
        with anyio.fail_after(20):
            while self.thread.is_alive():
                await anyio.sleep(0.001)
        return self.outcome


HOW = pytest.mark.parametrize("how", ["request", "request_soon", "arequest"])


async def receive_request(hub: dss.Hub[Any]) -> dss.Request[Any]:
    with anyio.fail_after(10):
        request = await hub.receive()
    assert isinstance(request, dss.Request)
    return request


def adds_up(hub: dss.Hub[Any] | dss.PolledHub[Any], **requests: int) -> None:
    """Nobody is blocked, each request is counted as what it ended as, and the items add up."""
    until(lambda: hub.blocked() == [])
    counts = hub.statistics()
    assert counts.requests._asdict() == dict.fromkeys(counts.requests._fields, 0) | requests
    assert counts.sent == counts.received + counts.queued + counts.dropped + counts.undelivered


# -- The five endings ------------------------------------------------------------------------------


@HOW
async def test_it_is_answered(how: str) -> None:
    async with dss.open_hub[Any]() as hub:
        asker = Asker(how, hub.register("library"), "what")
        request = await receive_request(hub)
        assert (request.item, request.source) == ("what", "library")
        assert request.remaining is None
        [blocked] = hub.blocked()
        assert blocked[:2] == ("library", how)
        assert hub.statistics().requests.open == 1
        assert request.reply("answer")
        assert await asker.end() == "answer"
        assert not request.reply("another")
        assert not request.reply_error(OopsError())
        assert not request.abandoned
        adds_up(hub, answered=1)


@HOW
@pytest.mark.parametrize("as_class", [False, True])
async def test_it_is_refused(how: str, as_class: bool) -> None:
    error = OopsError("no")
    async with dss.open_hub[Any]() as hub:
        asker = Asker(how, hub.portal)
        request = await receive_request(hub)
        assert request.source is None
        assert request.reply_error(OopsError if as_class else error)
        outcome = await asker.end()
        assert type(outcome) is OopsError if as_class else outcome is error
        assert not request.reply(1)
        adds_up(hub, refused=1)


@HOW
async def test_an_error_of_decode_is_the_answer_and_is_reported(how: str) -> None:
    error, reported = OopsError("decode"), list[Any]()

    def decode(item: object) -> object:
        if item == "bad":
            raise error
        return ("decoded", item)

    async with dss.open_hub[Any](on_error=lambda *each: reported.append(each)) as hub:
        portal = hub.register("library", decode=decode, on_undelivered=reported.append)
        bad, good = Asker(how, portal, "bad"), None
        until(hub.blocked)
        good = Asker(how, portal, "good")
        request = await receive_request(hub)
        assert request.item == ("decoded", "good")
        request.reply()
        assert await bad.end() is error
        assert await good.end() is None
        with contextlib.suppress(anyio.WouldBlock):
            hub.receive_nowait()
        assert reported == [(error, "library")]
        adds_up(hub, refused=1, answered=1)


async def left(request: dss.Request[Any]) -> None:
    with request:
        pass


async def left_async(request: dss.Request[Any]) -> None:
    async with request:
        await anyio.lowlevel.checkpoint()


async def left_by_an_error(request: dss.Request[Any]) -> None:
    with pytest.raises(OopsError):
        with request:
            raise OopsError


async def forgotten(request: dss.Request[Any]) -> None:
    del request


@HOW
@pytest.mark.parametrize("forget", [left, left_async, left_by_an_error, forgotten])
async def test_it_is_thrown_away(
    how: str, forget: Callable[[dss.Request[Any]], Awaitable[None]]
) -> None:
    async with dss.open_hub[Any]() as hub:
        asker = Asker(how, hub.portal)
        await forget(await receive_request(hub))
        assert isinstance(await asker.end(), dss.NoReplyError)
        adds_up(hub, unanswered=1)


async def test_a_block_in_which_it_was_answered_changes_nothing() -> None:
    async with dss.open_hub[Any]() as hub:
        asker = Asker("request", hub.portal)
        with await receive_request(hub) as request:
            request.reply(1)
        assert await asker.end() == 1
        adds_up(hub, answered=1)


@HOW
@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
async def test_it_is_dropped_by_the_policy(how: str, policy: Any) -> None:
    undelivered: list[object] = []
    async with dss.open_hub[Any](1, overflow=policy) as hub:
        portal = hub.register("library", on_undelivered=undelivered.append)
        if policy == "drop_newest":
            portal.send("item")
        asker = Asker(how, portal)
        if policy == "drop_oldest":
            until(lambda: len(hub))
            portal.send("item")
        assert isinstance(await asker.end(), dss.NoReplyError)
        assert await hub.receive() == "item"
        assert undelivered == []  # whoever asked was told
        assert hub.statistics().dropped == 1
        adds_up(hub, unanswered=1)


ENDS: dict[str, Callable[[dss.Hub[Any], dss.Portal[Any]], object]] = {
    "the hub is closed": lambda hub, _: hub.close(),
    "its tasks are cancelled": lambda hub, _: hub.task_group.cancel_scope.cancel(),
    "its portal is aborted": lambda _, portal: portal.abort(),
}


@HOW
@pytest.mark.parametrize("state", ["queued", "being answered", "waiting for room"])
@pytest.mark.parametrize("end", ENDS)
async def test_the_end_releases_it(how: str, state: str, end: str) -> None:
    request: dss.Request[Any] | None = None
    async with dss.open_hub[Any](1) as hub:
        portal = hub.register("library")
        if state == "waiting for room":
            hub.portal.send("item")
        asker = Asker(how, portal)
        if state == "being answered":
            request = await receive_request(hub)
        else:
            until(hub.blocked)
        ENDS[end](hub, portal)
        if end != "its tasks are cancelled":
            outcome = await asker.end()
    if end == "its tasks are cancelled":
        asker.thread.join(10)
        outcome = asker.outcome
    expected = anyio.ClosedResourceError if "aborted" in end else anyio.BrokenResourceError
    assert isinstance(outcome, expected)
    if request is not None:
        assert request.abandoned
        assert not request.reply("too late")
        with anyio.fail_after(5):
            await request.wait_abandoned()
    adds_up(hub, released=1)


@HOW
async def test_a_graceful_end_lets_what_was_accepted_be_answered(how: str) -> None:
    async with dss.open_hub[Any](1) as hub:
        portal = hub.register("library")
        asker = Asker(how, portal)
        until(lambda: len(hub))
        other = Asker(how, portal)  # waits for room
        until(lambda: hub.statistics().tasks_waiting_send)
        portal.close()
        assert isinstance(await other.end(), anyio.ClosedResourceError)
        hub.close_senders()
        (await receive_request(hub)).reply("answer")
        assert await asker.end() == "answer"
        with pytest.raises(anyio.EndOfStream):
            await hub.receive()
        adds_up(hub, answered=1, released=1)


async def test_the_end_of_the_hub_releases_who_asked_through_a_portal_that_was_closed() -> None:
    async with dss.open_hub[Any]() as hub:
        portal = hub.register("library")
        asker = Asker("request", portal)
        request = await receive_request(hub)
        portal.close()
        hub.register("another").close()  # forgets the lanes of closed portals
    asker.thread.join(10)
    assert isinstance(asker.outcome, anyio.BrokenResourceError)
    assert not request.reply(1)


async def test_the_end_of_a_source_releases_who_asked_through_a_portal_that_was_closed() -> None:
    def start(portal: dss.Portal[str]) -> Asker:
        return Asker("request", portal)

    def stop(asker: Asker) -> None:
        asker.thread.join()  # would wait for ever

    async with dss.open_hub[Any]() as hub:
        async with hub.open_source("library", start, stop, stop_timeout=5) as source:
            request = await receive_request(hub)
            source.portal.close()
            hub.register("another").close()  # forgets the lanes of closed portals
        assert isinstance(source.value.outcome, anyio.ClosedResourceError)
        assert request.abandoned


# -- Giving up -------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["queued", "being answered", "waiting for room"])
async def test_it_is_given_up_when_its_time_is_over(state: str) -> None:
    async with dss.open_hub[Any](1) as hub:
        if state == "waiting for room":
            hub.portal.send("item")
        outcome: list[object] = []

        def ask() -> None:
            with pytest.raises(TimeoutError, match="within 0.2 s"):
                hub.portal.request("question", timeout=0.2)
            outcome.append("given up")

        with threads(ask):
            if state == "being answered":
                request = await receive_request(hub)
                assert request.remaining is not None
                assert 0 < request.remaining <= 0.2
                with anyio.fail_after(10):
                    await request.wait_abandoned()
                assert request.abandoned
                assert not request.reply("too late")
                assert request.remaining == 0
        assert outcome == ["given up"]
        hub.portal.send_nowait("next") if state == "being answered" else None
        seen = [] if len(hub) == 0 else await receive_all(hub)
        assert "question" not in seen
        adds_up(hub, abandoned=1)


async def receive_all(hub: dss.Hub[Any]) -> list[object]:
    seen: list[object] = []
    with contextlib.suppress(anyio.WouldBlock):
        while True:
            seen.append(hub.receive_nowait())
    return seen


async def test_a_request_that_was_given_up_in_the_queue_is_skipped_and_counted() -> None:
    async with dss.open_hub[Any]() as hub:
        future = hub.portal.request_soon("skipped")
        hub.portal.send("item")
        assert future.cancel()
        assert await receive_all(hub) == ["item"]
        counts = hub.statistics()
        assert (counts.received, counts.undelivered) == (1, 1)
        adds_up(hub, abandoned=1)


async def test_a_future_can_be_cancelled_until_it_is_answered() -> None:
    async with dss.open_hub[Any]() as hub:
        future = hub.portal.request_soon("question")
        request = await receive_request(hub)
        assert future.cancel()
        assert request.abandoned
        assert not request.reply(1)
        assert concurrent.futures.wait([future], 5).done == {future}
        again = hub.portal.request_soon("question")
        assert (await receive_request(hub)).reply(2)
        assert not again.cancel()
        assert again.result() == 2
        adds_up(hub, abandoned=1, answered=1)


async def test_a_task_that_is_cancelled_gives_up(backend_name: str) -> None:
    async with dss.open_hub[Any]() as hub:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(hub.portal.arequest, "question")
                request = await receive_request(hub)
                scope.cancel()
        assert request.abandoned
        if backend_name == "asyncio":
            task = asyncio.ensure_future(hub.portal.arequest("another"))
            request = await receive_request(hub)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert request.abandoned
        adds_up(hub, abandoned=1 + (backend_name == "asyncio"))


async def test_an_exception_that_is_set_in_the_thread_is_seen_within_a_second() -> None:
    async with dss.open_hub[Any]() as hub:
        asker = Asker("request", hub.portal)
        request = await receive_request(hub)
        ident = ctypes.c_ulong(asker.thread.ident or 0)
        assert ctypes.pythonapi.PyThreadState_SetAsyncExc(ident, ctypes.py_object(OopsError)) == 1
        with anyio.fail_after(3):
            await request.wait_abandoned()
        assert isinstance(await asker.end(), OopsError)
        adds_up(hub, abandoned=1)


# -- Races: whoever loses is told ------------------------------------------------------------------


ACTS: dict[str, Callable[[Question], bool]] = {
    "reply": lambda question: question.settle("answered", 1),
    "refuse": lambda question: question.settle("refused", OopsError()),
    "forget": lambda question: question.settle("unanswered", "why"),
    "give up": lambda question: question.settle("abandoned"),
    "release": lambda question: question.settle("released", OopsError),
}


@pytest.mark.parametrize("second", ACTS)
@pytest.mark.parametrize("first", ACTS)
def test_of_two_that_settle_it_one_wins_and_the_asker_is_told_once(first: str, second: str) -> None:
    """At whichever bytecode of the first the second one comes. Guards ``Question.settle``."""
    for at in range(1000):
        with dss.open_polled_hub[Any]() as hub:
            told: list[None] = []
            endings = hub._mailbox.endings
            question = Question(
                hub.portal._lane, "request", lambda: told.append(None), None, endings
            )  # noqa: B023, E501
            watched: list[None] = []
            question.watch(lambda: watched.append(None))  # noqa: B023
            won: list[bool] = []
            interrupted = run_interrupted(
                lambda: won.append(ACTS[first](question)),  # noqa: B023
                lambda: won.append(ACTS[second](question)),  # noqa: B023
                at,
            )
            if not interrupted:
                assert at > 10
                return
            assert sorted(won) == [False, True]
            counts = hub.statistics().requests
            assert sum(counts) - counts.open == 1
            assert len(told) == (0 if counts.abandoned else 1)
            assert len(watched) == counts.abandoned + counts.released
    raise AssertionError


@pytest.mark.parametrize("act", ["reply", "cancel"])
def test_of_a_reply_and_the_cancellation_of_the_future_one_wins(act: str) -> None:
    """Guards ``Question.finish``."""
    for at in range(1000):
        with dss.open_polled_hub[Any]() as hub:
            future = hub.portal.request_soon("question")
            [request] = hub.poll()
            assert isinstance(request, dss.Request)
            won: dict[str, bool] = {}
            acts = {
                "reply": lambda: won.update(reply=request.reply(1)),  # noqa: B023
                "cancel": lambda: won.update(cancel=future.cancel()),  # noqa: B023
            }
            other = "cancel" if act == "reply" else "reply"
            interrupted = run_interrupted(acts[act], acts[other], at)
            if not interrupted:
                acts[other]()
            assert sorted(won.values()) == [False, True]
            assert future.done()
            assert future.cancelled() == won["cancel"]
            adds_up(hub, answered=int(won["reply"]), abandoned=int(won["cancel"]))
            if not interrupted:
                return
    raise AssertionError


@pytest.mark.parametrize("policy", ["block", "drop_oldest", "drop_newest"])
@pytest.mark.parametrize("size", [0, 1, math.inf])
@pytest.mark.parametrize("end", ["close", "abort", "end"])
def test_wherever_the_end_comes_in_a_request_it_is_released(
    end: str, size: float, policy: Any
) -> None:
    """Guards the order of ``Mailbox.ask``: first enter, then look, then put."""
    for at in range(1000):
        hub = dss.open_polled_hub[Any](size, overflow=policy)
        portal = hub.register("library")
        ends = {"close": portal.close, "abort": portal.abort, "end": hub.close}
        futures: list[concurrent.futures.Future[Any]] = []

        def ask(portal: Any = portal, futures: Any = futures) -> None:
            with contextlib.suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
                futures.append(portal.request_soon("question"))

        interrupted = run_interrupted(ask, ends[end], at)
        if end == "close":  # gracefully: what was accepted may still be answered
            hub.close()
        for future in futures:
            assert future.done() or not interrupted
        if interrupted:
            assert hub.blocked() == []
            assert hub.statistics().requests.open == 0
            assert end != "abort" or hub.poll() == []  # what came late is passed over
        hub.close()
        assert len(hub) == 0
        if not interrupted:
            assert at > 20
            return
    raise AssertionError


@pytest.mark.parametrize("how", ["close", "abort", "end"])
def test_wherever_the_end_comes_a_request_does_not_stay_in_the_line(how: str) -> None:
    """Guards the look at the refusal in ``Mailbox.ask``, after the request got into the line."""
    for at in range(1000):
        with dss.open_polled_hub[Any](1) as hub:
            hub.portal.send("item")
            portal = hub.register("library")
            end = {"close": portal.close, "abort": portal.abort, "end": hub.close}[how]
            futures: list[concurrent.futures.Future[Any]] = []

            def ask(portal: Any = portal, futures: Any = futures) -> None:
                with contextlib.suppress(anyio.ClosedResourceError, anyio.BrokenResourceError):
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


async def test_a_token_that_is_forgotten_while_it_waits_for_room_is_not_kept_by_its_place() -> None:
    """Guards ``blocked.item = None`` in ``Mailbox._admit``."""
    async with dss.open_hub[Any](1) as hub:
        hub.portal.send("item")
        asker = Asker("request", hub.portal)
        until(lambda: hub.statistics().tasks_waiting_send)
        assert await hub.receive() == "item"
        await forgotten(await receive_request(hub))
        assert isinstance(await asker.end(), dss.NoReplyError)


# -- What is passed on -----------------------------------------------------------------------------


def made(refs: list[weakref.ref[OopsError]]) -> OopsError:
    error = OopsError()
    refs.append(weakref.ref(error))
    return error


async def test_a_handlers_exception_shows_both_sides_and_leaves_no_cycle() -> None:
    refs: list[weakref.ref[OopsError]] = []
    names: set[str] = set()

    async def the_handler(_: object) -> None:
        raise made(refs)

    def the_asker(ask: Callable[[], object]) -> None:
        try:
            ask()
        except OopsError as exc:
            traceback = exc.__traceback__
            while traceback is not None:
                names.add(traceback.tb_frame.f_code.co_name)
                traceback = traceback.tb_next

    async with dss.open_hub[Any]() as hub:
        hub.task_group.start_soon(hub.serve, the_handler)
        portal = hub.portal
        gc.collect()
        gc.disable()
        try:
            for ask in (
                lambda: portal.request(1),
                lambda: portal.request_soon(1).result(),
                lambda: portal.call(the_handler, 1),
                lambda: portal.start_task_soon(the_handler, 1).result(),
            ):
                names.clear()
                await anyio.to_thread.run_sync(the_asker, ask)
                await anyio.wait_all_tasks_blocked()
                assert {"the_handler", "the_asker"} <= names
            assert [ref() for ref in refs] == [None] * 4
        finally:
            gc.enable()


async def test_items_and_requests_of_a_thread_arrive_in_its_order() -> None:
    async with dss.open_hub[Any]() as hub:
        portal = hub.register("library")
        futures = []
        for number in range(0, 60, 3):
            portal.send(number)
            futures.append(portal.request_soon(number + 1))
            portal.send(number + 2)
        seen = await hub.receive_many()
        assert [getattr(each, "item", each) for each in seen] == list(range(60))
        seen.clear()
    assert all(future.done() for future in futures)


async def test_a_request_may_be_sent_on_and_be_answered_elsewhere() -> None:
    async with dss.open_hub[Any]() as here, dss.open_hub[Any]() as elsewhere:
        asker = Asker("request", here.portal)
        elsewhere.register("other", decode=lambda item: item).send(await receive_request(here))
        assert (await receive_request(elsewhere)).reply("answer")
        assert await asker.end() == "answer"


async def test_a_rendezvous_may_be_a_question() -> None:
    async with dss.open_hub[Any](0) as hub:
        asker = Asker("request", hub.portal)
        (await receive_request(hub)).reply("answer")
        assert await asker.end() == "answer"


async def test_a_request_in_the_hubs_own_thread_is_refused_at_once() -> None:
    async with dss.open_hub[Any]() as hub:
        with pytest.raises(RuntimeError, match="arequest"):
            hub.portal.request("question")
        assert len(hub) == 0
    with dss.open_polled_hub[Any]() as polled:
        with pytest.raises(RuntimeError, match="request_soon"):
            polled.portal.request("question")


async def test_a_polled_hub_answers_now_or_later() -> None:
    with dss.open_polled_hub[Any]() as hub:
        portal = hub.register("library")
        now, later = Asker("request", portal, "now"), Asker("arequest", portal, "later")
        requests: dict[str, dss.Request[Any]] = {}
        while len(requests) < 2:
            hub.wait(10)
            requests.update((each.item, each) for each in hub.poll())
        assert requests["now"].reply(1)
        assert await now.end() == 1
        with threads(lambda: requests["later"].reply(2)):
            pass
        assert await later.end() == 2
        adds_up(hub, answered=2)


# -- Callbacks -------------------------------------------------------------------------------------


async def call(func: Callable[..., object], *args: object) -> object:
    try:
        return await anyio.to_thread.run_sync(func, *args)
    except Exception as exc:
        return exc


async def test_a_callback_with_a_default_never_raises_and_says_on_the_hubs_side_why() -> None:
    reported: list[tuple[str, str | None]] = []

    def on_error(exc: BaseException, source: str | None) -> None:
        reported.append((type(exc).__name__, source))

    def handle(item: object) -> object:
        if item == "fail":
            raise OopsError
        return item

    async with dss.open_hub[Any](on_error=on_error) as hub:
        portal = hub.register("library")
        callback = portal.request_callback(timeout=5, default=b"")
        assert callback("own thread") == b""
        assert await call(portal.request_callback(timeout=0, default=b""), "no time") == b""
        hub.task_group.start_soon(hub.serve, handle)
        assert await call(callback, "item") == "item"
        assert await call(callback, 1, 2) == (1, 2)
        assert await call(callback, "fail") == b""
        broken = portal.request_callback(lambda: 1 / 0, timeout=5, default=b"")
        assert await call(broken) == b""
        await anyio.wait_all_tasks_blocked()
        assert sorted(reported) == [
            ("OopsError", "library"),
            ("RuntimeError", "library"),
            ("ZeroDivisionError", "library"),
        ]
        late = hub.statistics().late
        portal.abort()
        assert callback("closed") == b""
    assert callback("late") == b""
    assert broken() == b""  # pack is not called
    assert hub.statistics().late == late + 3
    assert len(reported) == 3


async def test_a_callback_without_a_default_raises_what_a_request_does() -> None:
    def handle(item: object) -> object:
        raise OopsError(item)

    async with dss.open_hub[Any](on_error=lambda *_: None) as hub:
        callback = hub.portal.request_callback(timeout=5)
        with pytest.raises(RuntimeError, match="arequest"):
            callback("own thread")
        hub.task_group.start_soon(hub.serve, handle)
        assert isinstance(await call(callback, "item"), OopsError)
        broken = hub.portal.request_callback(lambda: 1 / 0, timeout=5)
        assert isinstance(await call(broken), dss.NoReplyError)
    with pytest.raises(anyio.BrokenResourceError):
        callback("late")
    assert hub.statistics().late == 1


async def test_a_bad_argument_is_refused_at_once() -> None:
    async with dss.open_hub[Any]() as hub:
        with pytest.raises(ValueError, match="negative"):
            hub.portal.request("question", timeout=-1)
        with pytest.raises(ValueError, match="negative"):
            hub.portal.request_callback(timeout=-1)
        with pytest.raises(TypeError, match="pack must be callable"):
            hub.portal.request_callback(1, timeout=1)  # type: ignore[call-overload]
        hub.portal.request_soon("question")
        with await receive_request(hub) as request:
            with pytest.raises(TypeError, match="reply\\(\\) takes any value"):
                request.reply_error("no exception")  # type: ignore[arg-type]
            with pytest.raises(TypeError, match="belongs to an event loop"):
                request.reply_error(asyncio.CancelledError())
            assert not request.abandoned
        adds_up(hub, unanswered=1)


async def test_ctrl_c_in_the_main_thread_gives_up() -> None:
    """Here the event loop is in another thread, so that the main thread can ask."""
    import signal

    with dss.start_hub() as hub:
        requests: list[dss.Request[Any]] = []

        async def receive() -> None:
            requests.append(await hub.receive())
            main = threading.main_thread().ident
            assert main is not None
            signal.pthread_kill(main, signal.SIGINT)

        hub.portal.start_task_soon(receive)
        with pytest.raises(KeyboardInterrupt):
            hub.portal.request("question")
        assert requests[0].abandoned
        before = time.monotonic()
    assert time.monotonic() - before < 5
