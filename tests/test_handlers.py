"""Handlers: which item they get, when, how many at once, and what becomes of what they raise."""

from __future__ import annotations

import math
import sys
import threading
from collections import Counter
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from conftest import BACKENDS, threads, until
from test_receiver import eventually

import dss_anyio as dss

if sys.version_info < (3, 11):
    from exceptiongroup import ExceptionGroup

pytestmark = pytest.mark.anyio

number = ContextVar("number", default=0)


class OopsError(Exception):
    pass


async def answers(portal: dss.Portal[Any], *items: object) -> list[object]:
    """What is answered to *items*, which are all asked at once."""
    futures = [portal.request_soon(item) for item in items]
    outcomes: list[object] = []
    for future in futures:
        await eventually(future.done)
        outcomes.append(future.exception() or future.result())
    return outcomes


def plain(item: Any) -> object:
    if item == "fail":
        raise OopsError(item)
    return ("plain", item)


async def coroutine(item: Any) -> object:
    await anyio.lowlevel.checkpoint()
    if item == "fail":
        raise OopsError(item)
    return ("coroutine", item)


@pytest.mark.parametrize("handler", [plain, coroutine])
async def test_what_a_handler_returns_is_the_answer_and_what_it_raises_too(handler: Any) -> None:
    async with dss.open_hub[Any]() as hub:
        hub.task_group.start_soon(hub.serve, handler)
        first, failed, second = await answers(hub.portal, 1, "fail", 2)
        assert (first, second) == ((handler.__name__, 1), (handler.__name__, 2))
        assert isinstance(failed, OopsError)
        assert hub.statistics().requests[:2] == (2, 1)


@pytest.mark.parametrize("handler", [plain, coroutine])
async def test_an_exception_for_a_plain_item_goes_to_one_hook_and_nothing_else_ends(
    handler: Any,
) -> None:
    reported: list[tuple[BaseException, str | None]] = []
    async with dss.open_hub[Any](on_error=lambda *each: reported.append(each)) as hub:
        hub.task_group.start_soon(hub.serve, handler)
        hub.portal.send("fail")
        [answer] = await answers(hub.portal, 1)
        assert answer == (handler.__name__, 1)
        [(error, source)] = reported
        assert isinstance(error, OopsError)
        assert source is None


@pytest.mark.parametrize("handler", [plain, coroutine])
async def test_an_exception_for_a_plain_item_ends_everything_if_the_user_asks_for_it(
    handler: Any,
) -> None:
    async with dss.open_hub[Any]() as hub:
        hub.portal.send("fail")
        with pytest.raises(ExceptionGroup) as caught:
            await hub.serve(handler, raise_errors=True)
        assert [type(exc) for exc in caught.value.exceptions] == [OopsError]


@pytest.mark.parametrize("limit", [1, 3, math.inf])
async def test_so_many_handlers_run_at_once_and_no_more(limit: float) -> None:
    running = most = 0
    go_on = anyio.Event()

    async def handle(_: object) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await go_on.wait()
        running -= 1

    async with dss.open_hub[int]() as hub:
        hub.task_group.start_soon(lambda: hub.serve(handle, max_concurrency=limit))
        hub.portal.send_many(range(8))
        await anyio.wait_all_tasks_blocked()
        assert running == min(limit, 8)
        assert len(hub) == 8 - running  # the others are not even received
        go_on.set()
        await eventually(lambda: hub.statistics().received == 8 and not running)
    assert most == min(limit, 8)


async def test_with_one_at_a_time_the_order_of_a_sender_is_kept() -> None:
    seen: list[int] = []

    async def handle(item: int) -> None:
        for _ in range(item % 3):
            await anyio.lowlevel.checkpoint()
        seen.append(item)

    async with dss.open_hub[int]() as hub:
        hub.portal.send_many(range(30))
        hub.close_senders()
        await hub.serve(handle, max_concurrency=1)
    assert seen == list(range(30))


async def test_a_slow_handler_does_not_hold_up_the_others() -> None:
    go_on = anyio.Event()

    async def handle(item: str) -> str:
        if item == "slow":
            await go_on.wait()
        return item

    async with dss.open_hub[str]() as hub:
        hub.task_group.start_soon(lambda: hub.serve(handle, max_concurrency=2))
        slow = hub.portal.request_soon("slow")
        assert await answers(hub.portal, "a", "b", "c") == ["a", "b", "c"]
        assert not slow.done()
        go_on.set()
        await eventually(slow.done)
        assert slow.result() == "slow"


async def test_an_asker_that_gives_up_cancels_its_handler_and_no_other() -> None:
    events: list[str] = []

    async def handle(item: str) -> str:
        events.append(f"{item} begins")
        try:
            await anyio.sleep_forever()
        finally:
            events.append(f"{item} ends")
        raise AssertionError

    async with dss.open_hub[str]() as hub:
        hub.task_group.start_soon(lambda: hub.serve(handle, max_concurrency=2))

        def ask() -> None:
            with pytest.raises(TimeoutError):
                hub.portal.request("a", timeout=0.05)

        other = hub.portal.request_soon("b")
        await eventually(lambda: events == ["b begins"])
        with threads(ask):
            await eventually(lambda: events == ["b begins", "a begins", "a ends"])
        assert not other.done()
        third, fourth = hub.portal.request_soon("c"), hub.portal.request_soon("d")
        await eventually(lambda: events[-1] == "c begins")
        assert fourth.cancel()  # is still queued, and never begins
        assert third.cancel()
        assert other.cancel()
        await eventually(lambda: len(events) == 6)
        assert not [event for event in events if event.startswith("d")]
        await eventually(lambda: hub.blocked() == [])


