"""The hub in an event loop: opening, sources and their libraries, errors, and the order of its end.

How it receives is in ``test_receiver``, how it is left in a hurry in ``test_ending``.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import sys
import threading
import time
import warnings
import weakref
from concurrent.futures import Future
from functools import partial
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream
from conftest import BACKENDS, registered
from test_receiver import asleep

import dss_anyio as dss
from dss_anyio.testing import eventually, threads, until

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

pytestmark = pytest.mark.anyio


# -- opening ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"max_buffer_size": -1}, ValueError, "must not be negative"),
        ({"max_buffer_size": 1.5}, ValueError, "integer or math.inf"),
        ({"max_buffer_size": True}, ValueError, "integer or math.inf"),
        ({"max_buffer_size": "10"}, ValueError, "integer or math.inf"),
        ({"max_buffer_size": 10**9}, ValueError, "math.inf sets no limit"),
        ({"overflow": "drop"}, ValueError, "'block', 'drop_oldest', 'drop_newest'"),
        ({"name": 1}, TypeError, "name must be a string"),
        ({"on_error": 1}, TypeError, "on_error must be callable"),
    ],
)
def test_bad_arguments_are_refused_at_once(
    arguments: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        dss.open_hub(**arguments)


async def test_a_hub_is_an_anyio_object_receive_stream() -> None:
    async with dss.open_hub() as hub:
        assert isinstance(hub, anyio.abc.ObjectReceiveStream)
        assert hub.statistics()[:6] == (0, 1024, 1, 1, 0, 0)


async def test_a_hub_can_be_opened_once() -> None:
    hub = dss.open_hub[int]()
    with pytest.raises(RuntimeError, match="not open"):
        _ = hub.task_group
    async with hub as opened:
        assert opened is hub
        with pytest.raises(RuntimeError, match="once only"):
            await hub.__aenter__()
    with pytest.raises(RuntimeError, match="once only"):
        await hub.__aenter__()


async def test_a_hub_is_not_opened_by_a_plain_with() -> None:
    """It closes a receiving end; were the hub not open, items would wait there for nobody."""
    hub = dss.open_hub[int]()
    with pytest.raises(RuntimeError, match="use 'async with"), hub:
        pass
    async with hub:
        with hub:
            hub.portal.send(1)
        with pytest.raises(BrokenResourceError):
            hub.portal.send(2)


async def test_a_hub_that_has_ended_is_freed_without_the_collector(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its queue, its places and its sources as well."""
    monkeypatch.setattr("dss_anyio._hub.base.openings", [])  # what checks all tests would keep it
    gc.collect()
    gc.disable()
    try:
        async with dss.open_hub[int]() as hub:
            hub.register("source").send(1)
            hub.portal.send(2)
            assert await hub.receive() == 1
        queue = weakref.ref(hub._mailbox.line.entries)
        del hub
        await eventually(lambda: queue() is None)  # the thread that has ended it leaves
    finally:
        gc.enable()


async def test_a_hub_that_was_never_opened_is_forgotten_quietly() -> None:
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        dss.open_hub[int]()
    assert heard == []


async def test_several_hubs_live_side_by_side() -> None:
    async with dss.open_hub[int]() as one, dss.open_hub[int]() as other:
        with threads(lambda: one.portal.send(1), lambda: other.portal.send(2)):
            assert (await one.receive(), await other.receive()) == (1, 2)
        one.register("library")
        other.register("library")
        one.close()
        assert other.portal.offer(3)


# -- tasks -----------------------------------------------------------------------------------------


async def test_tasks_of_a_hub_live_as_long_as_the_hub() -> None:
    log: list[str] = []

    async def live() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            log.append("cancelled")

    async with dss.open_hub[int]() as hub:
        hub.task_group.start_soon(live)
        await anyio.wait_all_tasks_blocked()
        assert log == []
    assert log == ["cancelled"]


async def test_a_task_that_fails_cancels_the_body() -> None:
    async def fail() -> None:
        raise KeyError("task")

    with pytest.raises(ExceptionGroup) as caught:
        async with dss.open_hub[int]() as hub:
            hub.task_group.start_soon(fail)
            await anyio.sleep_forever()
    assert [repr(exc) for exc in caught.value.exceptions] == ["KeyError('task')"]


async def test_cancelling_the_task_group_leaves_the_block_without_an_exception() -> None:
    """As with a task group of anyio's."""
    async with dss.open_hub[int]() as hub:
        hub.task_group.cancel_scope.cancel()
        await anyio.sleep_forever()
    assert not hub.portal.offer(1)


async def test_a_cancelled_scope_around_the_hub_catches_its_cancellation() -> None:
    with anyio.CancelScope() as scope:
        async with dss.open_hub[int]() as hub:
            scope.cancel()
            await hub.receive()
    assert scope.cancelled_caught
    assert not hub.portal.offer(1)


async def test_leaving_a_hub_lets_the_event_loop_run_and_leaves_its_scope() -> None:
    """Whether it has a task of its own or not."""
    for starts_a_task in (False, True):
        ran: list[str] = []

        async def run(ran: list[str] = ran) -> None:
            ran.append("ran")

        async with anyio.create_task_group() as tasks:
            with anyio.CancelScope() as scope:
                tasks.start_soon(run)
                for _ in range(2):  # trio runs those that are ready in any order
                    async with dss.open_hub[int]() as hub:
                        if starts_a_task:
                            hub.task_group.start_soon(anyio.sleep, 0)
                assert ran == ["ran"]
                tasks.cancel_scope.deadline = anyio.current_time() + 10
                scope.cancel()
                await anyio.sleep_forever()
            assert scope.cancelled_caught


