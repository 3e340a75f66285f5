"""Questions: the five ways in which one ends, everything that brings them about, and every race.

The tables say what must happen; below them stands how it is brought about.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import signal
import sys
import threading
import traceback
import weakref
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import CancelledError, Future, wait
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from typing import Any

import anyio
import anyio.abc
import anyio.lowlevel
import pytest
from anyio import BrokenResourceError, ClosedResourceError, WouldBlock
from bytecodes import run_interrupted
from conftest import BACKENDS, all_told, strike
from test_receiver import asleep

import dss_anyio as dss
from dss_anyio import NoReplyError
from dss_anyio._core import mailbox as _mailbox
from dss_anyio._core.errors import hub_gone
from dss_anyio._core.waiter import Waiter, WaitForPlace
from dss_anyio.testing import eventually, threads, until

pytestmark = pytest.mark.anyio

ANSWER = "the answer"


class Refused(Exception):  # noqa: N818
    """What a handler raises."""


# What brings it about; how the request ends; what the asker gets; what becomes of its item, which
# is None if it was never accepted.
Row = tuple[str, str, Any, "str | None"]

IN_AN_EVENT_LOOP: list[Row] = [
    ("reply", "answered", ANSWER, "received"),
    ("reply_later", "answered", ANSWER, "received"),
    ("reply_from_another_thread", "answered", ANSWER, "received"),
    ("handler_returns", "answered", ANSWER, "received"),
    ("portal_closed_while_queued", "answered", ANSWER, "received"),
    ("portal_closed_while_handled", "answered", ANSWER, "received"),
    ("senders_closed_while_queued", "answered", ANSWER, "received"),
    ("reply_error_with_an_exception", "refused", Refused, "received"),
    ("reply_error_with_a_class", "refused", Refused, "received"),
    ("handler_raises", "refused", Refused, "received"),
    ("plain_handler_raises", "refused", Refused, "received"),
    ("decode_raises", "refused", Refused, "undelivered"),
    ("token_forgotten", "unanswered", NoReplyError, "received"),
    ("with_left", "unanswered", NoReplyError, "received"),
    ("with_left_by_an_exception", "unanswered", NoReplyError, "received"),
    ("async_with_left", "unanswered", NoReplyError, "received"),
    ("async_with_left_by_an_exception", "unanswered", NoReplyError, "received"),
    ("handler_cancelled", "unanswered", NoReplyError, "received"),
    ("dropped_as_the_oldest", "unanswered", NoReplyError, "dropped"),
    ("dropped_as_the_newest", "unanswered", NoReplyError, "dropped"),
    ("hub_left_while_queued", "released", BrokenResourceError, "undelivered"),
    ("hub_left_while_handled", "released", BrokenResourceError, "received"),
    ("hub_left_while_waiting_for_room", "released", BrokenResourceError, None),
    ("hub_left_after_its_portal_was_closed", "released", BrokenResourceError, "received"),
    ("hub_left_after_the_senders_were_closed", "released", BrokenResourceError, "undelivered"),
    ("hub_left_by_an_exception", "released", BrokenResourceError, "received"),
    ("hub_left_by_a_cancelled_scope", "released", BrokenResourceError, "received"),
    ("hub_left_by_native_cancellation", "released", BrokenResourceError, "received"),
    ("hub_closed", "released", BrokenResourceError, "received"),
    ("portal_aborted_while_queued", "released", ClosedResourceError, "undelivered"),
    ("portal_aborted_while_handled", "released", ClosedResourceError, "received"),
    ("portal_aborted_while_waiting_for_room", "released", ClosedResourceError, None),
    ("own_portal_aborted_while_queued", "released", ClosedResourceError, "undelivered"),
    ("portal_closed_while_waiting_for_room", "released", ClosedResourceError, None),
    ("senders_closed_while_waiting_for_room", "released", ClosedResourceError, None),
    ("source_left_while_queued", "released", ClosedResourceError, "undelivered"),
    ("source_left_while_handled", "released", ClosedResourceError, "received"),
]

IN_A_POLLED_HUB: list[Row] = [
    ("reply", "answered", ANSWER, "received"),
    ("reply_from_another_thread", "answered", ANSWER, "received"),
    ("portal_closed_while_queued", "answered", ANSWER, "received"),
    ("reply_error_with_an_exception", "refused", Refused, "received"),
    ("reply_error_with_a_class", "refused", Refused, "received"),
    ("decode_raises", "refused", Refused, "undelivered"),
    ("token_forgotten", "unanswered", NoReplyError, "received"),
    ("with_left", "unanswered", NoReplyError, "received"),
    ("with_left_by_an_exception", "unanswered", NoReplyError, "received"),
    ("dropped_as_the_oldest", "unanswered", NoReplyError, "dropped"),
    ("dropped_as_the_newest", "unanswered", NoReplyError, "dropped"),
    ("hub_closed_while_queued", "released", BrokenResourceError, "undelivered"),
    ("hub_closed_while_handled", "released", BrokenResourceError, "received"),
    ("hub_closed_while_waiting_for_room", "released", BrokenResourceError, None),
    ("hub_closed_by_another_thread", "released", BrokenResourceError, "received"),
    ("hub_left_by_an_exception", "released", BrokenResourceError, "received"),
    ("portal_aborted_while_queued", "released", ClosedResourceError, "undelivered"),
    ("portal_aborted_while_handled", "released", ClosedResourceError, "received"),
    ("portal_aborted_while_waiting_for_room", "released", ClosedResourceError, None),
    ("portal_closed_while_waiting_for_room", "released", ClosedResourceError, None),
]

# How the asker gives up; by which call it has asked; what it gets.
GIVING_UP: list[tuple[str, str, type[BaseException]]] = [
    ("timeout", "request", TimeoutError),
    ("ctrl_c", "request", KeyboardInterrupt),
    ("async_exception", "request", Refused),
    ("future_cancelled", "request_soon", CancelledError),
    ("scope_cancelled", "arequest", asyncio.CancelledError),
    ("task_cancelled", "arequest", asyncio.CancelledError),
    ("trio_scope_cancelled", "arequest", TimeoutError),  # what ``fail_after`` makes of it
]
PLACES = {"queued": "undelivered", "handled": "received", "waiting for room": None}


# -- what all ways have in common ------------------------------------------------------------------


class Asking:
    """One that asks a hub once, by the method *call*; what it gets is in ``outcome``."""

    def __init__(self, call: str) -> None:
        self.call = call
        self.hub: Any = None
        self.token: Any = None
        self.outcome: Future[Any] = Future()
        self.extra = 0  # plain items that were sent besides

    def start(self, portal: dss.Portal[Any]) -> None:
        """Begin to ask, in a thread of its own unless the call does not wait."""
        if self.call == "request_soon":
            self.outcome = portal.request_soon("question")
            return

        def ask() -> Any:
            if self.call == "request":
                return portal.request("question")
            return anyio.run(portal.arequest, "question", backend=self.call.rpartition(" ")[2])

        threading.Thread(target=self.keep, args=(ask,), daemon=True).start()

    def keep(self, ask: Callable[[], Any]) -> None:
        try:
            self.outcome.set_result(ask())
        except BaseException as exc:
            self.outcome.set_exception(exc)

    @property
    def asked(self) -> bool:
        """Does it wait now?"""
        requests = self.hub.statistics().requests
        blocked = self.hub.blocked()
        assert requests[:5] == (0, 0, 0, 0, 0)
        if not blocked:
            return False
        assert [each.call for each in blocked] == [self.call.partition(" ")[0]]
        assert blocked[0].seconds >= 0
        return bool(len(self.hub) + self.hub.statistics().tasks_waiting_send > self.extra)

    def check(self, ending: str, gets: Any, fate: str | None) -> None:
        """It has ended like this, and the hub has counted exactly that."""
        if isinstance(gets, type):
            with pytest.raises(gets):
                self.outcome.result(10)
        else:
            assert self.outcome.result(10) == gets
        counts = self.hub.statistics()
        assert {name: n for name, n in counts.requests._asdict().items() if n} == {ending: 1}
        until(lambda: not self.hub.blocked())
        assert counts.queued == len(self.hub) == 0
        assert counts.sent == counts.received + counts.dropped + counts.undelivered
        assert counts.sent == self.extra + (fate is not None)
        if fate is not None and not self.extra:
            assert getattr(counts, fate) == 1
        if self.token is not None:
            assert self.token.reply("too late") is False
            assert self.token.reply_error(Refused) is False
            assert self.token.abandoned == (ending in ("released", "abandoned"))
            assert "ended" in repr(self.token)


# -- in an event loop ------------------------------------------------------------------------------


class Scene(Asking):
    """A hub of this event loop, and one that asks it from wherever its call belongs."""

    def __init__(self, call: str, tasks: anyio.abc.TaskGroup) -> None:
        super().__init__(call)
        self._tasks = tasks

    def open(self, max_buffer_size: float = 4, **options: Any) -> dss.Hub[Any]:
        self.hub = dss.open_hub[Any](max_buffer_size, on_error=lambda *_: None, **options)
        return self.hub  # type: ignore[no-any-return]

    async def ask(self, portal: dss.Portal[Any] | None = None) -> None:
        portal = portal or self.hub.portal
        if self.call == "arequest":
            self._tasks.start_soon(self._arequest, portal)
        else:
            self.start(portal)
        await eventually(lambda: self.asked)

    async def _arequest(self, portal: dss.Portal[Any]) -> None:
        try:
            self.outcome.set_result(await portal.arequest("question"))
        except Exception as exc:
            self.outcome.set_exception(exc)

    async def ask_and_receive(self, portal: dss.Portal[Any] | None = None) -> dss.Request[Any]:
        await self.ask(portal)
        self.token = token = await self.hub.receive()
        assert isinstance(token, dss.Request)
        assert token.item == "question"
        assert (token.abandoned, token.remaining) == (False, None)
        assert "open" in repr(token)
        return token

    async def ask_full(self, portal: dss.Portal[Any]) -> None:
        """With a buffer of one: what has asked waits for room."""
        self.hub.portal.send("filler")
        self.extra = 1
        await self.ask(portal)
        assert self.hub.statistics().tasks_waiting_send == 1


class InAnEventLoop:
    """How each row of the table is brought about."""

    @staticmethod
    async def reply(scene: Scene) -> None:
        async with scene.open():
            assert (await scene.ask_and_receive()).reply(ANSWER)

    @staticmethod
    async def reply_later(scene: Scene) -> None:
        async with scene.open() as hub:
            token = await scene.ask_and_receive()
            await anyio.wait_all_tasks_blocked()
            assert hub.blocked()
            assert token.reply(ANSWER)

    @staticmethod
    async def reply_from_another_thread(scene: Scene) -> None:
        async with scene.open():
            token = await scene.ask_and_receive()
            assert await anyio.to_thread.run_sync(token.reply, ANSWER)

    @staticmethod
    async def handler_returns(scene: Scene) -> None:
        async with scene.open() as hub:
            await scene.ask()

            async def handler(_: Any) -> str:
                await anyio.lowlevel.checkpoint()
                return ANSWER

            hub.task_group.start_soon(hub.serve, handler)
            await eventually(scene.outcome.done)

    @staticmethod
    async def portal_closed_while_queued(scene: Scene) -> None:
        async with scene.open() as hub:
            portal = hub.register("library")
            await scene.ask(portal)
            portal.close()
            scene.token = await hub.receive()
            assert scene.token.reply(ANSWER)

    @staticmethod
    async def portal_closed_while_handled(scene: Scene) -> None:
        async with scene.open() as hub:
            portal = hub.register("library")
            token = await scene.ask_and_receive(portal)
            portal.close()
            assert token.reply(ANSWER)

    @staticmethod
    async def senders_closed_while_queued(scene: Scene) -> None:
        async with scene.open() as hub:
            await scene.ask()
            hub.close_senders()
            scene.token = await hub.receive()
            assert scene.token.reply(ANSWER)

    @staticmethod
    async def reply_error_with_an_exception(scene: Scene) -> None:
        async with scene.open():
            assert (await scene.ask_and_receive()).reply_error(Refused("no"))

    @staticmethod
    async def reply_error_with_a_class(scene: Scene) -> None:
        async with scene.open():
            assert (await scene.ask_and_receive()).reply_error(Refused)

    @staticmethod
    async def handler_raises(scene: Scene) -> None:
        async with scene.open() as hub:
            await scene.ask()

            async def handler(_: Any) -> None:
                await anyio.lowlevel.checkpoint()
                raise Refused

            hub.task_group.start_soon(hub.serve, handler)
            await eventually(scene.outcome.done)

    @staticmethod
    async def plain_handler_raises(scene: Scene) -> None:
        async with scene.open() as hub:
            await scene.ask()

            def handler(_: Any) -> None:
                raise Refused

            hub.task_group.start_soon(hub.serve, handler)
            await eventually(scene.outcome.done)

    @staticmethod
    async def decode_raises(scene: Scene) -> None:
        def decode(_: Any) -> None:
            raise Refused

        async with scene.open() as hub:
            await scene.ask(hub.register("library", decode=decode))
            with pytest.raises(WouldBlock):
                hub.receive_nowait()
            await eventually(scene.outcome.done)

    @staticmethod
    async def token_forgotten(scene: Scene) -> None:
        async with scene.open():
            await scene.ask_and_receive()
            scene.token = None
            gc.collect()
            await eventually(scene.outcome.done)

    @staticmethod
    async def with_left(scene: Scene) -> None:
        async with scene.open():
            with await scene.ask_and_receive():
                pass
            await eventually(scene.outcome.done)

    @staticmethod
    async def with_left_by_an_exception(scene: Scene) -> None:
        async with scene.open():
            with pytest.raises(KeyError), await scene.ask_and_receive():
                raise KeyError
            await eventually(scene.outcome.done)

    @staticmethod
    async def async_with_left(scene: Scene) -> None:
        async with scene.open():
            async with await scene.ask_and_receive():
                pass
            await eventually(scene.outcome.done)

    @staticmethod
    async def async_with_left_by_an_exception(scene: Scene) -> None:
        async with scene.open():
            with pytest.raises(KeyError):
                async with await scene.ask_and_receive():
                    raise KeyError
            await eventually(scene.outcome.done)

    @staticmethod
    async def handler_cancelled(scene: Scene) -> None:
        scope = anyio.CancelScope()

        async def handler(_: Any) -> None:
            scope.cancel()
            await anyio.sleep_forever()

        async with scene.open() as hub:
            await scene.ask()
            with scope:
                await hub.serve(handler)
            await eventually(scene.outcome.done)

    @staticmethod
    async def dropped_as_the_oldest(scene: Scene) -> None:
        async with scene.open(1, overflow="drop_oldest") as hub:
            await scene.ask()
            hub.portal.send("newer")
            scene.extra = 1
            assert await hub.receive() == "newer"

    @staticmethod
    async def dropped_as_the_newest(scene: Scene) -> None:
        async with scene.open(1, overflow="drop_newest") as hub:
            hub.portal.send("older")
            scene.extra = 1
            if scene.call == "arequest":
                scene._tasks.start_soon(scene._arequest, hub.portal)
            else:
                scene.start(hub.portal)
            await eventually(scene.outcome.done)
            assert await hub.receive() == "older"

    @staticmethod
    async def hub_left_while_queued(scene: Scene) -> None:
        async with scene.open():
            await scene.ask()

    @staticmethod
    async def hub_left_while_handled(scene: Scene) -> None:
        async with scene.open():
            await scene.ask_and_receive()

    @staticmethod
    async def hub_left_while_waiting_for_room(scene: Scene) -> None:
        async with scene.open(1) as hub:
            await scene.ask_full(hub.portal)

    @staticmethod
    async def hub_left_after_its_portal_was_closed(scene: Scene) -> None:
        async with scene.open() as hub:
            portal = hub.register("library")
            await scene.ask_and_receive(portal)
            portal.close()
            assert hub.blocked()

    @staticmethod
    async def hub_left_after_the_senders_were_closed(scene: Scene) -> None:
        async with scene.open() as hub:
            await scene.ask()
            hub.close_senders()
            assert hub.blocked()

    @staticmethod
    async def hub_left_by_an_exception(scene: Scene) -> None:
        with pytest.raises(KeyError):
            async with scene.open():
                await scene.ask_and_receive()
                raise KeyError

    @staticmethod
    async def hub_left_by_a_cancelled_scope(scene: Scene) -> None:
        with anyio.CancelScope() as scope:
            async with scene.open():
                await scene.ask_and_receive()
                scope.cancel()
                await anyio.sleep_forever()

    @staticmethod
    async def hub_left_by_native_cancellation(scene: Scene) -> None:
        async def live() -> None:
            async with scene.open():
                await scene.ask_and_receive()
                await asyncio.sleep(60)

        task = asyncio.ensure_future(live())
        await eventually(lambda: scene.token is not None)
        await anyio.wait_all_tasks_blocked()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    @staticmethod
    async def hub_closed(scene: Scene) -> None:
        async with scene.open() as hub:
            await scene.ask_and_receive()
            hub.close()
            await eventually(scene.outcome.done)

    @staticmethod
    async def portal_aborted_while_queued(scene: Scene) -> None:
        async with scene.open() as hub:
            portal = hub.register("library")
            await scene.ask(portal)
            portal.abort()
            await eventually(scene.outcome.done)
            with pytest.raises(WouldBlock):
                hub.receive_nowait()

    @staticmethod
    async def own_portal_aborted_while_queued(scene: Scene) -> None:
        async with scene.open() as hub:
            await scene.ask()
            hub.portal.abort()
            await eventually(scene.outcome.done)

    @staticmethod
    async def portal_aborted_while_handled(scene: Scene) -> None:
        async with scene.open() as hub:
            portal = hub.register("library")
            await scene.ask_and_receive(portal)
            portal.abort()
            await eventually(scene.outcome.done)

    @staticmethod
    async def portal_aborted_while_waiting_for_room(scene: Scene) -> None:
        async with scene.open(1) as hub:
            portal = hub.register("library")
            await scene.ask_full(portal)
            portal.abort()
            await eventually(scene.outcome.done)
            assert await hub.receive() == "filler"

    @staticmethod
    async def portal_closed_while_waiting_for_room(scene: Scene) -> None:
        async with scene.open(1) as hub:
            portal = hub.register("library")
            await scene.ask_full(portal)
            portal.close()
            await eventually(scene.outcome.done)
            assert await hub.receive() == "filler"

    @staticmethod
    async def senders_closed_while_waiting_for_room(scene: Scene) -> None:
        async with scene.open(1) as hub:
            await scene.ask_full(hub.portal)
            hub.close_senders()
            await eventually(scene.outcome.done)
            assert await hub.receive() == "filler"

    @staticmethod
    async def source_left_while_queued(scene: Scene) -> None:
        async with scene.open() as hub:
            async with hub.open_source("library", lambda _: None, lambda _: None) as source:
                await scene.ask(source.portal)
            await eventually(scene.outcome.done)

    @staticmethod
    async def source_left_while_handled(scene: Scene) -> None:
        async with scene.open() as hub:
            async with hub.open_source("library", lambda _: None, lambda _: None) as source:
                await scene.ask_and_receive(source.portal)
            await eventually(scene.outcome.done)


def names_of(ways: type) -> list[str]:
    return [name for name, way in vars(ways).items() if isinstance(way, staticmethod)]


def test_each_row_of_the_tables_is_brought_about() -> None:
    assert sorted(names_of(InAnEventLoop)) == sorted(row[0] for row in IN_AN_EVENT_LOOP)
    assert sorted(names_of(Polled)) == sorted(row[0] for row in IN_A_POLLED_HUB)


CALLS = ["request", "request_soon", "arequest", "arequest on asyncio", "arequest on trio"]


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize(("way", "ending", "gets", "fate"), IN_AN_EVENT_LOOP)
async def test_a_request_ends_once_and_is_counted(
    way: str, ending: str, gets: Any, fate: str | None, call: str, backend_name: str
) -> None:
    if way == "hub_left_by_native_cancellation" and backend_name == "trio":
        pytest.skip("trio has no other cancellation than that of scopes")
    async with anyio.create_task_group() as tasks:
        scene = Scene(call, tasks)
        act: Callable[[Scene], Awaitable[None]] = getattr(InAnEventLoop, way)
        await act(scene)
        await eventually(scene.outcome.done)
    scene.check(ending, gets, fate)


# -- in a polled hub -------------------------------------------------------------------------------


class Stage(Asking):
    """A polled hub of this thread, and one that asks it."""

    def open(self, max_buffer_size: float = 4, **options: Any) -> dss.PolledHub[Any]:
        self.hub = dss.open_polled_hub[Any](max_buffer_size, on_error=lambda *_: None, **options)
        return self.hub  # type: ignore[no-any-return]

    def ask(self, portal: dss.Portal[Any] | None = None) -> None:
        self.start(portal or self.hub.portal)
        until(lambda: self.asked)

    def ask_and_poll(self, portal: dss.Portal[Any] | None = None) -> dss.Request[Any]:
        self.ask(portal)
        assert self.hub.wait(10)
        (token,) = self.hub.poll()
        self.token = token
        return token  # type: ignore[no-any-return]

    def ask_full(self, portal: dss.Portal[Any]) -> None:
        self.hub.portal.send("filler")
        self.extra = 1
        self.ask(portal)


class Polled:
    """How each row of the table is brought about."""

    @staticmethod
    def reply(stage: Stage) -> None:
        with stage.open():
            assert stage.ask_and_poll().reply(ANSWER)

    @staticmethod
    def reply_from_another_thread(stage: Stage) -> None:
        with stage.open() as hub:
            token = stage.ask_and_poll()
            assert hub.poll() == []
            assert elsewhere(lambda: token.reply(ANSWER))

    @staticmethod
    def portal_closed_while_queued(stage: Stage) -> None:
        with stage.open() as hub:
            portal = hub.register("library")
            stage.ask(portal)
            portal.close()
            (stage.token,) = hub.poll()
            assert stage.token.reply(ANSWER)

    @staticmethod
    def reply_error_with_an_exception(stage: Stage) -> None:
        with stage.open():
            assert stage.ask_and_poll().reply_error(Refused("no"))

    @staticmethod
    def reply_error_with_a_class(stage: Stage) -> None:
        with stage.open():
            assert stage.ask_and_poll().reply_error(Refused)

    @staticmethod
    def decode_raises(stage: Stage) -> None:
        def decode(_: Any) -> None:
            raise Refused

        with stage.open() as hub:
            stage.ask(hub.register("library", decode=decode))
            assert hub.poll() == []

    @staticmethod
    def token_forgotten(stage: Stage) -> None:
        with stage.open():
            stage.ask_and_poll()
            stage.token = None
            gc.collect()

    @staticmethod
    def with_left(stage: Stage) -> None:
        with stage.open(), stage.ask_and_poll():
            pass

    @staticmethod
    def with_left_by_an_exception(stage: Stage) -> None:
        with stage.open(), pytest.raises(KeyError), stage.ask_and_poll():
            raise KeyError

    @staticmethod
    def dropped_as_the_oldest(stage: Stage) -> None:
        with stage.open(1, overflow="drop_oldest") as hub:
            stage.ask()
            hub.portal.send("newer")
            stage.extra = 1
            assert hub.poll() == ["newer"]

    @staticmethod
    def dropped_as_the_newest(stage: Stage) -> None:
        with stage.open(1, overflow="drop_newest") as hub:
            hub.portal.send("older")
            stage.extra = 1
            stage.start(hub.portal)
            until(stage.outcome.done)
            assert hub.poll() == ["older"]

    @staticmethod
    def hub_closed_while_queued(stage: Stage) -> None:
        hub = stage.open()
        stage.ask()
        hub.close()

    @staticmethod
    def hub_closed_while_handled(stage: Stage) -> None:
        hub = stage.open()
        stage.ask_and_poll()
        hub.close()

    @staticmethod
    def hub_closed_while_waiting_for_room(stage: Stage) -> None:
        hub = stage.open(1)
        stage.ask_full(hub.portal)
        hub.close()

    @staticmethod
    def hub_closed_by_another_thread(stage: Stage) -> None:
        hub = stage.open()
        stage.ask_and_poll()
        elsewhere(hub.close)

    @staticmethod
    def hub_left_by_an_exception(stage: Stage) -> None:
        with pytest.raises(KeyError), stage.open():
            stage.ask_and_poll()
            raise KeyError

    @staticmethod
    def portal_aborted_while_queued(stage: Stage) -> None:
        with stage.open() as hub:
            portal = hub.register("library")
            stage.ask(portal)
            portal.abort()
            assert hub.poll() == []

    @staticmethod
    def portal_aborted_while_handled(stage: Stage) -> None:
        with stage.open() as hub:
            portal = hub.register("library")
            stage.ask_and_poll(portal)
            portal.abort()

    @staticmethod
    def portal_aborted_while_waiting_for_room(stage: Stage) -> None:
        with stage.open(1) as hub:
            portal = hub.register("library")
            stage.ask_full(portal)
            portal.abort()
            until(stage.outcome.done)  # else it might get the place that is freed now
            assert hub.poll() == ["filler"]

    @staticmethod
    def portal_closed_while_waiting_for_room(stage: Stage) -> None:
        with stage.open(1) as hub:
            portal = hub.register("library")
            stage.ask_full(portal)
            portal.close()
            assert hub.poll() == ["filler"]


@pytest.mark.parametrize("call", [call for call in CALLS if call != "arequest"])
@pytest.mark.parametrize(("way", "ending", "gets", "fate"), IN_A_POLLED_HUB)
def test_a_request_to_a_polled_hub_ends_once_and_is_counted(
    way: str, ending: str, gets: Any, fate: str | None, call: str
) -> None:
    stage = Stage(call)
    act: Callable[[Stage], None] = getattr(Polled, way)
    act(stage)
    until(stage.outcome.done)
    stage.check(ending, gets, fate)


# -- the asker gives up ----------------------------------------------------------------------------


def elsewhere(func: Callable[[], Any]) -> Any:
    """Call *func* in another thread, wait for its result and return it."""
    results: list[Any] = []
    with threads(lambda: results.append(func())):
        pass
    return results[0]


class GivingUp:
    """One that asks in this thread, or in an event loop here, and is struck from another one.

    *moment* is called in the other thread: it waits until the request is where it should be.
    """

    def __init__(self, portal: dss.Portal[Any], moment: Callable[[], None], seconds: float) -> None:
        self.portal = portal
        self.moment = moment
        self.seconds = seconds
        self.here = threading.get_ident()

    def timeout(self) -> None:
        with threads(self.moment):
            self.portal.request("question", timeout=self.seconds)

    def ctrl_c(self) -> None:
        def strike() -> None:
            self.moment()
            signal.pthread_kill(self.here, signal.SIGINT)

        with threads(strike):
            self.portal.request("question")

    def async_exception(self) -> None:
        struck = threading.Event()

        def strike_here() -> None:
            self.moment()
            strike(self.here, Refused, struck)

        with threads(strike_here):
            try:
                self.portal.request("question")
            finally:
                struck.set()

    def future_cancelled(self) -> None:
        future = self.portal.request_soon("question")
        elsewhere(self.moment)
        assert future.cancel()
        assert wait([future], 10).done  # it was notified
        future.result()

    def scope_cancelled(self) -> None:
        async def main() -> None:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.portal.arequest, "question")
                await anyio.to_thread.run_sync(self.moment)
                tasks.cancel_scope.cancel()
            raise asyncio.CancelledError

        asyncio.run(main())

    def task_cancelled(self) -> None:
        async def main() -> None:
            task = asyncio.ensure_future(self.portal.arequest("question"))
            await anyio.to_thread.run_sync(self.moment)
            task.cancel()
            await task

        asyncio.run(main())

    def trio_scope_cancelled(self) -> None:
        async def main() -> None:
            async def leave() -> None:
                await anyio.to_thread.run_sync(self.moment)
                scope.deadline = anyio.current_time()

            async with anyio.create_task_group() as tasks:
                with anyio.fail_after(None) as scope:
                    tasks.start_soon(leave)
                    await self.portal.arequest("question")

        try:
            anyio.run(main, backend="trio")
        except Exception as exc:  # in the task group's ExceptionGroup
            raise getattr(exc, "exceptions", [exc])[0] from None


@pytest.mark.skipif(sys.platform == "win32", reason="needs pthread_kill")
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(("how", "call", "gets"), GIVING_UP)
def test_an_asker_that_gives_up_ends_its_request(
    how: str, call: str, gets: type[BaseException], place: str
) -> None:
    assert any(gives_up(how, call, gets, place, seconds) for seconds in (0.5, 2, 10))


def gives_up(how: str, call: str, gets: type[BaseException], place: str, seconds: float) -> bool:
    """False if the asker's time, of so many *seconds*, was over before the moment had come."""
    hub = elsewhere(lambda: dss.open_polled_hub[Any](1))
    came: list[bool] = []
    tokens: list[dss.Request[Any]] = []
    if place == "waiting for room":
        hub.portal.send("filler")

    def moment() -> None:
        until(hub.blocked)
        assert [each.call for each in hub.blocked()] == [call]
        assert hub.statistics().requests.open == 1
        if place == "waiting for room":
            until(lambda: hub.statistics().tasks_waiting_send)
        else:
            until(lambda: len(hub))
        if place == "handled":
            tokens.extend(hub.poll())
            assert not tokens[0].abandoned
            remaining = tokens[0].remaining
            assert (remaining is not None) == (how == "timeout")
            assert remaining is None or 0 <= remaining <= seconds
        came.append(True)

    with pytest.raises(gets):
        getattr(GivingUp(hub.portal, moment, seconds), how)()
    if how == "timeout" and not came:
        hub.close()
        return False
    assert came
    assert hub.blocked() == []
    assert hub.statistics().requests == (0, 0, 0, 0, 1, 0)
    assert hub.statistics().tasks_waiting_send == 0
    for token in tokens:
        assert token.abandoned
        assert token.remaining in (None, 0)
        assert token.reply() is False
        assert token.reply_error(Refused) is False
    left = hub.poll()
    assert left == (["filler"] if place == "waiting for room" else [])
    counts = hub.statistics()
    assert counts.queued == counts.dropped == 0
    assert counts.sent == counts.received + counts.undelivered == 1
    assert counts.undelivered == (place == "queued")
    assert hub.portal.offer("there is room again")
    hub.close()
    return True


