"""What a library gets has the type that was promised to it."""

from __future__ import annotations

import ctypes
from functools import partial
from typing import Any

import anyio
import anyio.to_thread
import pytest

import dss_anyio as dss
from dss_anyio.testing import threads

VETO = 7


class Told(list[Any]):
    def __call__(self, exc: BaseException, source: str | None) -> None:
        self.append((type(exc), source))


@pytest.mark.anyio
async def test_c_gets_what_convert_makes_or_the_default() -> None:
    ints = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int)
    told = Told()
    answers = {1: 1, 2: None, 3: "3", 4: "four", 5: 2.9}
    async with dss.open_hub(on_error=told) as hub:
        portal = hub.register("device")
        ask = ints(portal.request_callback(timeout=10, default=VETO, convert=int))
        tell = ints(portal.send_callback(returns=0))
        hub.task_group.start_soon(hub.serve, answers.get)
        got = [await anyio.to_thread.run_sync(ask, item) for item in answers]
        got.append(await anyio.to_thread.run_sync(tell, 1))
    assert got == [1, VETO, 3, VETO, 2, 0]
    assert told == [(TypeError, "device"), (ValueError, "device")]
    assert (ask(1), tell(1)) == (VETO, 0)  # for ever


def test_convert_is_not_called_with_the_default_nor_after_the_end() -> None:
    with dss.open_polled_hub() as hub:
        ask = hub.portal.request_callback(timeout=0.001, default="default", convert=pytest.fail)
        got: list[Any] = []
        with threads(lambda: got.append(ask(1))):
            pass
    assert (got, ask(1)) == (["default"], "default")


def test_without_a_default_what_convert_refuses_is_reported_here_and_raised_as_no_reply() -> None:
    told = Told()
    raised: list[Any] = []
    with dss.open_polled_hub(on_error=told) as hub:
        ask = hub.register("device").request_callback(timeout=10, convert=int)

        def asker() -> None:
            try:
                ask("question")
            except Exception as exc:
                raised.append(exc)

        with threads(asker):
            assert hub.wait(10)
            (request,) = hub.poll()
            request.reply("no number")
        hub.poll()
    assert [type(exc) for exc in raised] == [dss.NoReplyError]
    assert raised[0].__cause__ is None
    assert told == [(ValueError, "device")]


def test_a_send_callback_returns_what_was_chosen_whatever_becomes_of_the_item() -> None:
    told = Told()
    with dss.open_polled_hub(1, on_error=told) as hub:
        portal = hub.register("device")
        send = portal.send_callback(returns=0)
        fails = portal.send_callback(lambda item: 1 // item, returns=-1)
        assert [send("taken"), send("dropped"), send(), send(key=1), fails(0)] == [0, 0, 0, 0, -1]
    assert (send("late"), fails(0)) == (0, -1)
    assert (TypeError, "device") in told and (ZeroDivisionError, "device") in told
    assert hub.statistics().late == 2


def test_a_coroutine_function_cannot_be_called_in_a_librarys_thread() -> None:
    async def function(*_: object) -> None: ...

    with dss.open_polled_hub() as hub:
        portal = hub.portal
        for what, make in (
            ("pack", portal.send_callback),
            ("pack", partial(portal.request_callback, timeout=1)),
            ("convert", lambda func: portal.request_callback(timeout=1, convert=func)),
        ):
            for func in (function, partial(function, 1)):
                with pytest.raises(TypeError, match=f"^{what} must be a plain function"):
                    make(func)
            with pytest.raises(TypeError, match=f"^{what} must be callable"):
                make(1)