async def test_a_hub_that_is_left_in_a_cancelled_scope_ends_as_any_other() -> None:
    handed_back: list[int] = []
    stopped: list[str] = []
    with anyio.CancelScope() as scope:
        async with dss.open_hub[int]() as hub:
            portal = hub.register(
                "library",
                stop=lambda: stopped.append("stopped"),
                on_undelivered=handed_back.append,
            )
            portal.send(1)
            scope.cancel()
        await anyio.sleep_forever()
    assert scope.cancelled_caught
    assert (stopped, handed_back) == (["stopped"], [1])


async def test_a_hub_that_ends_or_has_ended_gives_its_task_group_to_nobody() -> None:
    """Or nobody would wait for the tasks in it."""
    async with anyio.create_task_group() as tasks:

        async def want_it() -> None:
            with pytest.raises(RuntimeError, match="not open"):
                hub.task_group  # noqa: B018

        async with dss.open_hub[int]() as hub:
            tasks.start_soon(want_it)
        with pytest.raises(RuntimeError, match="not open"):
            hub.task_group  # noqa: B018


# -- what leaves the block -------------------------------------------------------------------------


def fail() -> None:
    raise KeyError("cancel")


async def crash() -> None:
    raise IndexError("task")


@pytest.mark.parametrize("exception", [KeyError, KeyboardInterrupt, SystemExit])
async def test_what_the_body_alone_raises_is_not_wrapped(exception: type[BaseException]) -> None:
    raised = exception()
    with pytest.raises(exception) as caught:
        async with dss.open_hub[int]():
            raise raised
    assert caught.value is raised


async def test_what_a_cancel_raises_is_grouped() -> None:
    with pytest.raises(ExceptionGroup, match="errors at the end of the hub") as caught:
        async with dss.open_hub[int](name="the hub") as hub:
            hub.register("older", stop=lambda: 1 / 0)
            hub.register("fine", stop=lambda: None)
            hub.register("newer", stop=fail)
    assert [type(exc) for exc in caught.value.exceptions] == [KeyError, ZeroDivisionError]


async def test_what_a_cancel_raises_is_grouped_with_what_the_body_raised() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with dss.open_hub[int]() as hub:
            hub.register("library", stop=fail)
            raise ValueError("body")
    assert [type(exc) for exc in caught.value.exceptions] == [ValueError, KeyError]


async def test_what_a_cancel_raises_is_grouped_with_what_tasks_raised() -> None:
    with pytest.raises(BaseExceptionGroup) as caught:
        async with dss.open_hub[int]() as hub:
            hub.register("library", stop=fail)
            hub.task_group.start_soon(crash)
            await hub.receive()
    assert [type(exc) for exc in caught.value.exceptions] == [IndexError, KeyError]


@pytest.mark.parametrize("exception", [KeyboardInterrupt, SystemExit])
async def test_who_wants_to_leave_leaves_and_the_errors_of_the_end_are_told(
    exception: type[BaseException],
) -> None:
    told: list[str] = []
    with pytest.raises(exception):
        async with dss.open_hub[int](on_error=lambda exc, _: told.append(repr(exc))) as hub:
            hub.register("library", stop=fail)
            raise exception
    assert told == ["KeyError('cancel')"]


async def test_what_a_cancel_raises_takes_the_place_of_a_cancellation() -> None:
    with anyio.CancelScope() as scope:
        with pytest.raises(ExceptionGroup) as caught:
            async with dss.open_hub[int]() as hub:
                hub.register("library", stop=fail)
                scope.cancel()
                await hub.receive()
    assert [type(exc) for exc in caught.value.exceptions] == [KeyError]


# -- the order of the end --------------------------------------------------------------------------


async def test_the_end_goes_in_order() -> None:
    """Refuse, release, cancel the tasks, let the calls leave, cancel newest first, hand back."""
    log: list[str] = []

    async with dss.open_hub[str](2) as hub:
        older = hub.register(
            "older",
            stop=lambda: log.append(f"cancel older, {len(hub.blocked())} blocked"),
            on_undelivered=lambda item: log.append(f"back: {item}"),
        )
        newer = hub.register(
            "newer",
            stop=lambda: log.append(f"cancel newer, {len(hub.blocked())} blocked"),
            on_undelivered=lambda item: log.append(f"back: {item}"),
        )
        released = threading.Event()

        def send() -> None:
            with pytest.raises(BrokenResourceError):
                newer.send("waits")
            log.append(f"released, more is accepted: {older.offer('late')}")
            released.set()

        async def live() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                with anyio.CancelScope(shield=True):
                    await eventually(released.is_set)
                    log.append("task cancelled")
                    await anyio.wait_all_tasks_blocked()
                    log.append("task ended")

        newer.send("first")
        older.send("second")
        hub.task_group.start_soon(live)
        await anyio.wait_all_tasks_blocked()
        # Not ``threads``: it would join the thread before the hub has ended.
        sender = threading.Thread(target=send)
        sender.start()
        until(hub.blocked)
    sender.join()
    assert log == [
        "released, more is accepted: False",
        "task cancelled",
        "task ended",
        "cancel newer, 0 blocked",
        "cancel older, 0 blocked",
        "back: first",
        "back: second",
    ]