def test_a_timeout_of_zero_leaves_the_answer_no_time() -> None:
    hub = elsewhere(lambda: dss.open_polled_hub[Any]())
    with pytest.raises(TimeoutError, match="no answer within 0"):
        hub.portal.request("question", timeout=0)
    assert hub.poll() == []
    hub.close()


def test_a_request_may_wait_for_ever_or_nearly() -> None:
    with dss.open_polled_hub[Any]() as hub:
        for timeout in (None, math.inf, 10**400, 1e9):
            outcome: list[Any] = []
            with threads(
                lambda timeout=timeout: outcome.append(  # type: ignore[misc]
                    hub.portal.request("question", timeout=timeout)
                )
            ):
                assert hub.wait(10)
                (token,) = hub.poll()
                assert token.remaining is None or token.remaining > 1e8
                assert token.reply(ANSWER)
            assert outcome == [ANSWER]


async def test_wait_abandoned_returns_when_the_asker_gives_up() -> None:
    async with dss.open_hub[Any]() as hub:
        future = hub.portal.request_soon("question")
        token = await hub.receive()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(token.wait_abandoned)
            tasks.start_soon(token.wait_abandoned)
            await anyio.wait_all_tasks_blocked()
            assert await anyio.to_thread.run_sync(future.cancel)
        with anyio.fail_after(5):
            await token.wait_abandoned()  # it is so already


