"""Errors that no waiting caller receives: told in turns, once; telling does not feed on itself."""

from __future__ import annotations

import itertools
import logging
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from bytecodes import run_interrupted

import dss_anyio as dss
from dss_anyio._core.errors import twin
from dss_anyio._core.reports import MOST_REPORTS
from dss_anyio._core.steps import TURN_SECONDS
from dss_anyio.testing import threads

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup


def fail(*_: object) -> Any:
    raise ZeroDivisionError


# -- in turns --------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_errors_are_told_in_turns_between_which_the_loop_runs() -> None:
    told: list[float] = []
    looks: list[int] = []  # how many were told when the loop came round

    def on_error(exc: BaseException, _: str | None) -> None:
        told.append(time.monotonic())
        while time.monotonic() < told[-1] + 2 * TURN_SECONDS:
            pass

    async with dss.open_hub[int](on_error=on_error) as hub:

        async def look() -> None:
            while True:
                looks.append(len(told))
                await anyio.lowlevel.checkpoint()

        failing = hub.portal.send_callback(fail)
        for _ in range(50):
            failing()
        with anyio.fail_after(20):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(look)
                tasks.start_soon(hub.receive)
                while len(told) < 50:
                    await anyio.sleep(0)
                tasks.cancel_scope.cancel()
    turns = [after - before for before, after in itertools.pairwise(looks)]
    assert max(turns) <= 2  # in one round, of trio, there may be the end of one and another


@pytest.mark.anyio
async def test_a_receiver_can_be_cancelled_while_errors_come_faster_than_they_are_told() -> None:
    over = threading.Event()

    def on_error(exc: BaseException, _: str | None) -> None:
        with threads(failing):
            pass

    def library() -> None:
        while not over.is_set():
            failing()

    async with dss.open_hub[int](on_error=on_error) as hub:
        failing = hub.portal.send_callback(fail)
        with threads(library):
            try:
                for receive in (hub.receive, hub.receive_many, hub.__anext__):
                    with anyio.move_on_after(0.05) as scope:
                        await receive()
                    assert scope.cancelled_caught
            finally:
                over.set()


def test_a_poll_tells_one_turn_and_stays_readable_for_the_rest() -> None:
    told: list[float] = []

    def on_error(exc: BaseException, _: str | None) -> None:
        told.append(0.0)
        while time.monotonic() < until[0]:
            pass

    until = [0.0]
    with dss.open_polled_hub[int](on_error=on_error) as hub:
        failing = hub.portal.send_callback(fail)
        for _ in range(MOST_REPORTS):
            failing()
        until[0] = time.monotonic() + 0.001  # the first one takes longer than a turn
        hub.poll()
        assert len(told) == 1
        rounds = 1
        while len(told) < MOST_REPORTS:
            assert hub.wait(0) is False  # errors are no items; this tells a turn as well
            hub.poll()
            rounds += 1
        assert rounds <= MOST_REPORTS


def test_a_wait_ends_in_time_while_errors_come_faster_than_they_are_told() -> None:
    def on_error(exc: BaseException, _: str | None) -> None:
        with threads(failing):
            pass

    with dss.open_polled_hub[int](on_error=on_error) as hub:
        failing = hub.portal.send_callback(fail)
        failing()
        begun = time.monotonic()
        assert hub.wait(0.05) is False
        assert time.monotonic() - begun < 10


# -- nothing feeds on itself -----------------------------------------------------------------------


class IntoTheHub(logging.Handler):
    """As a program may have one: but its ``pack`` fails, for each record."""

    def __init__(self, portal: dss.Portal[Any]) -> None:
        super().__init__()
        self.emit = portal.send_callback(fail)  # type: ignore[method-assign]


@pytest.mark.parametrize("poll", ["poll", "wait", "close"])
def test_a_report_that_causes_a_report_is_cut_off_and_counted(poll: str) -> None:
    acts: dict[str, Callable[[dss.PolledHub[Any]], object]] = {
        "poll": lambda hub: hub.poll(),
        "wait": lambda hub: hub.wait(0),
        "close": lambda hub: hub.close(),
    }
    with dss.open_polled_hub[Any]() as hub:
        handler = IntoTheHub(hub.portal)
        logger = logging.getLogger("dss_anyio")
        logger.addHandler(handler)
        try:
            hub.portal.send_callback(fail)()
            acts[poll](hub)
            assert not hub._mailbox.reports
        finally:
            logger.removeHandler(handler)
        assert hub.statistics().errors == (1 if poll == "close" else 2)


@pytest.mark.anyio
async def test_a_report_that_causes_a_report_leaves_the_loop_alone() -> None:
    async with dss.open_hub[Any](on_error=lambda *_: failing()) as hub:
        failing = hub.portal.send_callback(fail)
        failing()
        with anyio.move_on_after(0.05) as scope:
            await hub.receive()
        assert scope.cancelled_caught
        assert hub.statistics().errors == 2