async def test_no_cancel_is_called_before_all_released_calls_have_left(
    switching_fast: None,
) -> None:
    """Guards ``_wait_until_left``. (That it waits at all is seen with a library in C.)"""
    inside: list[int] = []
    started: list[threading.Thread] = []
    async with dss.open_hub[int](1) as hub:
        portal = hub.register("library", stop=lambda: inside.append(len(hub.blocked())))
        portal.send(0)

        def send() -> None:
            with pytest.raises(BrokenResourceError):
                portal.send(1)

        for _ in range(50):
            started.append(threading.Thread(target=send))
            started[-1].start()
        until(lambda: len(hub.blocked()) == 50)
    assert inside == [0]
    for thread in started:
        thread.join()


async def test_a_cancel_may_join_the_thread_that_is_blocked_in_send() -> None:
    async with dss.open_hub[int](1) as hub:
        portal = hub.register("library", stop=lambda: worker.join(10))
        errors: list[type[Exception]] = []

        def work() -> None:
            try:
                while True:
                    portal.send(1)
            except BrokenResourceError as exc:
                errors.append(type(exc))

        worker = threading.Thread(target=work)
        worker.start()
        until(hub.blocked)
    assert not worker.is_alive()
    assert errors == [BrokenResourceError]


async def test_a_cancel_runs_beside_the_loop_and_may_wait_for_it() -> None:
    answered = threading.Event()
    waiting = threading.Event()
    threads_seen: list[threading.Thread] = []

    def cancel() -> None:
        threads_seen.append(threading.current_thread())
        waiting.set()
        assert answered.wait(10)

    async def answer() -> None:
        await eventually(waiting.is_set)
        answered.set()

    async with anyio.create_task_group() as tasks:
        async with dss.open_hub[int]() as hub:
            hub.register("library", stop=cancel)
            tasks.start_soon(answer)
    assert answered.is_set()
    assert threads_seen != [threading.current_thread()]


async def test_a_library_that_takes_leave_itself_is_not_cancelled() -> None:
    cancelled: list[str] = []
    async with dss.open_hub[int]() as hub:
        for name in ("closed", "aborted", "stays"):
            hub.register(name, stop=lambda name=name: cancelled.append(name))
        hub.source("closed").close()
        hub.source("aborted").abort()
        assert registered(hub) == ["stays"]
    assert cancelled == ["stays"]


async def test_after_close_senders_the_end_still_cancels() -> None:
    cancelled: list[str] = []
    async with dss.open_hub[int]() as hub:
        portal = hub.register("library", stop=lambda: cancelled.append("library"))
        portal.send(1)
        hub.close_senders()
        assert [item async for item in hub] == [1]
        assert cancelled == []
    assert cancelled == ["library"]


async def test_closing_the_hub_inside_its_block_refuses_and_leaving_it_does_the_rest() -> None:
    log: list[object] = []
    async with dss.open_hub[int](1) as hub:
        portal = hub.register(
            "library", stop=lambda: log.append("cancel"), on_undelivered=log.append
        )
        portal.send(1)

        def send() -> None:
            with pytest.raises(BrokenResourceError):
                portal.send(2)

        with threads(send):
            until(hub.blocked)
            hub.close()
        with pytest.raises(ClosedResourceError):
            await hub.receive()
        assert log == []
    assert log == ["cancel", 1]


async def test_tasks_outside_that_receive_from_a_hub_are_told_that_it_has_ended() -> None:
    told: list[str] = []

    async def receive(end: dss.Receiver[int]) -> None:
        try:
            await end.receive()
        except ClosedResourceError:
            told.append("closed")

    async with anyio.create_task_group() as tasks:
        async with dss.open_hub[int]() as hub:
            tasks.start_soon(receive, hub)
            tasks.start_soon(receive, hub.clone())
            await asleep(hub, 2)
        with anyio.fail_after(5):
            while len(told) < 2:
                await anyio.lowlevel.checkpoint()


async def test_after_the_end_everything_answers_at_once() -> None:
    async with dss.open_hub[int]() as hub:
        portal = hub.register("a")
        callback = portal.send_callback(lambda: pytest.fail("pack was called"))
    for send in (portal.send, portal.send_nowait, lambda item: portal.send_many([item])):
        with pytest.raises(BrokenResourceError):
            send(1)
    with pytest.raises(BrokenResourceError):
        await portal.asend(1)
    with pytest.raises(BrokenResourceError):
        portal.clone()
    with pytest.raises(BrokenResourceError):
        hub.register("b")
    with pytest.raises(BrokenResourceError):
        async with hub.open_source("c", lambda _: pytest.fail("start"), lambda _: None):
            pass
    with pytest.raises(LookupError):
        hub.source("a")
    assert portal.offer(1) is False
    assert callback() is None  # type: ignore[func-returns-value]
    portal.close()
    portal.abort()
    hub.close_senders()
    hub.close()
    await hub.aclose()
    counts = hub.statistics()
    assert (counts.late, counts.open_send_streams, counts.open_receive_streams) == (1, 0, 0)
    assert "ended" in repr(hub)
    assert hub.blocked() == []