async def test_wait_abandoned_returns_when_the_hub_ends() -> None:
    async with anyio.create_task_group() as tasks:
        async with dss.open_hub[Any]() as hub:
            hub.portal.request_soon("question")
            token = await hub.receive()
            tasks.start_soon(token.wait_abandoned)
            await anyio.wait_all_tasks_blocked()


def test_a_question_has_whatever_a_waiter_has() -> None:
    """It sets that itself: see ``Question.__init__``."""
    with dss.open_polled_hub[Any]() as hub:
        hub.portal.request_soon("question")
        (token,) = hub.poll()
        assert [name for name in Waiter.__slots__ if not hasattr(token._question, name)] == []


async def test_wait_abandoned_waits_on_if_it_is_answered_and_leaves_nothing_behind() -> None:
    async with dss.open_hub[Any]() as hub:
        future = hub.portal.request_soon("question")
        token = await hub.receive()
        with anyio.move_on_after(0.02) as scope:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(token.wait_abandoned)
                assert token.reply(ANSWER)
        assert scope.cancelled_caught
        assert token._question._watchers == {}
        assert future.result() == ANSWER


@pytest.mark.parametrize("other", BACKENDS.values(), ids=BACKENDS)
def test_wait_abandoned_works_in_any_event_loop(other: Any) -> None:
    """A polled hub has none itself."""
    with dss.open_polled_hub[Any]() as hub:
        future = hub.portal.request_soon("question")
        (token,) = hub.poll()

        def watch() -> None:
            anyio.run(token.wait_abandoned, backend=other[0], backend_options=other[1])

        with threads(watch):
            until(lambda: token._question._watchers)
            future.cancel()


