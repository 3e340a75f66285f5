"""Handlers: what they answer, how many run at once, what becomes of them when somebody leaves."""

from __future__ import annotations

import asyncio
import logging
import math
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextvars import ContextVar
from typing import Any

import anyio
import anyio.lowlevel
import anyio.to_thread
import pytest
from anyio import BrokenResourceError, ClosedResourceError
from test_receiver import asleep

import dss_anyio as dss
from dss_anyio import NoReplyError
from dss_anyio._core.books import NOTHING
from dss_anyio._core.errors import hub_gone
from dss_anyio.testing import eventually

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

pytestmark = pytest.mark.anyio


class Trouble(Exception):  # noqa: N818
    """What a handler raises."""


class Errors(list[tuple[str, "str | None"]]):
    """An ``on_error`` that keeps what it is told."""

    def __call__(self, exc: BaseException, source: str | None) -> None:
        self.append((repr(exc), source))


class Gate:
    """An async handler that waits until it is let through; it knows who is inside."""

    def __init__(self) -> None:
        self.inside: list[Any] = []
        self.started: list[Any] = []
        self.finished: list[Any] = []
        self.cancelled: list[Any] = []
        self.most = 0
        self._open: dict[Any, anyio.Event] = {}

    async def __call__(self, item: Any) -> Any:
        self.started.append(item)
        self.inside.append(item)
        self.most = max(self.most, len(self.inside))
        try:
            await self._open.setdefault(item, anyio.Event()).wait()
        except BaseException:
            self.cancelled.append(item)
            raise
        finally:
            self.inside.remove(item)
        self.finished.append(item)
        return -item

    def let_through(self, item: Any) -> None:
        self._open.setdefault(item, anyio.Event()).set()

    async def holds(self, *items: Any) -> None:
        # In any order: trio starts tasks in a random one.
        await eventually(lambda: sorted(self.inside) == list(items))


async def finished(*futures: Future[Any]) -> list[Any]:
    await eventually(lambda: all(future.done() for future in futures))
    return [future.exception() or future.result() for future in futures]


async def double(item: Any) -> Any:
    await anyio.lowlevel.checkpoint()
    return 2 * item


class DoubleLater:
    """Not a coroutine function, and yet what it returns is to be awaited."""

    def __call__(self, item: Any) -> Any:
        return double(item)


# -- what they answer ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "handler", [double, lambda item: 2 * item, DoubleLater(), lambda item: double(item)]
)
async def test_what_a_handler_returns_is_the_answer(handler: Callable[[Any], Any]) -> None:
    async with dss.open_hub[Any]() as hub:
        hub.task_group.start_soon(hub.serve, handler)
        assert await anyio.to_thread.run_sync(hub.portal.request, 21) == 42
        assert await hub.portal.arequest("a") == "aa"
        assert await finished(hub.portal.request_soon(1)) == [2]
        assert hub.statistics().requests == (3, 0, 0, 0, 0, 0)


async def test_a_handler_gets_items_and_what_was_asked_in_one_order() -> None:
    handled: list[Any] = []

    def handler(item: Any) -> Any:
        handled.append(item)
        return item

    async with dss.open_hub[Any]() as hub:
        library = hub.register("library", decode=lambda raw: -raw)
        futures: list[Future[Any]] = []
        for number in range(0, 50, 2):
            library.send(number)
            futures.append(library.request_soon(number + 1))
        hub.close_senders()
        await hub.serve(handler)
        assert handled == [-number for number in range(50)]
        assert await finished(*futures) == [-number for number in range(1, 50, 2)]
        counts = hub.statistics()
        assert (counts.sent, counts.received) == (50, 50)


async def test_what_a_handler_returns_for_a_plain_item_is_ignored() -> None:
    async with dss.open_hub[Any]() as hub:
        hub.portal.send_many([1, 2])
        hub.close_senders()
        await hub.serve(double)
        assert hub.statistics().received == 2
        assert hub.statistics().errors == 0