async def test_once_the_hub_has_been_closed_no_name_is_taken_any_more() -> None:
    """What is wrong is that the hub is gone, whatever else might be."""
    async with dss.open_hub[int]() as hub:
        hub.register("library")
        hub.close()
        with pytest.raises(BrokenResourceError):
            hub.register("library")


# -- cancelled while it ends -----------------------------------------------------------------------


async def test_a_cancelled_scope_does_not_cut_the_end_short() -> None:
    log: list[object] = []
    go_on = threading.Event()
    entered = threading.Event()

    def cancel() -> None:
        entered.set()
        assert go_on.wait(10)
        log.append("cancel")

    async def let_it_go_on() -> None:
        await eventually(entered.is_set)
        scope.cancel()
        await anyio.wait_all_tasks_blocked()
        go_on.set()

    async with anyio.create_task_group() as tasks:
        with anyio.CancelScope() as scope:
            async with dss.open_hub[int]() as hub:
                portal = hub.register("library", stop=cancel, on_undelivered=log.append)
                portal.send(1)
                tasks.start_soon(let_it_go_on)
            await anyio.lowlevel.checkpoint()  # the first one outside
    assert scope.cancelled_caught
    assert log == ["cancel", 1]


@pytest.mark.parametrize("turns", range(8))
@pytest.mark.parametrize("times", [1, 2, 3])
async def test_native_cancellation_does_not_cut_the_end_short_wherever_it_comes(
    backend_name: str, times: int, turns: int
) -> None:
    if backend_name == "trio":
        pytest.skip("trio has no other cancellation than that of scopes")
    log: list[object] = []
    go_on = threading.Event()
    ending = asyncio.Event()

    def cancel(name: str) -> None:
        assert go_on.wait(10)
        log.append(name)

    async def main() -> None:
        async with dss.open_hub[int]() as hub:
            hub.register("older", stop=lambda: cancel("older"))
            hub.register("newer", stop=lambda: cancel("newer"), on_undelivered=log.append)
            hub.source("newer").send(1)
            hub.task_group.start_soon(anyio.sleep_forever)
            ending.set()

    task = asyncio.ensure_future(main())
    await ending.wait()
    for _ in range(times):
        for _ in range(turns):
            await asyncio.sleep(0)
        assert not task.done()
        task.cancel()
    go_on.set()
    [outcome] = await asyncio.gather(task, return_exceptions=True)
    assert log == ["newer", "older", 1]
    if sys.version_info >= (3, 11):
        assert isinstance(outcome, asyncio.CancelledError)
    else:  # asyncio merges it with the cancellation of the hub's tasks if both come at once
        assert outcome is None or isinstance(outcome, asyncio.CancelledError)


@pytest.mark.parametrize("how", ["wait_for", "timeout"])
async def test_an_end_that_exceeds_asyncios_time_limit_is_completed_and_then_reported(
    backend_name: str, how: str
) -> None:
    if backend_name == "trio":
        pytest.skip("the time limits are asyncio's")
    if how == "timeout" and sys.version_info < (3, 11):
        pytest.skip("asyncio.timeout() came with Python 3.11")
    log: list[str] = []
    go_on = threading.Event()

    def cancel() -> None:
        assert go_on.wait(10)
        log.append("cancel")

    async def main() -> None:
        async with dss.open_hub[int]() as hub:
            hub.register("library", stop=cancel)

    async def limited() -> None:
        if how == "wait_for":
            await asyncio.wait_for(main(), 0.01)
        else:
            async with asyncio.timeout(0.01):  # type: ignore[attr-defined]  # from 3.11 on
                await main()

    task = asyncio.ensure_future(limited())
    over = time.monotonic() + 0.02
    await eventually(lambda: time.monotonic() > over)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.TimeoutError):
        await task
    assert log == ["cancel"]


# -- open_source -----------------------------------------------------------------------------------


def nothing(_: object) -> None:
    pass


async def test_start_and_stop_run_in_threads_of_their_own_while_the_hub_is_live() -> None:
    seen: list[threading.Thread] = []

    def start(portal: dss.Portal[int]) -> str:
        seen.append(threading.current_thread())
        portal.send(1)
        return "value"

    def stop(value: str) -> None:
        seen.append(threading.current_thread())
        assert value == "value"
        assert hub.portal.offer(2), "the hub goes on"

    async with dss.open_hub[int]() as hub:
        async with hub.open_source("library", start, stop) as source:
            assert source.value == "value"
            assert hub.source("library") is source.portal
            assert await hub.receive() == 1
        assert await hub.receive() == 2
        with pytest.raises(LookupError, match="registered are: none"):
            hub.source("library")
        with pytest.raises(ClosedResourceError):
            source.portal.send(2)
    assert len({thread.name for thread in seen} | {threading.current_thread().name}) == 3
    assert all(thread.daemon for thread in seen)


async def test_start_may_block_until_what_it_has_sent_was_received() -> None:
    async with dss.open_hub[int](1) as hub, anyio.create_task_group() as tasks:
        delivered = threading.Event()

        def start(portal: dss.Portal[int]) -> bool:
            portal.send_many([1, 2, 3])
            return delivered.wait(10)

        async def receive() -> None:
            for number in (1, 2, 3):
                assert await hub.receive() == number
            delivered.set()

        tasks.start_soon(receive)
        async with hub.open_source("library", start, nothing) as source:
            assert source.value is True