# -- every race ------------------------------------------------------------------------------------


class Duel:
    """A request that is received, and what is going to settle it. All of it in one thread."""

    def __init__(self) -> None:
        self.hub = dss.open_polled_hub[str](4)
        self.hub._mailbox.home.thread = None  # the one thread plays all the parts
        self.portal = self.hub.register("library")
        self.claims: list[str] = []
        self.future = self.portal.request_soon("question")
        self.tokens: list[Any] = self.hub.poll()
        self.hub._mailbox.home.thread = None

    def reply(self, value: str) -> None:
        if self.tokens[0].reply(value):
            self.claims.append(value)

    def refuse(self) -> None:
        if self.tokens[0].reply_error(Refused):
            self.claims.append("refused")

    def cancel(self) -> None:
        if self.future.cancel() and "cancelled" not in self.claims:  # twice is twice True
            self.claims.append("cancelled")

    def forget(self) -> None:
        # Not ``del``: another call that has the token in hand would keep it alive.
        self.tokens[0].__del__()

    def outcome(self) -> str:
        assert self.future.done()
        try:
            return str(self.future.result())
        except CancelledError:
            return "cancelled"
        except Refused:
            return "refused"
        except (NoReplyError, BrokenResourceError, ClosedResourceError) as exc:
            return type(exc).__name__

    def check(self) -> None:
        """Whoever was told to have won has won, and exactly one ending was counted."""
        outcome = self.outcome()
        assert self.claims == ([outcome] if outcome in CLAIMS else [])
        requests = self.hub.statistics().requests
        counted = [name for name, many in requests._asdict().items() for _ in range(many)]
        assert counted == [ENDINGS[outcome]]
        assert self.tokens[0].abandoned == (ENDINGS[outcome] in ("released", "abandoned"))
        assert self.hub.blocked() == []
        counts = self.hub.statistics()
        assert (counts.sent, counts.received, counts.queued) == (1, 1, 0)
        self.hub.close()


CLAIMS = ("first", "second", "refused", "cancelled")
ENDINGS = {
    "first": "answered",
    "second": "answered",
    "refused": "refused",
    "cancelled": "abandoned",
    "NoReplyError": "unanswered",
    "BrokenResourceError": "released",
    "ClosedResourceError": "released",
}
MOVES: dict[str, Callable[[Duel], object]] = {
    "reply": lambda duel: duel.reply("first"),
    "another reply": lambda duel: duel.reply("second"),
    "refuse": lambda duel: duel.refuse(),
    "forget": lambda duel: duel.forget(),
    "leave the block": lambda duel: duel.tokens[0].__exit__(None, None, None),
    "cancel the future": lambda duel: duel.cancel(),
    "abort the portal": lambda duel: duel.portal.abort(),
    "end the hub": lambda duel: duel.hub._mailbox.end(hub_gone),
}


@contextmanager
def nothing_logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level(logging.DEBUG)
    yield
    assert [record.getMessage() for record in caplog.records] == []