async def test_the_end_of_the_stream_waits_for_the_handlers() -> None:
    async with dss.open_hub[int]() as hub:
        futures = [hub.portal.request_soon(item) for item in range(5)]
        hub.close_senders()
        await hub.serve(coroutine)
        assert [future.result() for future in futures] == [("coroutine", i) for i in range(5)]


async def test_serving_a_hub_that_is_closed_raises_what_receiving_does() -> None:
    async with dss.open_hub[int]() as hub:
        hub.task_group.start_soon(close_when_asleep, hub)
        with pytest.raises(anyio.ClosedResourceError):
            await hub.serve(plain)


async def close_when_asleep(hub: dss.Hub[Any]) -> None:
    await eventually(lambda: hub.statistics().tasks_waiting_receive)
    hub.close()


async def test_what_a_cancelled_serve_has_not_received_is_there_for_the_next() -> None:
    started = anyio.Event()

    async def handle(_: object) -> None:
        started.set()
        await anyio.sleep_forever()

    async with dss.open_hub[str]() as hub:
        running, queued = hub.portal.request_soon("running"), hub.portal.request_soon("queued")
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: hub.serve(handle, max_concurrency=1))
                await started.wait()
                scope.cancel()
        assert isinstance(running.exception(0), dss.NoReplyError)
        assert not queued.done()
        hub.task_group.start_soon(hub.serve, plain)
        await eventually(queued.done)
        assert queued.result() == ("plain", "queued")


async def test_each_handler_sees_a_copy_of_the_context_of_serve() -> None:
    def count(_: object) -> int:
        number.set(number.get() + 1)
        return number.get()

    async def count_later(_: object) -> int:
        await anyio.lowlevel.checkpoint()
        return count(_)

    async with dss.open_hub[int]() as hub:
        for handler in (count, count_later):
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as tasks:
                    token = number.set(10)
                    tasks.start_soon(lambda handler=handler: hub.serve(handler))
                    number.reset(token)
                    assert await answers(hub.portal, 1, 2, 3) == [11, 11, 11]
                    scope.cancel()


async def test_several_may_serve_one_hub() -> None:
    served: Counter[str] = Counter()

    async def handle(name: str, item: int) -> int:
        served[name] += 1
        await anyio.lowlevel.checkpoint()
        return item

    async with dss.open_hub[int]() as hub:
        for name in ("a", "b"):
            hub.task_group.start_soon(
                lambda name=name: hub.serve(lambda item: handle(name, item), max_concurrency=1)
            )
        assert await answers(hub.portal, *range(20)) == list(range(20))
    assert served["a"] + served["b"] == 20


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_handler_may_make_the_program_exit_and_who_has_asked_is_released(backend: str) -> None:
    """Each backend has its own way to pass SystemExit on."""
    futures: list[Future[Any]] = []

    async def handle(_: object) -> None:
        raise SystemExit(3)

    async def main() -> None:
        async with dss.open_hub[int]() as hub:
            futures.append(hub.portal.request_soon(1))
            await hub.serve(handle)

    name, options = BACKENDS[backend]
    with pytest.raises(BaseException) as caught:  # noqa: PT011
        anyio.run(main, backend=name, backend_options=options)
    assert "SystemExit" in repr(caught.value)
    with pytest.raises(SystemExit):
        futures[0].result(0)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ((1,), TypeError, "handler must be callable"),
        ((plain, 0), ValueError, "at least 1"),
        ((plain, 1.5), TypeError, "an integer or math.inf"),
        ((plain, True), TypeError, "an integer or math.inf"),
    ],
)
async def test_a_bad_argument_is_refused_at_once(
    arguments: tuple[Any, ...], error: type[Exception], says: str
) -> None:
    async with dss.open_hub[int]() as hub:
        hub.portal.send(1)
        handler, *limit = arguments
        options = {"max_concurrency": limit[0]} if limit else {}
        with pytest.raises(error, match=says):
            await hub.serve(handler, **options)
        assert len(hub) == 1


async def test_threads_are_answered_until_they_have_enough() -> None:
    """200 of them at once, through a hub with room for 4."""
    outcomes: Counter[object] = Counter()

    async with dss.open_hub[int](4) as hub:
        hub.task_group.start_soon(lambda: hub.serve(coroutine, max_concurrency=8))

        def ask(item: int) -> None:
            outcomes[hub.portal.request(item)] += 1

        jobs = [threading.Thread(target=ask, args=(item,)) for item in range(200)]
        for job in jobs:
            job.start()
        await eventually(lambda: not any(job.is_alive() for job in jobs), timeout=20)
        assert outcomes == Counter(("coroutine", item) for item in range(200))
        assert hub.statistics().requests[:1] == (200,)
        until(lambda: hub.blocked() == [])
    with pytest.raises(anyio.BrokenResourceError):
        hub.portal.request(1)