@pytest.mark.parametrize("exception", [ZeroDivisionError, KeyboardInterrupt, SystemExit])
async def test_what_start_raises_is_raised_and_stop_is_not_called(
    exception: type[BaseException],
) -> None:
    handed_back: list[int] = []

    def start(portal: dss.Portal[int]) -> None:
        portal.send(1)
        raise exception("start")

    async with dss.open_hub[int]() as hub:
        with pytest.raises(exception, match="start"):
            async with hub.open_source(
                "library",
                start,
                lambda _: pytest.fail("stop was called"),
                on_undelivered=handed_back.append,
            ):
                pytest.fail("the body was run")
        assert registered(hub) == []
        assert handed_back == [1]
        hub.register("library").close()


async def test_what_open_source_returns_can_be_entered_once() -> None:
    async with dss.open_hub[int]() as hub:
        opened = hub.open_source("library", nothing, nothing)
        async with opened:
            pass
        with pytest.raises(RuntimeError, match=r"entered once only; call open_source\(\) again"):
            async with opened:
                pass


async def test_what_stop_raises_is_grouped_also_with_what_the_body_raised() -> None:
    def stop(_: object) -> None:
        raise KeyError("stop")

    async with dss.open_hub[int]() as hub:
        with pytest.raises(ExceptionGroup) as caught:
            async with hub.open_source("library", nothing, stop):
                pass
        assert [type(exc) for exc in caught.value.exceptions] == [KeyError]
        with pytest.raises(ExceptionGroup) as caught:
            async with hub.open_source("library", nothing, stop):
                raise ValueError("body")
        assert [type(exc) for exc in caught.value.exceptions] == [ValueError, KeyError]
        with anyio.CancelScope() as scope:
            with pytest.raises(ExceptionGroup) as caught:
                async with hub.open_source("library", nothing, stop):
                    scope.cancel()
                    await anyio.sleep_forever()
        assert [type(exc) for exc in caught.value.exceptions] == [KeyError]


@pytest.mark.parametrize("exception", [KeyError, KeyboardInterrupt, SystemExit])
async def test_what_the_body_of_a_source_alone_raises_is_not_wrapped(
    exception: type[BaseException],
) -> None:
    stopped: list[None] = []
    raised = exception()
    async with dss.open_hub[int]() as hub:
        with pytest.raises(exception) as caught:
            async with hub.open_source("library", nothing, stopped.append):
                raise raised
    assert caught.value is raised
    assert stopped == [None]


async def test_a_stop_that_does_not_return_in_time_is_an_error_and_goes_on() -> None:
    go_on = threading.Event()
    stopped = threading.Event()

    def stop(_: object) -> None:
        assert go_on.wait(10)
        stopped.set()

    async with dss.open_hub[int]() as hub:
        with pytest.raises(ExceptionGroup) as caught:
            async with hub.open_source("library", nothing, stop, stop_timeout=0.02):
                pass
        assert not stopped.is_set()
        assert hub.portal.offer(1), "the hub goes on as well"
    [error] = caught.value.exceptions
    assert isinstance(error, TimeoutError)
    assert f"stopping source 'library' in {hub.name} takes longer than 0.02 s" in str(error)
    go_on.set()
    until(stopped.is_set)


async def test_a_start_that_is_cancelled_while_it_waits_for_the_hub_is_released_and_stopped() -> (
    None
):
    log: list[str] = []
    async with dss.open_hub[int](1) as hub, anyio.create_task_group() as tasks:
        hub.portal.send(0)

        def start(portal: dss.Portal[int]) -> str:
            with pytest.raises(ClosedResourceError):
                portal.send(1)
            log.append("released")
            return "value"

        async def cancel() -> None:
            await eventually(hub.blocked)
            scope.cancel()

        tasks.start_soon(cancel)
        with anyio.CancelScope() as scope:
            async with hub.open_source("library", start, lambda value: log.append(f"stop {value}")):
                pytest.fail("the body was run")
        assert scope.cancelled_caught
        assert log == ["released", "stop value"]


async def test_a_start_that_is_natively_cancelled_again_and_again_is_stopped(
    backend_name: str,
) -> None:
    if backend_name == "trio":
        pytest.skip("trio has no other cancellation than that of scopes")
    log: list[str] = []
    entered, go_on = threading.Event(), threading.Event()

    def start(_: object) -> str:
        entered.set()
        assert go_on.wait(10)
        return "value"

    async def main() -> None:
        async with dss.open_hub[int]() as hub:
            async with hub.open_source("library", start, log.append):
                pytest.fail("the body was run")

    task = asyncio.ensure_future(main())
    await eventually(entered.is_set)
    for _ in range(3):
        task.cancel()
        for _ in range(5):
            await asyncio.sleep(0)
    assert not task.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert log == ["value"]