async def test_a_handler_that_returns_nothing_answers_none() -> None:
    async with dss.open_hub[Any]() as hub:
        future = hub.portal.request_soon(1)
        hub.close_senders()
        await hub.serve(lambda _: None)
        assert future.done()
        assert future.result() is None


async def test_a_request_that_a_handler_gets_as_an_item_is_answered_by_the_handler() -> None:
    """A request that was sent on is an item like any other, but it can be answered."""
    async with dss.open_hub[Any]() as front, dss.open_hub[Any]() as back:
        future = front.portal.request_soon(4)
        back.portal.send(await front.receive())
        back.close_senders()
        await back.serve(double)
        assert await finished(future) == [8]


# -- how many at once ------------------------------------------------------------------------------


async def test_with_one_at_a_time_each_is_handled_after_the_one_before() -> None:
    gate = Gate()
    async with dss.open_hub[Any]() as hub:
        futures = [hub.portal.request_soon(number) for number in range(5)]

        async def serve() -> None:
            await hub.serve(gate, max_concurrency=1)

        hub.task_group.start_soon(serve)
        for number in range(5):
            await gate.holds(number)
            # What is not handled yet is still in the queue: it can be given up, or dropped.
            assert len(hub) == 4 - number
            gate.let_through(number)
        assert await finished(*futures) == [-number for number in range(5)]
        assert gate.started == gate.finished == list(range(5))
        assert gate.most == 1


@pytest.mark.parametrize("many", [2, 3, 64])
async def test_so_many_handlers_run_at_once_and_never_more(many: int) -> None:
    gate = Gate()
    async with dss.open_hub[Any](math.inf) as hub:
        futures = [hub.portal.request_soon(number) for number in range(1, 3 * many)]

        async def serve() -> None:
            await hub.serve(gate, max_concurrency=many)

        hub.task_group.start_soon(serve)
        await gate.holds(*range(1, many + 1))
        await anyio.wait_all_tasks_blocked()
        assert len(gate.inside) == many
        for number in range(1, 3 * many):
            gate.let_through(number)
        assert await finished(*futures) == [-number for number in range(1, 3 * many)]
        assert gate.most == many


async def test_64_is_what_is_chosen_for_you() -> None:
    gate = Gate()
    async with dss.open_hub[Any]() as hub:
        for number in range(100):
            hub.portal.send(number)
        hub.task_group.start_soon(hub.serve, gate)
        await gate.holds(*range(64))
        await anyio.wait_all_tasks_blocked()
        assert (len(gate.inside), len(hub)) == (64, 36)


async def test_any_number_of_handlers_may_run_at_once() -> None:
    gate = Gate()
    async with dss.open_hub[Any]() as hub:
        for number in range(1, 301):
            hub.portal.send(number)

        async def serve() -> None:
            await hub.serve(gate, max_concurrency=math.inf)

        hub.task_group.start_soon(serve)
        await gate.holds(*range(1, 301))
        for number in range(1, 301):
            gate.let_through(number)
        await eventually(lambda: len(gate.finished) == 300)
        assert gate.most == 300


async def test_a_slow_handler_does_not_hold_up_the_others() -> None:
    gate = Gate()
    async with dss.open_hub[Any]() as hub:

        async def serve() -> None:
            await hub.serve(gate, max_concurrency=2)

        hub.task_group.start_soon(serve)
        slow = hub.portal.request_soon(1)
        for number in range(2, 10):
            gate.let_through(number)
            assert await hub.portal.arequest(number) == -number
        assert not slow.done()
        gate.let_through(1)
        assert await finished(slow) == [-1]


async def test_plain_functions_do_not_count_against_the_limit() -> None:
    gate = Gate()

    def handler(item: Any) -> Any:
        return gate(item) if item == 0 else item

    async with dss.open_hub[Any]() as hub:

        async def serve() -> None:
            await hub.serve(handler, max_concurrency=2)

        hub.task_group.start_soon(serve)
        hub.portal.send(0)
        await gate.holds(0)
        assert [await hub.portal.arequest(number) for number in (1, 2, 3)] == [1, 2, 3]