@pytest.mark.parametrize("intrude", MOVES)
@pytest.mark.parametrize("act", MOVES)
def test_of_two_that_settle_a_request_one_wins_at_any_bytecode(
    act: str, intrude: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Guards ``setdefault`` in ``Question.settle``, and that ``finish`` may be called twice."""
    at = 0
    intruded = True
    with nothing_logged(caplog):
        while intruded:
            duel = Duel()
            intruded = run_interrupted(partial(MOVES[act], duel), partial(MOVES[intrude], duel), at)
            duel.check()
            at += 1
    assert at > 5


@pytest.mark.parametrize("ender", ["abort the portal", "end the hub"])
def test_two_that_tell_a_future_at_once_disturb_neither_it_nor_each_other(
    ender: str, caplog: pytest.LogCaptureFixture
) -> None:
    """One thread has decided, and is about to tell the asker; the end of the hub tells it as well.

    Guards ``Question.finish`` between its look at the future and what it does to it.
    """
    at = 0
    intruded = True
    with nothing_logged(caplog):
        while intruded:
            duel = Duel()
            question = duel.tokens[0]._question
            question._outcome.setdefault(None, ("answered", "first"))
            intruded = run_interrupted(
                partial(MOVES[ender], duel), partial(question._tell, "answered"), at
            )
            if not intruded:
                assert question._tell("answered")
            duel.claims.append("first")
            duel.check()
            at += 1


@pytest.mark.parametrize("act", ["reply", "refuse", "forget", "leave the block"])
def test_ctrl_c_at_any_bytecode_of_an_answer_leaves_nobody_waiting(act: str) -> None:
    """Guards the ``except BaseException`` in ``Question.settle``."""

    def strike() -> None:
        raise KeyboardInterrupt

    at = 0
    intruded = True
    while intruded:
        duel = Duel()
        try:
            intruded = run_interrupted(partial(MOVES[act], duel), strike, at)
        except KeyboardInterrupt:
            intruded = True
        if not duel.future.done():
            assert duel.tokens[0].reply("second"), "it was not settled, so it still can be"
        assert duel.future.done()
        duel.hub.close()
        at += 1


class Call:
    """A whole call of ``request`` that has no time to wait, and what comes in between."""

    def __init__(self, max_buffer_size: float = 4, timeout: float = 0) -> None:
        self.hub = dss.open_polled_hub[str](max_buffer_size)
        self.hub._mailbox.home.thread = None
        self.portal = self.hub.register("library")
        self.timeout = timeout
        self.outcome: Any = None
        self.refused_with: type[Exception] | None = None  # raised, and not because of the time
        self.claims: list[str] = []
        self.tokens: list[Any] = []
        self.futures: list[Future[Any]] = []

    def request(self) -> None:
        try:
            self.outcome = self.portal.request("question", timeout=self.timeout)
        except TimeoutError as exc:
            self.outcome = type(exc)
        except Exception as exc:
            self.outcome = self.refused_with = type(exc)

    def request_soon(self) -> None:
        try:
            self.futures.append(self.portal.request_soon("question"))
        except Exception as exc:
            self.outcome = self.refused_with = type(exc)

    def poll(self) -> None:
        try:
            while True:  # what waits for room comes in only when it is free
                batch = self.hub.poll()
                self.tokens += [item for item in batch if item != "filler"]
                if not batch:
                    break
        except (anyio.EndOfStream, ClosedResourceError):
            pass
        self.hub._mailbox.home.thread = None

    def poll_and_reply(self) -> None:
        self.poll()
        for token in self.tokens:
            if token.reply(ANSWER):
                self.claims.append(ANSWER)

    def balanced(self) -> None:
        counts = self.hub.statistics()
        assert counts.sent == counts.received + counts.queued + counts.dropped + counts.undelivered
        assert self.hub.blocked() == []
        assert counts.tasks_waiting_send == 0
        requests = counts.requests._asdict()
        ended = [name for name, many in requests.items() for _ in range(many)]
        if self.refused_with is None:
            assert len(ended) == 1
            assert ended != ["open"]
        else:
            assert len(ended) <= 1  # it was refused at the door, or released
            assert ended != ["open"]


INTRUSIONS: dict[str, tuple[Callable[[Call], object], tuple[type[Exception], ...]]] = {
    "poll and reply": (Call.poll_and_reply, ()),
    "abort": (lambda call: call.portal.abort(), (ClosedResourceError,)),
    "close the portal": (lambda call: call.portal.close(), (ClosedResourceError,)),
    "close the senders": (lambda call: call.hub.close_senders(), (ClosedResourceError,)),
    "end": (lambda call: call.hub.close(), (BrokenResourceError,)),
}


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("intrusion", INTRUSIONS)
def test_a_request_ends_whatever_comes_in_between_at_any_bytecode(
    intrusion: str, full: bool
) -> None:
    """Reply against timeout, and the hub's end against asking: ``_wait_for`` and ``ask``.

    Guards the order in ``Mailbox.ask``: the question is entered before the refusal is read.
    """
    intrude, errors = INTRUSIONS[intrusion]
    at = 0
    intruded = True
    seen: set[Any] = set()
    while intruded:
        call = Call(1 if full else 4)
        if full:
            call.hub.portal.send("filler")
        intruded = run_interrupted(call.request, partial(intrude, call), at)
        if not call.claims:
            assert call.outcome in (TimeoutError, *errors)
        else:
            assert call.outcome == ANSWER
        seen.add(call.outcome)
        call.poll()
        call.balanced()
        for token in call.tokens:
            assert token.reply("too late") is False
        call.hub.close()
        at += 1
    assert seen >= {TimeoutError, *(errors or (ANSWER,))}


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("intrusion", INTRUSIONS)
def test_request_soon_ends_whatever_comes_in_between_at_any_bytecode(
    intrusion: str, full: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """Guards the order in ``Mailbox.ask`` as well, and ``_promise``."""
    intrude, errors = INTRUSIONS[intrusion]
    at = 0
    intruded = True
    with nothing_logged(caplog):
        while intruded:
            call = Call(1 if full else 4)
            if full:
                call.hub.portal.send("filler")
            intruded = run_interrupted(call.request_soon, partial(intrude, call), at)
            call.poll()
            for token in call.tokens:
                if token.reply(ANSWER):
                    call.claims.append(ANSWER)
            if call.futures:
                (future,) = call.futures
                assert future.done(), "accepted and polled, or released"
                exc = future.exception()
                assert bool(call.claims) == (exc is None)
                assert exc is None or type(exc) in errors
            else:
                assert call.outcome in errors
                assert not call.claims
            call.balanced()
            call.hub.close()
            at += 1


@pytest.mark.parametrize("ask", [Call.request, Call.request_soon])
@pytest.mark.parametrize("intrusion", ["abort", "end"])
def test_nobody_is_counted_as_having_given_up_whom_the_end_has_refused_at_any_bytecode(
    intrusion: str, ask: Callable[[Call], None]
) -> None:
    """Guards what ``_wait_for`` and ``_promise`` do if ``Mailbox.enter`` raises."""
    intrude, errors = INTRUSIONS[intrusion]
    at = 0
    intruded = True
    while intruded:
        call = Call()
        intruded = run_interrupted(partial(ask, call), partial(intrude, call), at)
        if call.refused_with in errors:
            assert call.hub.statistics().requests.abandoned == 0
        call.hub.close()
        at += 1


@pytest.mark.parametrize("at_first", ["there is room", "it is full"])
@pytest.mark.parametrize("how", ["close", "close_senders"])
@pytest.mark.parametrize("whose", ["the hub's own portal", "a source"])
def test_a_request_is_received_or_released_if_the_stream_ends_at_any_bytecode_of_asking(
    whose: str, how: str, at_first: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has seen the end of the stream never looks again.

    Guards ``Mailbox._look_again``: what was put after the end is there in vain.
    """

    class Drained(WaitForPlace):
        def __init__(self, *args: Any) -> None:
            with suppress(anyio.EndOfStream):
                hub.poll()  # it was full: when this one gets into the line, there is room
            super().__init__(*args)

    if at_first == "it is full":
        monkeypatch.setattr(_mailbox, "WaitForPlace", Drained)
    endings: set[str] = set()
    for at in count():
        with dss.open_polled_hub[str](1) as hub:
            portal = hub.portal if whose == "the hub's own portal" else hub.register("library")
            if portal is not hub.portal:
                hub.portal.close()
            if at_first == "it is full":
                portal.send("filler")

            def end_the_stream(
                hub: dss.PolledHub[str] = hub, portal: dss.Portal[str] = portal
            ) -> None:
                hub.close_senders() if how == "close_senders" else portal.close()
                with pytest.raises(anyio.EndOfStream):
                    while True:
                        for each in hub.poll():
                            if isinstance(each, dss.Request):
                                assert each.reply(ANSWER)

            futures: list[Future[Any]] = []

            def ask(portal: dss.Portal[str] = portal, futures: list[Future[Any]] = futures) -> None:
                with suppress(ClosedResourceError):  # before it was entered
                    futures.append(portal.request_soon("question"))

            if not run_interrupted(ask, end_the_stream, at):
                end_the_stream()
                assert endings == {"refused", "answered", "released"}
                assert at > 100, "it was hardly traced at all"
                break
            for future in futures:
                assert future.done(), f"nobody ends it if the stream ends before bytecode {at}"
                released = type(future.exception(0)) is ClosedResourceError
                assert released or future.result() == ANSWER
                endings.add("released" if released else "answered")
            if not futures:
                endings.add("refused")
            assert hub.blocked() == []
            assert hub.statistics().requests.open == 0


@pytest.mark.parametrize("policy", ["drop_oldest", "drop_newest"])
@pytest.mark.parametrize("intrude", ["poll and reply", "cancel"])
def test_a_request_that_is_dropped_is_not_polled_at_any_bytecode(policy: Any, intrude: str) -> None:
    """Drop against reply: either the token reaches ``poll``, or the asker is told at once."""
    at = 0
    intruded = True
    while intruded:
        call = Call()
        call.hub.close()
        call.hub = dss.open_polled_hub[str](1, overflow=policy)
        call.hub._mailbox.home.thread = None
        call.portal = call.hub.register("library")
        sender = call.hub.register("sender")
        if policy == "drop_newest":
            sender.send("filler")
        else:
            call.request_soon()

        def act(call: Call = call, sender: Any = sender) -> None:
            if policy == "drop_newest":
                call.request_soon()
            else:
                sender.send("filler")

        def come_in_between(call: Call = call) -> None:
            if intrude == "poll and reply":
                call.poll_and_reply()
            elif call.futures:
                call.futures[0].cancel()

        intruded = run_interrupted(act, come_in_between, at)
        call.poll_and_reply()
        (future,) = call.futures
        assert future.done()
        if future.cancelled():
            assert not call.claims
            assert intrude == "cancel"
        elif call.claims:
            assert future.result() == ANSWER
        else:
            assert isinstance(future.exception(), NoReplyError)
        call.balanced()
        call.hub.close()
        at += 1


def test_a_call_through_the_closing_hub_at_any_bytecode_ends() -> None:
    """``begin_call``: entered before it is handed over, and released by whoever ends the hub."""
    at = 0
    intruded = True
    while intruded:
        call = Call()

        def begin(call: Call = call) -> None:
            try:
                call.futures.append(call.portal.start_task_soon(str))
            except BrokenResourceError:
                call.outcome = BrokenResourceError

        intruded = run_interrupted(begin, call.hub.close, at)
        call.poll()
        for future in call.futures:
            if intruded:
                assert isinstance(future.exception(0), BrokenResourceError)
        assert call.futures or call.outcome
        assert call.hub.blocked() == [] or not intruded
        call.hub.close()
        at += 1


async def test_an_answer_and_a_cancellation_at_once_are_counted_once() -> None:
    """The task is cancelled before it has seen its answer; its asker is gone, the answer stands."""
    async with dss.open_hub[Any]() as hub:
        for cancel_first in (False, True):
            before = hub.statistics().requests
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(hub.portal.arequest, "question")
                token = await hub.receive()
                if cancel_first:
                    tasks.cancel_scope.cancel()
                replied = token.reply(ANSWER)
                tasks.cancel_scope.cancel()
            after = hub.statistics().requests
            assert after.open == 0
            assert sum(after) == sum(before) + 1
            assert after.answered - before.answered == replied
            assert hub.blocked() == []


@pytest.mark.usefixtures("switching_fast")
def test_replies_and_timeouts_race_in_threads_and_agree() -> None:
    agreed: list[tuple[bool, bool]] = []
    with dss.open_polled_hub[Any]() as hub:

        def ask() -> None:
            for number in range(200):
                try:
                    assert hub.portal.request(number, timeout=0.0005) == -number
                    outcomes[number] = True
                except TimeoutError:
                    outcomes[number] = False

        outcomes: dict[int, bool] = {}
        replies: dict[int, bool] = {}
        with threads(ask) as (thread,):
            while thread.is_alive():
                hub.wait(0.01)
                for token in hub.poll():
                    replies[token.item] = token.reply(-token.item)
        agreed = [(outcomes[number], replies.get(number, False)) for number in range(200)]
        assert all(asked == replied for asked, replied in agreed)
        requests = hub.statistics().requests
        assert requests.answered == sum(outcomes.values())
        assert requests.answered + requests.abandoned == 200


# -- exceptions ------------------------------------------------------------------------------------


def the_one_who_asks(portal: dss.Portal[Any], how: str) -> Any:
    if how == "request":
        return portal.request("question")
    if how == "request_soon":
        return portal.request_soon("question").result(10)
    if how == "call":
        return portal.call(the_handler, "question")
    if how == "start_task_soon":
        return portal.start_task_soon(the_handler, "question").result(10)
    return anyio.run(portal.arequest, "question")


async def the_handler(_: Any) -> None:
    await anyio.lowlevel.checkpoint()
    raise Refused("in the handler")


HOW = ["request", "request_soon", "arequest", "call", "start_task_soon"]


@pytest.mark.parametrize("how", HOW)
async def test_the_exception_of_a_handler_shows_both_sides_and_leaves_no_cycle(how: str) -> None:
    """Guards ``Question.result`` and ``finish``, which let go of the exception."""
    async with dss.open_hub[Any]() as hub:
        hub.task_group.start_soon(hub.serve, the_handler)
        names: list[str] = []
        refs: list[weakref.ref[Any]] = []

        def ask() -> None:
            try:
                the_one_who_asks(hub.portal, how)
            except Refused as exc:
                names.extend(each.name for each in traceback.extract_tb(exc.__traceback__))
                refs.append(weakref.ref(exc))

        gc.collect()
        gc.disable()
        try:
            thread = threading.Thread(target=ask)
            thread.start()
            await eventually(lambda: not thread.is_alive())
            await anyio.wait_all_tasks_blocked()
            assert "the_handler" in names
            assert how == "arequest" or "the_one_who_asks" in names
            if how != "arequest":  # asyncio.run() and its task are no concern of ours
                await eventually(lambda: refs[0]() is None, 2)
        finally:
            gc.enable()


async def test_the_exception_in_another_task_leaves_no_cycle() -> None:
    async with dss.open_hub[Any]() as hub:
        hub.task_group.start_soon(hub.serve, the_handler)
        refs: list[weakref.ref[Any]] = []

        async def ask() -> None:
            try:
                await hub.portal.arequest("question")
            except Refused as exc:
                names = [each.name for each in traceback.extract_tb(exc.__traceback__)]
                assert {"the_handler", "ask"} <= set(names)
                refs.append(weakref.ref(exc))

        gc.collect()
        gc.disable()
        try:
            await ask()
            await anyio.wait_all_tasks_blocked()
            assert refs[0]() is None
        finally:
            gc.enable()


def test_the_very_object_that_refuses_is_raised() -> None:
    with dss.open_polled_hub[Any]() as hub:
        refusal = Refused("no")
        future = hub.portal.request_soon("question")
        hub.poll()[0].reply_error(refusal)
        assert future.exception() is refusal

        caught: list[BaseException] = []

        def ask() -> None:
            try:
                hub.portal.request("question")
            except Refused as exc:
                caught.append(exc)

        with threads(ask):
            assert hub.wait(10)
            hub.poll()[0].reply_error(refusal)
        assert caught == [refusal]


@pytest.mark.parametrize("way", ["forgotten", "ended", "abandoned"])
def test_an_error_of_ours_leaves_no_cycle(way: str) -> None:
    class Item:
        pass

    hub = elsewhere(lambda: dss.open_polled_hub[Any]())
    item = Item()  # the frames in a traceback have it; nothing can refer weakly to a TimeoutError
    refs: list[weakref.ref[Any]] = [weakref.ref(item)]

    def end() -> None:
        if way == "abandoned":
            return
        until(lambda: len(hub))
        if way == "ended":
            hub.close()
        else:
            hub.poll()

    gc.collect()
    gc.disable()
    try:
        with threads(end):
            try:
                hub.portal.request(item, timeout=0.01 if way == "abandoned" else None)
            except (NoReplyError, BrokenResourceError) as exc:
                assert way != "abandoned"
                refs.append(weakref.ref(exc))
            except TimeoutError:
                assert way == "abandoned"
        del item
        if way == "abandoned":
            hub.poll()  # passes over it
        assert [ref() for ref in refs] == [None] * len(refs)
    finally:
        gc.enable()
    hub.close()


def test_an_answer_is_not_kept() -> None:
    class Answer:
        pass

    with dss.open_polled_hub[Any]() as hub:
        future = hub.portal.request_soon("question")
        (token,) = hub.poll()
        answer = Answer()
        ref = weakref.ref(answer)
        assert token.reply(answer)
        del answer
        assert future.result() is ref()
        del future
        gc.collect()
        assert ref() is None, "the token is still there"


def test_a_question_in_the_queue_is_freed_when_its_asker_has_gone_and_it_was_passed_over() -> None:
    class Item:
        pass

    with dss.open_polled_hub[Any](1) as hub:
        for full in (False, True):
            if full:
                hub.portal.send("filler")
            item = Item()
            ref = weakref.ref(item)
            hub.portal.request_soon(item).cancel()
            del item
            hub.poll()
            gc.collect()
            assert ref() is None


# -- the queue -------------------------------------------------------------------------------------


async def test_items_and_requests_of_one_thread_come_in_its_order() -> None:
    async with dss.open_hub[Any](math.inf) as hub:
        futures: list[Future[Any]] = []

        def send(portal: dss.Portal[Any]) -> None:
            for number in range(0, 300, 3):
                portal.send(number)
                futures.append(portal.request_soon(number + 1))
                portal.send_many([number + 2])

        library = hub.register("library")
        await anyio.to_thread.run_sync(send, hub.portal)
        await anyio.to_thread.run_sync(send, library)
        for _ in range(2):
            items: list[Any] = []
            for _ in range(300):
                entry = await hub.receive()
                if isinstance(entry, dss.Request):
                    assert entry.item % 3 == 1
                    assert entry.reply(entry.item)
                    items.append(entry.item)
                else:
                    items.append(entry)
            assert items == list(range(300))
        assert [future.result() for future in futures] == 2 * list(range(1, 300, 3))


def test_receiving_many_brings_items_and_requests_in_order() -> None:
    with dss.open_polled_hub[Any]() as hub:
        for number in range(6):
            (hub.portal.send if number % 2 else hub.portal.request_soon)(number)
        got = [getattr(entry, "item", entry) for entry in hub.poll()]
        assert got == list(range(6))


def test_waiting_requests_come_in_the_order_in_which_they_were_asked() -> None:
    """``request_soon`` never waits itself: in a full hub the request has its place in a line."""
    with dss.open_polled_hub[Any](1) as hub:
        futures = [hub.portal.request_soon(number) for number in range(5)]
        assert (len(hub), hub.statistics().tasks_waiting_send) == (1, 4)
        assert [each.call for each in hub.blocked()] == ["request_soon"] * 5
        items: list[int] = []
        while len(items) < 5:
            assert len(hub) == 1
            for token in hub.poll(1):
                items.append(token.item)
                assert token.reply(-token.item)
        assert items == list(range(5))
        assert [future.result(0) for future in futures] == [-number for number in range(5)]
        assert hub.blocked() == []


def test_an_abandoned_request_is_skipped_and_its_room_is_free() -> None:
    with dss.open_polled_hub[Any](2) as hub:
        first = hub.portal.request_soon("first")
        second = hub.portal.request_soon("second")
        third = hub.portal.request_soon("third")
        first.cancel()
        assert [token.item for token in hub.poll()] == ["second"]
        assert [token.item for token in hub.poll()] == ["third"]
        assert isinstance(second.exception(0), NoReplyError)
        assert isinstance(third.exception(0), NoReplyError)
        counts = hub.statistics()
        assert (counts.received, counts.undelivered, counts.sent) == (2, 1, 3)
        assert counts.requests == (0, 0, 2, 0, 1, 0)


async def test_a_receiver_sleeps_on_over_abandoned_requests() -> None:
    async with dss.open_hub[Any]() as hub:
        got: list[Any] = []

        async def receive() -> None:
            got.append(await hub.receive())

        hub.task_group.start_soon(receive)
        await asleep(hub)
        for _ in range(300):
            hub.portal.request_soon("question").cancel()
        await eventually(lambda: not len(hub))
        await asleep(hub)
        hub.portal.send("item")
        await eventually(lambda: got)
        assert got == ["item"]
        assert hub.statistics().undelivered == 300


def test_a_dropped_or_undelivered_request_goes_to_its_asker_and_not_to_on_undelivered() -> None:
    handed_back: list[Any] = []
    hub = dss.open_polled_hub[Any](1, overflow="drop_oldest")
    portal = hub.register("library", on_undelivered=handed_back.append)
    dropped = portal.request_soon("dropped")
    undelivered = portal.request_soon("undelivered")
    assert isinstance(dropped.exception(0), NoReplyError)
    assert "dropped" in str(dropped.exception())
    hub.close()
    assert isinstance(undelivered.exception(0), BrokenResourceError)
    assert handed_back == []
    counts = hub.statistics()
    assert (counts.dropped, counts.undelivered) == (1, 1)


def test_a_request_is_decoded_in_place() -> None:
    with dss.open_polled_hub[Any]() as hub:
        portal = hub.register("library", decode=lambda raw: raw * 2)
        future = portal.request_soon(21)
        (token,) = hub.poll()
        assert (token.item, token.source) == (42, "library")
        assert repr(token) == "<Request of 'library': 42, open>"
        token.reply(token.item)
        assert future.result() == 42
        hub.portal.request_soon(1)
        (token,) = hub.poll()
        assert (token.item, token.source) == (1, None)
        assert repr(token) == "<Request: 1, open>"


def test_the_asker_and_on_error_each_have_an_exception_of_their_own() -> None:
    """Two threads that write their tracebacks into one mix them, or crash: see ``twin``."""
    error = Refused("cannot be decoded")
    library = Library()

    def decode(_: Any) -> None:
        raise error

    future = library.hub.register("other", decode=decode).request_soon(1)
    assert library.hub.poll() == []
    assert library.hub.poll() == []  # errors are told when nothing is there
    assert future.exception(0) is error
    [(reported, source)] = library.reports
    assert (type(reported), reported.args, source) == (Refused, error.args, "other")
    assert reported is not error
    assert [frame.name for frame in traceback.extract_tb(reported.__traceback__)][-1] == "decode"
    library.hub.close()


def test_a_request_may_be_sent_on_and_answered_in_another_hub() -> None:
    handed_back: list[Any] = []
    with (
        dss.open_polled_hub[Any]() as front,
        dss.open_polled_hub[Any](1, overflow="drop_newest") as back,
    ):
        portal = back.register(
            "front", decode=lambda entry: entry, on_undelivered=handed_back.append
        )
        futures = [front.portal.request_soon(number) for number in range(3)]
        for token in front.poll():
            portal.send(token)  # there is room for one only
        assert [token.item for token in handed_back] == [1, 2]
        (first,) = back.poll()
        assert first.reply("from behind")
        assert futures[0].result(0) == "from behind"
        assert handed_back[0].reply("handed back")
        assert futures[1].result(0) == "handed back"
        handed_back.clear()
        del token
        assert isinstance(futures[2].exception(5), NoReplyError)
        assert front.statistics().requests == (2, 0, 1, 0, 0, 0)
        assert back.statistics().requests == (0, 0, 0, 0, 0, 0)
        assert (back.statistics().received, back.statistics().dropped) == (1, 2)


def test_a_request_that_is_sent_on_is_received_though_its_asker_has_gone() -> None:
    """Then it is an item of that hub, and an item is not lost."""
    with dss.open_polled_hub[Any]() as front, dss.open_polled_hub[Any]() as back:
        future = front.portal.request_soon("question")
        back.portal.send(front.poll()[0])
        back.register("library").send(front.portal)
        future.cancel()
        token, other = back.poll()
        assert token.abandoned
        assert other is front.portal


async def test_a_rendezvous_hub_answers() -> None:
    async with dss.open_hub[Any](0) as hub:
        future = hub.portal.request_soon("question")
        assert len(hub) == 0
        assert hub.statistics().tasks_waiting_send == 1
        token = await hub.receive()
        assert hub.statistics().tasks_waiting_send == 0
        assert token.reply(ANSWER)
        assert future.result(0) == ANSWER

        hub.task_group.start_soon(hub.serve, lambda item: item + 1)
        await asleep(hub)
        outcome: list[Any] = []
        ask = threading.Thread(target=lambda: outcome.append(hub.portal.request(1, timeout=10)))
        ask.start()
        await eventually(lambda: outcome)
        assert outcome == [2]
        assert await hub.portal.arequest(2) == 3
        ask.join()


def test_a_rendezvous_in_a_polled_hub_answers() -> None:
    with dss.open_polled_hub[Any](0) as hub:
        future = hub.portal.request_soon("question")
        outcome: list[Any] = []
        with threads(lambda: outcome.append(hub.portal.request("another", timeout=10))):
            while not (future.done() and outcome):
                hub.wait(0.01)
                for token in hub.poll():
                    assert token.reply(token.item)
        assert (future.result(), outcome) == ("question", ["another"])
        with pytest.raises(TimeoutError):
            elsewhere(lambda: hub.portal.request("nobody polls", timeout=0.01))
        assert hub.poll() == []
        assert hub.statistics().requests == (2, 0, 0, 0, 1, 0)
        assert hub.statistics().sent == 2


def test_poll_yields_requests_that_are_answered_now_or_later_from_anywhere() -> None:
    with dss.open_polled_hub[Any]() as hub:
        futures = [hub.portal.request_soon(number) for number in range(3)]
        now, later, never = hub.poll()
        assert now.reply("now")
        hub.portal.send("item")
        assert hub.poll() == ["item"]
        assert elsewhere(lambda: later.reply("later"))
        del never
        assert futures[0].result(0) == "now"
        assert futures[1].result(0) == "later"
        assert isinstance(futures[2].exception(5), NoReplyError)


# -- wrong use -------------------------------------------------------------------------------------


async def test_asking_in_the_hubs_own_thread_fails_at_once() -> None:
    async with dss.open_hub[Any]() as hub:
        with pytest.raises(RuntimeError, match=r"arequest.*request_soon"):
            hub.portal.request("question")
        with dss.open_polled_hub[Any]() as polled:
            with pytest.raises(RuntimeError, match=r"request\(\) would block the very thread"):
                polled.portal.request("question", timeout=5)
            assert len(polled) == 0
            assert polled.statistics().requests == (0, 0, 0, 0, 0, 0)
        assert len(hub) == 0
        assert hub.blocked() == []
        assert hub.statistics().requests == (0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize(
    ("timeout", "error"),
    [(-1, ValueError), (-0.001, ValueError), (math.nan, ValueError), ("1", TypeError)],
)
def test_a_wrong_timeout_is_refused(timeout: Any, error: type[Exception]) -> None:
    with dss.open_polled_hub[Any]() as hub:
        with pytest.raises(error, match="timeout must"):
            elsewhere(lambda: hub.portal.request("question", timeout=timeout))
        with pytest.raises(error, match="timeout must"):
            hub.portal.request_callback(timeout=timeout)
        assert hub.statistics().requests == (0, 0, 0, 0, 0, 0)


def test_a_wrong_pack_is_refused() -> None:
    with dss.open_polled_hub[Any]() as hub, pytest.raises(TypeError, match="pack must be callable"):
        hub.portal.request_callback(5, timeout=1)  # type: ignore[call-overload]


class NeedsAnArgument(Exception):  # noqa: N818
    def __init__(self, argument: object) -> None:
        super().__init__(argument)


@pytest.mark.parametrize(
    ("exc", "message"),
    [
        (5, "an exception is needed, not 5"),
        (int, "an exception is needed"),
        (None, "an exception is needed"),
        ("text", "reply\\(\\) takes any value"),
        (asyncio.CancelledError(), "belongs to an event loop"),
        (asyncio.CancelledError, "belongs to an event loop"),
        (GeneratorExit, "belongs to an event loop"),
        (NeedsAnArgument, "argument"),
    ],
)
def test_a_wrong_refusal_raises_and_leaves_the_request_open(exc: Any, message: str) -> None:
    with dss.open_polled_hub[Any]() as hub:
        future = hub.portal.request_soon("question")
        (token,) = hub.poll()
        with pytest.raises(TypeError, match=message):
            token.reply_error(exc)
        assert not future.done()
        assert token.reply(ANSWER)
        assert future.result(0) == ANSWER


@pytest.mark.parametrize("exc", [KeyboardInterrupt, SystemExit(3)])
def test_what_ends_a_program_may_refuse(exc: Any) -> None:
    with dss.open_polled_hub[Any]() as hub:
        future = hub.portal.request_soon("question")
        assert hub.poll()[0].reply_error(exc)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            future.result(0)


def test_after_the_end_every_call_fails_at_once_and_nothing_is_counted() -> None:
    hub = dss.open_polled_hub[Any]()
    closed = hub.register("library")
    closed.close()
    for portal, error in ((closed, ClosedResourceError), (hub.portal, BrokenResourceError)):
        if portal is hub.portal:
            hub.close()
        with pytest.raises(error):
            elsewhere(lambda portal=portal: portal.request("question"))  # type: ignore[misc]
        with pytest.raises(error):
            portal.request_soon("question")
        with pytest.raises(error):
            anyio.run(portal.arequest, "question")
    assert hub.blocked() == []
    assert hub.statistics().sent == 0
    assert hub.statistics().requests == (0, 0, 0, 0, 0, 0)


# -- what is handed to a library -------------------------------------------------------------------


class Library:
    """A polled hub whose reports are kept, and a callback that is called as a library would."""

    def __init__(self, **options: Any) -> None:
        self.reports: list[tuple[BaseException, str | None]] = []
        self.hub = dss.open_polled_hub[Any](
            1, on_error=lambda exc, source: self.reports.append((exc, source)), **options
        )
        self.portal = self.hub.register("library")

    def call(
        self, callback: Callable[..., Any], act: Callable[[list[Any]], object], *args: Any
    ) -> Any:
        """What *callback* returns, or raises; *act* gets what it has asked."""

        def run() -> None:
            try:
                outcome.append(callback(*args))
            except BaseException as exc:
                outcome.append(exc)

        outcome: list[Any] = []
        with threads(run):
            self.hub.wait(10)
            act(self.hub.poll())
        return outcome[0]


CALLBACK_ENDINGS: dict[str, tuple[Callable[[Library, list[Any]], object], Any]] = {
    "answered": (lambda _, tokens: tokens[0].reply(ANSWER), ANSWER),
    "refused": (lambda _, tokens: tokens[0].reply_error(Refused), Refused),
    "refused by an exit": (lambda _, tokens: tokens[0].reply_error(SystemExit), SystemExit),
    "forgotten": (lambda _, tokens: tokens.clear(), NoReplyError),
    "hub ended": (lambda library, _: library.hub.close(), BrokenResourceError),
    "portal aborted": (lambda library, _: library.portal.abort(), ClosedResourceError),
    "timeout": (lambda library, _: until(lambda: not library.hub.blocked()), TimeoutError),
}


@pytest.mark.parametrize("how", CALLBACK_ENDINGS)
@pytest.mark.parametrize("with_default", [True, False])
def test_a_request_callback_returns_the_answer_or_its_default_or_raises(
    how: str, with_default: bool
) -> None:
    act, gets = CALLBACK_ENDINGS[how]
    library = Library()
    options: dict[str, Any] = {"default": b"silence"} if with_default else {}
    callback = library.portal.request_callback(timeout=0.3 if how == "timeout" else 10, **options)
    outcome = library.call(callback, lambda tokens: act(library, tokens), "question")
    if gets == ANSWER:
        assert outcome == ANSWER
    elif with_default:
        assert outcome == b"silence"
    else:
        assert type(outcome) is gets
    if not library.hub._mailbox.ended:
        library.hub.poll()
    # With a default, an exception of a handler's is seen by nobody else.
    reported = [type(exc) for exc, source in library.reports if source == "library"]
    expected = [gets] if with_default and gets in (Refused, SystemExit) else []
    assert reported == expected
    assert library.hub.blocked() == []
    library.hub.close()


def test_a_request_callback_packs_its_arguments() -> None:
    library = Library()
    answer = partial(map, lambda token: token.reply(token.item))

    def reply(tokens: list[Any]) -> None:
        list(answer(tokens))

    plain = library.portal.request_callback(timeout=10)
    assert library.call(plain, reply, 1) == 1
    assert library.call(plain, reply, 1, 2) == (1, 2)
    assert library.call(plain, reply) == ()
    packing = library.portal.request_callback(lambda a, b: {a: b}, timeout=None)
    assert library.call(packing, reply, "a", "b") == {"a": "b"}
    keywords = library.portal.request_callback(dict, timeout=10)
    assert library.call(partial(keywords, a=1), reply) == {"a": 1}
    with pytest.raises(NoReplyError, match="nothing was asked"):
        elsewhere(partial(plain, a=1))  # keywords need a pack
    library.hub.close()


@pytest.mark.parametrize("error", [Refused, KeyboardInterrupt, asyncio.CancelledError])
def test_a_pack_that_raises_is_reported_to_the_hub_and_nothing_is_asked(
    error: type[BaseException],
) -> None:
    def pack(*_: Any) -> None:
        raise error

    library = Library()
    with_default = library.portal.request_callback(pack, timeout=5, default=0)
    assert elsewhere(with_default) == 0
    without = library.portal.request_callback(pack, timeout=5)
    with pytest.raises(NoReplyError, match="nothing was asked"):
        elsewhere(without)
    assert len(library.hub) == 0
    all_told(library.hub, library.reports, 2)
    assert [(type(exc), source) for exc, source in library.reports] == [(error, "library")] * 2
    assert library.hub.statistics().errors == 2
    assert library.hub.statistics().requests == (0, 0, 0, 0, 0, 0)
    library.hub.close()


def test_a_request_callback_in_the_hubs_own_thread_does_not_wait() -> None:
    """Foreign callbacks also arrive on the loop's own thread."""
    library = Library()
    assert library.portal.request_callback(timeout=None, default=7)("question") == 7
    with pytest.raises(RuntimeError, match="would block the very thread"):
        library.portal.request_callback(timeout=None)("question")
    library.hub.poll()
    assert [type(exc) for exc, _ in library.reports] == [RuntimeError]
    library.hub.close()


@pytest.mark.parametrize("end", ["hub closed", "portal closed", "portal aborted", "senders closed"])
def test_a_request_callback_is_valid_for_ever(end: str) -> None:
    library = Library()
    packed: list[Any] = []
    with_default = library.portal.request_callback(packed.append, timeout=None, default="default")
    without = library.portal.request_callback(packed.append, timeout=None)
    {
        "hub closed": library.hub.close,
        "portal closed": library.portal.close,
        "portal aborted": library.portal.abort,
        "senders closed": library.hub.close_senders,
    }[end]()
    for _ in range(3):
        assert elsewhere(lambda: with_default("question")) == "default"
        with pytest.raises((BrokenResourceError, ClosedResourceError)):
            without("question")
    assert library.hub.statistics().late == 6
    assert packed == []
    assert library.hub.statistics().errors == 0
    assert library.hub.statistics().requests == (0, 0, 0, 0, 0, 0)
    library.hub.close()


@pytest.mark.parametrize("with_default", [True, False])
async def test_no_exception_of_an_event_loop_escapes_into_a_library(with_default: bool) -> None:
    """The handler is cancelled, by the loop; its asker in another thread only gets no reply."""
    async with dss.open_hub[Any]() as hub:
        options: dict[str, Any] = {"default": 0} if with_default else {}
        callback = hub.portal.request_callback(timeout=10, **options)
        outcome: list[Any] = []

        def run() -> None:
            try:
                outcome.append(callback("question"))
            except BaseException as exc:
                outcome.append(exc)

        thread = threading.Thread(target=run)
        thread.start()
        with anyio.CancelScope() as scope:

            async def handler(_: Any) -> None:
                scope.cancel()
                await anyio.sleep_forever()

            await hub.serve(handler)
        await eventually(lambda: outcome)
        thread.join()
        if with_default:
            assert outcome == [0]
        else:
            assert type(outcome[0]) is NoReplyError


@pytest.mark.skipif(sys.platform == "win32", reason="needs pthread_kill")
def test_with_a_default_ctrl_c_in_the_callback_is_reported_and_not_raised() -> None:
    reports: list[BaseException] = []
    hub = elsewhere(lambda: dss.open_polled_hub[Any](on_error=lambda exc, _: reports.append(exc)))
    main = threading.get_ident()

    def strike() -> None:
        until(hub.blocked)
        until(lambda: len(hub))
        signal.pthread_kill(main, signal.SIGINT)

    callback = hub.portal.request_callback(timeout=None, default="default")
    with threads(strike):
        assert callback("question") == "default"
    assert hub.poll() == []
    assert [type(exc) for exc in reports] == [KeyboardInterrupt]
    assert hub.statistics().requests == (0, 0, 0, 0, 1, 0)
    hub.close()


# -- whoever settles it cannot tell ----------------------------------------------------------------


def test_an_answer_for_which_there_is_no_stack_left_is_heard_within_a_second_or_at_the_end() -> (
    None
):
    """Guards the look between two slices of a wait, and ``_untold``."""
    answers: list[Any] = []
    with dss.open_polled_hub[str]() as hub:
        future = hub.portal.request_soon("first")
        with threads(lambda: answers.append(hub.portal.request("second"))):
            requests: list[dss.Request[str]] = []
            until(lambda: requests.extend(hub.poll()) or len(requests) == 2)

            def reply(request: dss.Request[str]) -> bool:
                try:
                    return reply(request)
                except RecursionError:
                    return request.reply("answer")  # raises as well, or could do no more

            for request in requests:
                with suppress(RecursionError):
                    reply(request)
        assert answers == ["answer"]
    assert future.result(5) == "answer"


def test_a_request_that_is_sent_on_is_answered_although_its_own_hub_takes_nothing_new() -> None:
    """It has waited for room in another hub, as an item. Guards ``is_queued`` in ``admit``."""
    with dss.open_polled_hub[Any]() as first, dss.open_polled_hub[Any](1) as second:
        future = first.portal.request_soon("question")
        [request] = first.poll()
        second.portal.send("it is full")
        with threads(lambda: second.portal.send(request)):
            until(second.blocked)
            first.close_senders()
            assert second.poll() == ["it is full"]
            assert second.poll() == [request]
        assert request.reply("answer")
        assert future.result(10) == "answer"