async def test_a_start_that_returns_too_late_is_an_error_and_is_stopped_when_it_does() -> None:
    log: list[str] = []
    entered, go_on = threading.Event(), threading.Event()

    def start(_: object) -> str:
        entered.set()
        assert go_on.wait(10)
        return "value"

    async def cancel() -> None:
        await eventually(entered.is_set)
        scope.cancel()

    async with dss.open_hub[int]() as hub, anyio.create_task_group() as tasks:
        tasks.start_soon(cancel)
        with anyio.CancelScope() as scope:
            with pytest.raises(ExceptionGroup) as caught:
                async with hub.open_source("library", start, log.append, stop_timeout=0.02):
                    pytest.fail("the body was run")
        assert log == []
        assert registered(hub) == []
    [error] = caught.value.exceptions
    assert isinstance(error, TimeoutError)
    assert "starting source 'library'" in str(error)
    go_on.set()
    until(lambda: log == ["value"])


@pytest.mark.parametrize("times", [1, 2])
async def test_a_start_that_is_natively_cancelled_and_returns_too_late_is_stopped_when_it_does(
    backend_name: str, times: int
) -> None:
    """The second cancellation comes while the end waits for *start* with a time limit."""
    if backend_name == "trio":
        pytest.skip("trio has no other cancellation than that of scopes")
    log: list[str] = []
    entered, go_on = threading.Event(), threading.Event()

    def start(_: object) -> str:
        entered.set()
        assert go_on.wait(10)
        return "value"

    async def main() -> None:
        async with hub.open_source("library", start, log.append, stop_timeout=0.05):
            pytest.fail("the body was run")

    async with dss.open_hub[int]() as hub:
        task = asyncio.ensure_future(main())
        await eventually(entered.is_set)
        for _ in range(times):
            task.cancel()
            for _ in range(5):
                await asyncio.sleep(0)
        [outcome] = await asyncio.gather(task, return_exceptions=True)
        go_on.set()
        await eventually(lambda: log == ["value"], timeout=3)
        assert isinstance(outcome, ExceptionGroup)
        assert [type(exc) for exc in outcome.exceptions] == [TimeoutError]


async def test_stop_is_called_also_if_the_portal_was_closed_inside_and_exactly_once() -> None:
    stopped: list[str] = []
    async with dss.open_hub[int]() as hub:
        for end in ("close", "abort"):
            async with hub.open_source(
                "library", nothing, lambda _, end=end: stopped.append(end)
            ) as source:
                getattr(source.portal, end)()
                assert stopped.count(end) == 0
            assert stopped.count(end) == 1
        async with hub.open_source("library", nothing, lambda _: stopped.append("senders")):
            hub.close_senders()
    assert stopped == ["close", "abort", "senders"]


async def test_the_end_of_a_source_releases_who_asked_through_a_portal_that_was_closed() -> None:
    """Guards ``Mailbox.release``: it looks at all who wait, not at the open lanes only."""

    def start(portal: dss.Portal[str]) -> Future[Any]:
        return portal.request_soon("question")

    def stop(future: Future[Any]) -> None:
        assert isinstance(future.exception(5), anyio.ClosedResourceError)

    async with dss.open_hub[Any]() as hub:
        async with hub.open_source("library", start, stop, stop_timeout=8) as source:
            request = await hub.receive()
            source.portal.close()
            hub.register("another").close()  # forgets the lanes of closed portals
        assert request.abandoned


async def test_a_source_that_outlives_its_hub_is_stopped_by_the_hub_exactly_once() -> None:
    log: list[object] = []
    async with dss.open_hub[int]() as hub:
        hub.register("older", stop=lambda: log.append("cancel older"))
        opened = hub.open_source(
            "library",
            lambda portal: portal.send(1),
            lambda _: log.append("stop"),
            on_undelivered=log.append,
        )
        await opened.__aenter__()
        hub.register("newer", stop=lambda: log.append("cancel newer"))
    assert log == ["cancel newer", "stop", "cancel older", 1]
    await opened.__aexit__(None, None, None)
    assert log == ["cancel newer", "stop", "cancel older", 1]


async def test_a_source_in_a_task_of_the_hub_is_stopped_when_the_hub_ends() -> None:
    log: list[str] = []

    async def live(task_status: anyio.abc.TaskStatus[None]) -> None:
        async with hub.open_source("library", nothing, lambda _: log.append("stop")):
            task_status.started()
            await anyio.sleep_forever()

    async with dss.open_hub[int]() as hub:
        hub.register("registered", stop=lambda: log.append("cancel"))
        await hub.task_group.start(live)
    assert log == ["stop", "cancel"]


async def test_the_end_of_one_source_goes_in_order_and_leaves_the_others_alone() -> None:
    """Release, let the calls leave, stop, hand back: as the end of the hub does."""
    log: list[object] = []
    async with dss.open_hub[int](2) as hub:
        other = hub.register("other", stop=lambda: log.append("cancel other"))

        def start(portal: dss.Portal[int]) -> threading.Thread:
            clone = portal.clone()
            portal.send(1)
            clone.send(2)

            def send() -> None:
                with pytest.raises(ClosedResourceError):
                    clone.send(3)
                log.append(f"released, more is accepted: {portal.offer(0)}")

            thread = threading.Thread(target=send)
            thread.start()
            return thread

        def stop(thread: threading.Thread) -> None:
            thread.join(10)
            log.append("stop")
            log.extend(f"{call.source} still waits" for call in hub.blocked())

        with contextlib.ExitStack() as stack:
            async with hub.open_source("library", start, stop, on_undelivered=log.append):
                until(hub.blocked)
                stack.enter_context(threads(lambda: other.send(4)))
                until(lambda: len(hub.blocked()) == 2)
            assert log == [
                "released, more is accepted: False",
                "stop",
                "other still waits",
                1,
                2,
            ]
            log.clear()
        assert await hub.receive_many() == [4]
        assert other.offer(5)
    assert log == ["cancel other"]