async def test_several_may_serve_one_hub() -> None:
    gates = [Gate(), Gate()]
    async with dss.open_hub[Any]() as hub:

        async def serve(gate: Gate) -> None:
            await hub.serve(gate, max_concurrency=1)

        for gate in gates:
            hub.task_group.start_soon(serve, gate)
        await asleep(hub, 2)
        futures = [hub.portal.request_soon(number) for number in (1, 2, 3)]
        await eventually(lambda: gates[0].inside and gates[1].inside)
        assert len(hub) == 1
        for number in (1, 2, 3):
            for gate in gates:
                gate.let_through(number)
        assert await finished(*futures) == [-1, -2, -3]
        assert sorted(gates[0].started + gates[1].started) == [1, 2, 3]


async def test_a_hub_with_no_buffer_is_served() -> None:
    gate = Gate()
    async with dss.open_hub[Any](0) as hub:

        async def serve() -> None:
            await hub.serve(gate, max_concurrency=1)

        hub.task_group.start_soon(serve)
        futures = [hub.portal.request_soon(number) for number in (1, 2)]
        await gate.holds(1)
        await anyio.wait_all_tasks_blocked()
        # Nobody receives while a handler runs: the second one has not been accepted.
        assert hub.statistics().tasks_waiting_send == 1
        gate.let_through(1)
        await gate.holds(2)
        gate.let_through(2)
        assert await finished(*futures) == [-1, -2]


# -- the asker gives up ----------------------------------------------------------------------------


async def test_an_asker_that_gives_up_cancels_its_handler_and_no_other() -> None:
    gate = Gate()
    async with dss.open_hub[Any]() as hub:
        hub.task_group.start_soon(hub.serve, gate)
        one, another = hub.portal.request_soon(1), hub.portal.request_soon(2)
        await gate.holds(1, 2)
        assert one.cancel()
        await gate.holds(2)
        assert gate.cancelled == [1]
        gate.let_through(2)
        assert await finished(another) == [-2]
        assert hub.statistics().requests == (1, 0, 0, 0, 1, 0)


@pytest.mark.parametrize("how", ["timeout", "arequest", "from another thread"])
async def test_however_an_asker_gives_up_its_handler_is_cancelled(how: str) -> None:
    gate = Gate()
    async with dss.open_hub[Any]() as hub:
        hub.task_group.start_soon(hub.serve, gate)
        asked = 1
        if how == "timeout":

            def ask() -> None:
                with pytest.raises(TimeoutError):
                    hub.portal.request(1, timeout=0.1)

            await anyio.to_thread.run_sync(ask)
            while not gate.started:  # its time was over before the handler had begun
                asked += 1
                await anyio.to_thread.run_sync(ask)
        elif how == "arequest":
            with anyio.CancelScope() as scope:

                async def leave() -> None:
                    await gate.holds(1)
                    scope.cancel()

                hub.task_group.start_soon(leave)
                await hub.portal.arequest(1)
        else:
            future = hub.portal.request_soon(1)
            await gate.holds(1)
            assert await anyio.to_thread.run_sync(future.cancel)
        await eventually(lambda: gate.cancelled)
        await eventually(lambda: gate.cancelled == gate.started)
        assert gate.inside == []
        assert hub.statistics().requests == (0, 0, 0, 0, asked, 0)


async def test_the_abort_of_its_portal_cancels_a_handler() -> None:
    gate = Gate()
    async with dss.open_hub[Any]() as hub:
        hub.task_group.start_soon(hub.serve, gate)
        library = hub.register("library")
        future = library.request_soon(1)
        item = hub.portal.request_soon(2)
        await gate.holds(1, 2)
        library.abort()
        await gate.holds(2)
        assert gate.cancelled == [1]
        assert isinstance(future.exception(0), ClosedResourceError)
        assert not item.done()