def test_a_nested_poll_in_on_error_does_not_tell_the_next_one_inside_of_the_first() -> None:
    """A dialog that shows an error runs a loop of its own, which polls."""
    depth: list[int] = []
    told: list[int] = []

    def on_error(exc: BaseException, _: str | None) -> None:
        depth.append(1)
        assert hub.poll() == []
        told.append(len(depth))
        depth.pop()

    with dss.open_polled_hub[Any](on_error=on_error) as hub:
        failing = hub.portal.send_callback(fail)
        for _ in range(3):
            failing()
        while len(told) < 3:
            hub.poll()
    assert told == [1, 1, 1]


# -- once ------------------------------------------------------------------------------------------


def test_two_that_tell_at_any_bytecode_tell_each_error_once() -> None:
    """One polls, the other closes the hub, in another thread."""

    def close() -> None:
        with threads(hub.close):
            pass

    def poll() -> None:
        try:
            hub.poll()
        except anyio.ClosedResourceError:
            pass

    at = 0
    while True:
        told: list[str | None] = []
        hub = dss.open_polled_hub[Any](on_error=lambda _, source: told.append(source))  # noqa: B023
        names = [f"source {number}" for number in range(3)]
        for name in names:
            hub.register(name).send_callback(fail)()
        interrupted = run_interrupted(poll, close, at, only_shared=True)
        hub.close()
        assert sorted(told) == names, f"at {at}"
        if not interrupted:
            break
        at += 1
    assert at > 3


def test_no_error_of_a_stop_is_lost_if_on_error_wants_to_leave_or_others_tell() -> None:
    def leave(exc: BaseException, source: str | None) -> None:
        told.append(type(exc))
        raise SystemExit(3)

    told: list[type[BaseException]] = []
    hub = dss.open_polled_hub[Any](on_error=leave)
    stopping = hub.register("library", stop=fail)
    stopping.send_callback(lambda: {}["missing"])()
    stopping.send_callback(lambda: {}["missing"])()
    with pytest.raises(SystemExit):
        hub.close()
    assert told == [KeyError, KeyError, ZeroDivisionError]


# -- exceptions of classes that misbehave ----------------------------------------------------------


class NoCopyError(Exception):
    def __reduce__(self) -> Any:
        raise SystemExit("copied")


class CopyIsNoneError(Exception):
    def __copy__(self) -> Any:
        return "no exception"


class CopyIsAnotherError(Exception):
    def __copy__(self) -> Any:
        return GeneratorExit()


class NoTextError(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")

    __repr__ = __str__


class BaseTextError(Exception):
    def __repr__(self) -> str:
        raise BaseExceptionGroup("text", [GeneratorExit()])


class DeepTextError(Exception):
    def __repr__(self) -> str:
        raise RecursionError  # which handlers of logging pass on


class NoCauseError(Exception):
    def __setattr__(self, name: str, value: object) -> None:
        raise RuntimeError(name)


ODD = [
    NoCopyError,
    CopyIsNoneError,
    CopyIsAnotherError,
    NoTextError,
    BaseTextError,
    DeepTextError,
    NoCauseError,
]


@pytest.mark.parametrize("odd", ODD)
def test_a_twin_is_an_exception_of_the_same_class(odd: type[Exception]) -> None:
    assert type(twin(odd())) is odd


@pytest.mark.parametrize("hook", [True, False], ids=["on_error", "logging"])
@pytest.mark.parametrize("odd", ODD)
def test_an_odd_exception_ends_no_poll(
    odd: type[Exception], hook: bool, caplog: pytest.LogCaptureFixture
) -> None:
    def odd_one(*_: object) -> Any:
        raise odd

    def on_error(exc: BaseException, _: str | None) -> None:
        raise odd

    with dss.open_polled_hub[Any](on_error=on_error if hook else None) as hub:
        source = hub.register("source", decode=odd_one, on_undelivered=odd_one)
        source.send_callback(odd_one)()
        source.send(1)
        future = source.request_soon(2)
        for _ in range(5):
            assert hub.poll() == []
        assert type(future.exception(0)) is odd
        assert hub.statistics().errors == 4


@pytest.mark.anyio
@pytest.mark.parametrize("odd", ODD)
async def test_an_odd_exception_ends_no_event_loop(
    odd: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    def odd_one(*_: object) -> Any:
        raise odd

    async with dss.open_hub[Any]() as hub:
        source = hub.register("source", decode=odd_one, on_undelivered=odd_one)
        hub.task_group.start_soon(hub.serve, lambda item: item)
        await anyio.wait_all_tasks_blocked()
        with threads(source.send_callback(odd_one), lambda: source.send(1)):
            pass
        future = source.request_soon(2)
        while not future.done():
            await anyio.sleep(0)
        assert type(future.exception(0)) is odd