async def test_what_a_source_has_queued_goes_back_to_it_after_it_was_stopped() -> None:
    log: list[object] = []
    async with dss.open_hub[int]() as hub:
        hub.portal.send(0)
        async with hub.open_source(
            "library",
            lambda portal: portal.send_many([1, 2]),
            lambda _: log.append("stop"),
            on_undelivered=log.append,
        ):
            pass
        assert log == ["stop", 1, 2]
        assert await hub.receive_many() == [0]
    assert hub.statistics()[6:9] == (1, 0, 2)  # received, dropped, undelivered


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"name": 1}, TypeError),
        ({"start": None}, TypeError),
        ({"stop": 1}, TypeError),
        ({"stop_timeout": -1}, ValueError),
        ({"stop_timeout": math.nan}, ValueError),
        ({"stop_timeout": None}, TypeError),
        ({"stop_timeout": "1"}, TypeError),
        ({"decode": 1}, TypeError),
        ({"on_undelivered": 1}, TypeError),
        ({"name": "taken"}, ValueError),
    ],
)
async def test_a_source_that_cannot_be_opened_is_refused_and_leaves_nothing_behind(
    arguments: dict[str, Any], error: type[Exception]
) -> None:
    async with dss.open_hub[int]() as hub:
        hub.register("taken")
        complete: dict[str, Any] = {"name": "library", "start": nothing, "stop": nothing}
        with pytest.raises(error):
            async with hub.open_source(**{**complete, **arguments}):
                pytest.fail("the body was run")
        assert registered(hub) == ["taken"]
        hub.close_senders()
        with pytest.raises(ClosedResourceError):
            async with hub.open_source(**complete):
                pytest.fail("the body was run")


# -- decode, and what goes wrong in hooks ----------------------------------------------------------


async def test_decode_runs_in_the_hubs_thread_when_the_item_is_received() -> None:
    seen: list[threading.Thread] = []

    def decode(item: bytes) -> str:
        seen.append(threading.current_thread())
        return item.decode()

    async with dss.open_hub[str]() as hub:
        portal = hub.register("library", decode=decode)
        with threads(lambda: portal.send_many([b"1", b"2", b"3"])) as [thread]:
            thread.join()
            assert seen == []
            assert await hub.receive() == "1"
            assert await hub.receive_many(1) == ["2"]
            assert [item async for item in closing(hub)] == ["3"]
        assert set(seen) == {threading.current_thread()}


def closing(hub: dss.Hub[Any]) -> dss.Hub[Any]:
    """Iterate over what there is."""
    hub.close_senders()
    return hub


@pytest.mark.parametrize("how", ["receive", "receive_nowait", "receive_many", "iterate"])
async def test_what_cannot_be_decoded_is_passed_over_and_is_not_the_end_of_the_stream(
    how: str,
) -> None:
    told: list[tuple[str, str | None]] = []
    handed_back: list[str] = []
    async with dss.open_hub[int](
        on_error=lambda exc, source: told.append((type(exc).__name__, source))
    ) as hub:
        portal = hub.register("library", decode=int, on_undelivered=handed_back.append)
        portal.send_many(["x", "1", "y", "2", "z"])
        hub.close_senders()
        received: list[int] = []
        while True:
            try:
                if how == "receive":
                    received.append(await hub.receive())
                elif how == "receive_nowait":
                    received.append(hub.receive_nowait())
                elif how == "receive_many":
                    received += await hub.receive_many(1)
                else:
                    received += [item async for item in hub]
                    break
            except EndOfStream:
                break
        assert received == [1, 2]
        assert handed_back == ["x", "y", "z"]
        assert hub.statistics().sources["library"][:4] == (2, 0, 0, 3)
    assert told == [("ValueError", "library")] * 3


async def test_errors_of_hooks_go_to_on_error_in_the_hubs_thread() -> None:
    told: list[tuple[str, str | None]] = []
    home = threading.current_thread()

    def on_error(exc: BaseException, source: str | None) -> None:
        assert threading.current_thread() is home
        told.append((type(exc).__name__, source))

    def refuse(item: object) -> None:
        raise KeyError(item)

    async with dss.open_hub[int](on_error=on_error) as hub:
        portal = hub.register("library", decode=int, on_undelivered=refuse)
        callback = portal.send_callback(lambda item: item.upper())
        own = hub.portal.send_callback(lambda item: item.upper())
        with threads(lambda: [callback(5), callback("x"), own(6), portal.send("7")]):
            assert await hub.receive() == 7
        portal.send("8")
    # The "8" that nobody has received, and that could not be handed back: after the end.
    assert sorted(told, key=repr) == sorted(
        [
            ("AttributeError", "library"),
            ("AttributeError", None),
            ("ValueError", "library"),
            ("KeyError", "library"),
            ("KeyError", "library"),
        ],
        key=repr,
    )
    assert hub.statistics().errors == 5
    assert hub.statistics().undelivered == 2