async def test_a_queued_request_whose_asker_has_gone_never_starts() -> None:
    gate = Gate()
    async with dss.open_hub[Any]() as hub:

        async def serve() -> None:
            await hub.serve(gate, max_concurrency=1)

        hub.task_group.start_soon(serve)
        futures = [hub.portal.request_soon(number) for number in (1, 2, 3)]
        await gate.holds(1)
        futures[1].cancel()
        gate.let_through(1)
        await gate.holds(3)
        gate.let_through(3)
        await eventually(futures[2].done)
        assert gate.started == [1, 3]


async def test_a_handler_that_shields_itself_works_on_and_its_answer_comes_too_late() -> None:
    done = anyio.Event()
    go_on = anyio.Event()

    async def handler(_: Any) -> str:
        with anyio.CancelScope(shield=True):
            await go_on.wait()
        done.set()
        return "too late"

    async with dss.open_hub[Any]() as hub:
        hub.task_group.start_soon(hub.serve, handler)
        future = hub.portal.request_soon(1)
        await eventually(lambda: not len(hub))
        await anyio.wait_all_tasks_blocked()
        future.cancel()
        go_on.set()
        await done.wait()
        assert await hub.portal.arequest(2) == "too late"
        assert hub.statistics().requests == (1, 0, 0, 0, 1, 0)


# -- exceptions ------------------------------------------------------------------------------------


async def fail(item: Any) -> None:
    await anyio.lowlevel.checkpoint()
    raise Trouble(item)


def fail_at_once(item: Any) -> None:
    raise Trouble(item)


@pytest.mark.parametrize("handler", [fail, fail_at_once])
async def test_an_exception_reaches_the_asker_or_on_error_and_the_others_go_on(
    handler: Callable[[Any], Any],
) -> None:
    errors = Errors()
    async with dss.open_hub[Any](on_error=errors) as hub:
        hub.task_group.start_soon(hub.serve, handler)
        for number in range(3):
            hub.portal.send(number)
            with pytest.raises(Trouble, match=str(10 + number)):
                await hub.portal.arequest(10 + number)
        hub.register("library").send("of a source")
        await eventually(lambda: len(errors) == 4)
        assert errors == [
            ("Trouble(0)", None),
            ("Trouble(1)", None),
            ("Trouble(2)", None),
            ("Trouble('of a source')", "library"),
        ]
        assert hub.statistics().requests.refused == 3


async def test_without_on_error_it_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with dss.open_hub[Any]() as hub:
        hub.portal.send(1)
        hub.close_senders()
        await hub.serve(fail)
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("dss_anyio", logging.ERROR)
    assert "Trouble(1)" in record.getMessage()