async def test_an_error_wakes_a_hub_that_sleeps() -> None:
    told = threading.Event()
    async with dss.open_hub[int](on_error=lambda *_: told.set()) as hub:
        callback = hub.portal.send_callback(lambda: 1 / 0)
        hub.task_group.start_soon(hub.receive)
        await asleep(hub)
        with threads(callback):
            await eventually(told.is_set)
        await asleep(hub)  # the receiver goes on sleeping


async def test_without_on_error_they_are_logged_with_their_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.ERROR, "dss_anyio"):
        async with dss.open_hub[int]() as hub:
            portal = hub.register("numbers", decode=int)
            portal.send_many(["x", "1"])
            assert await hub.receive() == 1
            hub.portal.send_callback(lambda: 1 / 0)()
    [one, other] = caplog.records
    assert (one.name, one.levelname) == ("dss_anyio", "ERROR")
    assert f"error in source 'numbers' in {hub.name}: ValueError(" in one.getMessage()
    assert one.exc_info is not None
    assert one.exc_info[0] is ValueError
    assert f"error in {hub.name}: ZeroDivisionError(" in other.getMessage()


# -- looking at it ---------------------------------------------------------------------------------


async def test_the_statistics_of_each_source_add_up() -> None:
    async with dss.open_hub[int](3, overflow="drop_oldest") as hub:
        one, other = hub.register("one"), hub.register("other")
        clone = one.clone()
        hub.portal.send(0)
        one.send_many([1, 2])
        clone.send(3)  # in the place of 0
        other.send(4)  # in the place of 1
        assert await hub.receive() == 2
        clone.abort()  # takes 3 back
        counts = hub.statistics()
        sources = {name: each[:4] for name, each in counts.sources.items()}
        assert sources == {"one": (1, 0, 1, 1), "other": (0, 1, 0, 0)}
        assert [source.sent for source in counts.sources.values()] == [3, 1]
        assert (counts.received, counts.queued, counts.dropped, counts.undelivered) == (1, 1, 2, 1)
        assert counts.sent == 5
        other.close()
        assert registered(hub) == ["one"]
        assert hub.statistics().sources["other"][:4] == (0, 1, 0, 0), (
            "what it has queued is still there"
        )
        assert hub.statistics().sent == 5


async def test_blocked_says_who_waits_where_and_for_how_long() -> None:
    async with dss.open_hub[int](1) as hub:
        hub.portal.send(0)
        portal = hub.register("library")
        idents: list[int] = []

        def send() -> None:
            idents.append(threading.get_ident())
            portal.send_many([1, 2])

        with threads(send) as [thread]:
            until(hub.blocked)
            hub.task_group.start_soon(hub.portal.asend, 3)
            await eventually(lambda: len(hub.blocked()) == 2)
            first, second = hub.blocked()
            assert first[:2] == ("library", "send_many")
            assert second[:2] == (None, "asend")
            assert [first.thread] == idents
            assert (first.thread_name, second.thread_name) == (
                thread.name,
                threading.current_thread().name,
            )
            assert first.seconds >= second.seconds >= 0
            until(lambda: hub.blocked()[0].seconds > first.seconds)
            assert sorted([await hub.receive() for _ in range(4)]) == [0, 1, 2, 3]
            await eventually(lambda: hub.blocked() == [])


# -- asend -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("other", BACKENDS)
async def test_another_event_loop_sends_and_goes_on_while_it_waits(other: str) -> None:
    async with dss.open_hub[int](1) as hub:
        ticks = 0

        async def produce() -> None:
            async def tick() -> None:
                nonlocal ticks
                while True:
                    ticks += 1
                    await anyio.sleep(0.0005)

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(tick)
                with hub.portal.clone() as portal:
                    for number in range(50):
                        await portal.asend(number)
                tasks.cancel_scope.cancel()

        backend, options = BACKENDS[other]
        with threads(lambda: anyio.run(produce, backend=backend, backend_options=options)):
            until(hub.blocked)
            seen = ticks
            until(lambda: ticks > seen + 2)
            assert [await hub.receive() for _ in range(50)] == list(range(50))


async def test_the_end_of_the_hub_releases_asend_in_every_event_loop() -> None:
    outcomes: list[str] = []

    async def send() -> None:
        try:
            await hub.portal.asend(1)
        except BrokenResourceError:
            outcomes.append("broken")

    started: list[threading.Thread] = []
    async with anyio.create_task_group() as tasks:
        async with dss.open_hub[int](1) as hub:
            hub.portal.send(0)
            tasks.start_soon(send)
            for backend, options in BACKENDS.values():
                run = partial(anyio.run, send, backend=backend, backend_options=options)
                started.append(threading.Thread(target=run))
                started[-1].start()
            await eventually(lambda: len(hub.blocked()) == 4)
    for thread in started:
        thread.join(10)
    assert outcomes == ["broken"] * 4


async def test_without_a_thread_for_its_start_a_source_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In the event loop it could wait for a callback that waits for the event loop."""

    def no_thread(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    async with dss.open_hub[int]() as hub:
        with monkeypatch.context() as limited:
            limited.setattr(threading.Thread, "start", no_thread)
            with pytest.raises(RuntimeError, match="can't start new thread"):
                async with hub.open_source("library", lambda portal: portal, lambda _: None):
                    pass
        assert registered(hub) == []
        async with hub.open_source("library", lambda portal: portal, lambda _: None) as source:
            assert source.portal is source.value