async def test_an_on_error_that_raises_does_not_end_serve(caplog: pytest.LogCaptureFixture) -> None:
    def on_error(exc: BaseException, _: str | None) -> None:
        raise KeyError("in on_error") from exc

    async with dss.open_hub[Any](on_error=on_error) as hub:
        hub.portal.send(1)
        future = hub.portal.request_soon(2)
        hub.close_senders()
        await hub.serve(fail)
        assert isinstance(future.exception(0), Trouble)
    assert any("in on_error" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("handler", [fail, fail_at_once])
async def test_with_raise_errors_it_ends_serve_and_all_its_handlers(
    handler: Callable[[Any], Any],
) -> None:
    errors = Errors()
    gate = Gate()

    def handle(item: Any) -> Any:
        return gate(item) if isinstance(item, int) else handler(item)

    async with dss.open_hub[Any](on_error=errors) as hub:
        future = hub.portal.request_soon(1)
        refused = hub.portal.request_soon("refused")

        async def send() -> None:
            await eventually(refused.done)
            hub.portal.send("plain")

        hub.task_group.start_soon(send)
        with pytest.raises(ExceptionGroup) as caught:
            await hub.serve(handle, raise_errors=True)
        assert [repr(exc) for exc in caught.value.exceptions] == ["Trouble('plain')"]
        assert errors == []
        # What a request is refused with is its asker's, and ends nothing.
        assert isinstance(refused.exception(0), Trouble)
        assert isinstance(future.exception(0), NoReplyError)
        assert gate.cancelled == [1]
        assert hub.statistics().requests.open == 0
        # The hub itself is as it was.
        hub.task_group.start_soon(hub.serve, double)
        assert await hub.portal.arequest("a") == "aa"


async def test_a_cancellation_that_a_handler_raises_itself_leaves_its_asker_without_an_answer(
    backend_name: str,
) -> None:
    if backend_name == "trio":
        pytest.skip("trio's cannot be raised by hand")

    async def handler(_: Any) -> None:
        raise asyncio.CancelledError

    async with dss.open_hub[Any]() as hub:
        hub.task_group.start_soon(hub.serve, handler)
        with pytest.raises(NoReplyError):
            await hub.portal.arequest(1)


# -- context variables -----------------------------------------------------------------------------

variable: ContextVar[str] = ContextVar("variable", default="unset")


@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_each_handler_sees_the_context_of_serve_in_a_copy_of_its_own(kind: str) -> None:
    seen: list[str] = []

    def plain(item: str) -> str:
        seen.append(variable.get())
        variable.set(f"set by {item}")
        return variable.get()

    async def handler(item: str) -> str:
        plain(item)
        await anyio.lowlevel.checkpoint()
        return variable.get()

    async with dss.open_hub[Any]() as hub:
        variable.set("of serve")
        hub.task_group.start_soon(hub.serve, plain if kind == "plain" else handler)
        await asleep(hub)
        variable.set("of the asker")
        for item in ("one", "another"):
            assert await hub.portal.arequest(item) == f"set by {item}"
        hub.portal.send("plain item")
        await eventually(lambda: len(seen) == 3)
        assert seen == ["of serve"] * 3
        assert variable.get() == "of the asker"


# -- its end ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["close_senders", "portals closed"])
async def test_at_the_end_of_the_stream_it_waits_for_the_handlers_that_run(how: str) -> None:
    gate = Gate()
    async with dss.open_hub[Any]() as hub:
        ended = anyio.Event()

        async def serve() -> None:
            await hub.serve(gate, max_concurrency=2)
            ended.set()

        hub.task_group.start_soon(serve)
        futures = [hub.portal.request_soon(number) for number in (1, 2, 3)]
        hub.close_senders() if how == "close_senders" else hub.portal.close()
        await gate.holds(1, 2)
        gate.let_through(1)
        await gate.holds(2, 3)
        await anyio.wait_all_tasks_blocked()
        assert not ended.is_set()
        gate.let_through(2)
        gate.let_through(3)
        await ended.wait()
        assert await finished(*futures) == [-1, -2, -3]


async def test_closing_the_hub_raises_after_the_handlers_that_run() -> None:
    gate = Gate()
    async with dss.open_hub[Any]() as hub:
        outcome: list[BaseException] = []

        async def serve() -> None:
            try:
                await hub.serve(gate)
            except ClosedResourceError as exc:
                outcome.append(exc)

        hub.task_group.start_soon(serve)
        future = hub.portal.request_soon(1)
        hub.portal.send(2)
        await gate.holds(1, 2)
        hub.close()
        await gate.holds(2)  # whoever asked was released, so its handler was cancelled
        assert gate.cancelled == [1]
        assert isinstance(future.exception(5), BrokenResourceError)
        gate.let_through(2)
        await eventually(lambda: outcome)
        assert gate.finished == [2]


async def test_a_closed_hub_cannot_be_served() -> None:
    async with dss.open_hub[Any]() as hub:
        hub.close()
        with pytest.raises(ClosedResourceError):
            await hub.serve(double)


async def test_what_serve_leaves_behind_when_it_is_cancelled_is_for_the_next_one() -> None:
    gate = Gate()
    async with dss.open_hub[Any]() as hub:
        futures = [hub.portal.request_soon(number) for number in (1, 2, 3, 4)]
        with anyio.CancelScope() as scope:

            async def leave() -> None:
                await gate.holds(1, 2)
                scope.cancel()

            hub.task_group.start_soon(leave)
            await hub.serve(gate, max_concurrency=2)
        assert gate.cancelled in ([1, 2], [2, 1])
        for future in futures[:2]:
            assert isinstance(future.exception(5), NoReplyError)
        assert not futures[2].done()
        assert len(hub) == 2
        hub.task_group.start_soon(hub.serve, double)
        assert await finished(*futures[2:]) == [6, 8]
        assert hub.statistics().requests == (2, 0, 2, 0, 0, 0)
        assert hub.statistics().received == 4


async def test_native_cancellation_of_serve_leaves_the_same_behind(backend_name: str) -> None:
    if backend_name == "trio":
        pytest.skip("trio has no other cancellation than that of scopes")
    gate = Gate()
    async with dss.open_hub[Any]() as hub:
        futures = [hub.portal.request_soon(number) for number in (1, 2)]
        task = asyncio.ensure_future(hub.serve(gate, max_concurrency=1))
        await gate.holds(1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert isinstance(futures[0].exception(5), NoReplyError)
        assert not futures[1].done()
        hub.task_group.start_soon(hub.serve, double)
        assert await finished(futures[1]) == [4]


@pytest.mark.parametrize("request_first", [True, False])
async def test_a_handler_that_was_received_and_never_started_loses_nobody(
    request_first: bool,
) -> None:
    """Its task is cancelled before its first step; and nothing warns of what was not awaited."""
    async with dss.open_hub[Any]() as hub:
        with anyio.CancelScope() as scope:

            def handler(item: Any) -> Any:
                scope.cancel()
                return double(item)

            future = hub.portal.request_soon(1) if request_first else None
            hub.portal.send(2)
            await hub.serve(handler)
        if future is not None:
            await eventually(future.done)
            assert future.exception() is None or isinstance(future.exception(), NoReplyError)
        assert hub.statistics().requests.open == 0


async def test_a_hub_that_ends_cancels_its_handlers_and_releases_their_askers() -> None:
    gate = Gate()
    async with dss.open_hub[Any]() as hub:
        hub.task_group.start_soon(hub.serve, gate)
        outcome: list[Any] = []

        def ask(item: int) -> None:
            try:
                outcome.append(hub.portal.request(item))
            except BrokenResourceError as exc:
                outcome.append(exc)

        askers = [threading.Thread(target=ask, args=(number,)) for number in range(8)]
        for asker in askers:
            asker.start()
        await eventually(lambda: len(gate.inside) == 8)
    for asker in askers:
        asker.join(10)
    assert [type(each) for each in outcome] == [BrokenResourceError] * 8
    assert sorted(gate.cancelled) == list(range(8))
    assert hub.statistics().requests == (0, 0, 0, 8, 0, 0)
    assert hub.blocked() == []


async def test_a_handler_may_end_the_hub_it_is_served_by() -> None:
    with anyio.fail_after(10):
        async with dss.open_hub[Any]() as hub:

            async def handler(item: Any) -> Any:
                if item == "enough":
                    hub.close_senders()
                return item

            futures = [hub.portal.request_soon(item) for item in ("one", "enough")]
            await hub.serve(handler)
            assert await finished(*futures) == ["one", "enough"]


async def test_a_handler_may_ask_the_hub_that_it_is_served_by() -> None:
    async with dss.open_hub[Any]() as hub:

        async def handler(item: int) -> int:
            return 0 if item == 0 else 1 + await hub.portal.arequest(item - 1)

        hub.task_group.start_soon(hub.serve, handler)
        with anyio.fail_after(10):
            assert await hub.portal.arequest(10) == 10


# -- in the wake: a plain handler that sleeps is called by what the sender has scheduled -----------


def in_the_wake() -> bool:
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_code.co_name != "wake_arrived":
        frame = frame.f_back
    return frame.f_code.co_name == "wake_arrived"


async def test_a_plain_handler_that_sleeps_is_called_in_the_wake_outside_of_the_serving_task() -> (
    None
):
    """Otherwise the tests of this section would prove nothing."""
    async with dss.open_hub[Any]() as hub:
        handling: list[bool] = []
        hub.task_group.start_soon(hub.serve, lambda _: handling.append(in_the_wake()))
        for number in range(3):
            await asleep(hub, 1)
            await anyio.to_thread.run_sync(hub.portal.request, None)
            assert len(handling) == number + 1
        assert all(handling)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
async def test_who_wants_to_leave_in_the_wake_leaves_by_way_of_serve(
    error: type[BaseException],
) -> None:
    """Guards ``struck``: raised where it is, it would end the whole trio run as a bug of trio's."""

    def handler(item: Any) -> None:
        raise error(item)

    with pytest.raises(BaseException) as caught:  # noqa: PT011  # told apart below
        async with dss.open_hub[Any]() as hub:
            hub.task_group.start_soon(hub.serve, handler)
            await asleep(hub, 1)
            await anyio.to_thread.run_sync(hub.portal.send, "away")
            await anyio.sleep(10)
    exc = caught.value
    while isinstance(exc, BaseExceptionGroup):
        [exc] = exc.exceptions
    assert (type(exc), exc.args) == (error, ("away",))


@pytest.mark.parametrize("when", ["in the wake", "at once"])
async def test_a_handler_may_close_what_it_is_served_by(when: str) -> None:
    """Guards ``nothing_for``: nobody would wake a receiver that sleeps after it was closed."""
    async with dss.open_hub[Any]() as hub:
        end = hub.clone()
        if when == "at once":
            hub.portal.send(None)
        else:
            hub.task_group.start_soon(asleep_and_send, hub)
        with anyio.fail_after(10), pytest.raises(ClosedResourceError):
            await hub.serve(lambda _: hub.close())
        end.close()


async def test_a_handler_may_end_the_stream_in_the_wake() -> None:
    async with dss.open_hub[Any]() as hub:
        hub.task_group.start_soon(asleep_and_send, hub)
        with anyio.fail_after(10):
            await hub.serve(lambda _: hub.close_senders())


async def asleep_and_send(hub: dss.Hub[Any]) -> None:
    await asleep(hub, 1)
    await anyio.to_thread.run_sync(hub.portal.send, None)


async def test_a_handler_that_sends_in_the_wake_is_called_again_but_lets_the_loop_run() -> None:
    """Guards the turn in ``work``: each call sends the next item, for ever."""
    async with dss.open_hub[int](math.inf) as hub:
        handled: list[int] = []

        def handler(item: int) -> None:
            handled.append(item)
            hub.portal.send(item + 1)

        hub.task_group.start_soon(hub.serve, handler)
        await asleep(hub, 1)
        with anyio.fail_after(10):
            await anyio.to_thread.run_sync(hub.portal.send, 0)
            while len(handled) < 1000:
                await anyio.lowlevel.checkpoint()
        assert handled == list(range(len(handled)))
        hub.task_group.cancel_scope.cancel()


async def test_a_coroutine_that_is_started_in_the_wake_counts_against_the_limit() -> None:
    gate = Gate()
    async with dss.open_hub[int]() as hub:
        with anyio.fail_after(10):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(lambda: hub.serve(gate, max_concurrency=2))
                await asleep(hub, 1)
                for item in range(4):
                    await anyio.to_thread.run_sync(hub.portal.send, item)
                await gate.holds(0, 1)
                for item in range(4):
                    gate.let_through(item)
                hub.close_senders()
        assert gate.most == 2
        assert sorted(gate.finished) == [0, 1, 2, 3]  # trio starts tasks in a random order


@pytest.mark.parametrize("threads_asking", [8])
async def test_many_threads_ask_at_once_and_each_gets_its_own_answer(threads_asking: int) -> None:
    async with dss.open_hub[Any](4) as hub:
        hub.task_group.start_soon(hub.serve, double)
        right: list[int] = []

        def ask(thread: int) -> None:
            for number in range(100):
                if hub.portal.request((thread, number)) == (thread, number, thread, number):
                    right.append(number)

        async with anyio.create_task_group() as tasks:
            for thread in range(threads_asking):
                tasks.start_soon(anyio.to_thread.run_sync, ask, thread)
        assert len(right) == 100 * threads_asking
        assert hub.statistics().requests == (100 * threads_asking, 0, 0, 0, 0, 0)
        assert hub.blocked() == []


# -- wrong use -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("handler", "options", "error", "message"),
    [
        (None, {}, TypeError, "handler must be callable"),
        ("text", {}, TypeError, "handler must be callable"),
        (double, {"max_concurrency": 0}, ValueError, "at least 1"),
        (double, {"max_concurrency": -1}, ValueError, "at least 1"),
        (double, {"max_concurrency": 1.5}, TypeError, "integer or math.inf"),
        (double, {"max_concurrency": True}, TypeError, "integer or math.inf"),
        (double, {"max_concurrency": None}, TypeError, "integer or math.inf"),
        (double, {"max_concurrency": -math.inf}, TypeError, "integer or math.inf"),
        (double, {"max_concurrency": math.nan}, TypeError, "integer or math.inf"),
    ],
)
async def test_wrong_arguments_are_refused_and_nothing_is_received(
    handler: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    async with dss.open_hub[Any]() as hub:
        hub.portal.send(1)
        with pytest.raises(error, match=message):
            await hub.serve(handler, **options)
        assert len(hub) == 1


async def test_it_goes_on_to_the_end_also_behind_many_that_nobody_is_to_have() -> None:
    """More than it looks at before the event loop may run."""
    received: list[int] = []
    async with dss.open_hub[int]() as hub:
        portal = hub.register("lib", decode=lambda item: NOTHING if item < 300 else item)
        portal.send_many(range(301))
        portal.close()
        hub.portal.close()
        await hub.serve(received.append)
    assert received == [300]


async def test_a_hub_that_has_ended_cannot_be_served() -> None:
    async with dss.open_hub[int]() as hub:
        pass
    with pytest.raises(ClosedResourceError):
        await hub.serve(double)
    async with dss.open_hub[int]() as hub:
        hub.clone().close()  # so that this is not the last end
        hub._mailbox.end(hub_gone)
        with pytest.raises(ClosedResourceError):
            await hub.serve(double)


async def test_a_hub_that_is_not_open_cannot_be_served() -> None:
    hub = dss.open_hub[Any]()
    with pytest.raises((RuntimeError, ExceptionGroup)) as caught:
        await hub.serve(double)
    assert "not open" in repr(getattr(caught.value, "exceptions", caught.value))


# -- errors that are reported meanwhile ------------------------------------------------------------


async def test_an_error_that_is_reported_while_a_handler_runs_in_the_wake_is_told_at_once() -> None:
    """It is not an item: the bell was down when it came, and nothing else is going to ring."""
    told: list[BaseException] = []
    async with dss.open_hub[str](on_error=lambda exc, _: told.append(exc)) as hub:
        fails = hub.portal.send_callback(lambda: 1 / 0)  # type: ignore[arg-type,return-value]
        hub.task_group.start_soon(hub.serve, lambda _: fails())
        await asleep(hub)
        await anyio.to_thread.run_sync(hub.portal.send, "an item")
        await eventually(lambda: told)
        assert [type(exc) for exc in told] == [ZeroDivisionError]
