"""``PolledHub.dispatch``: a handler for a program without an event loop."""

from __future__ import annotations

import functools
import select
import threading
from typing import Any

import anyio
import pytest
from conftest import all_told

import dss_anyio as dss
from dss_anyio.testing import threads, until


class Told(list[Any]):
    def __call__(self, exc: BaseException, source: str | None) -> None:
        self.append((repr(exc), source))


def test_what_the_handler_returns_answers_and_what_it_raises_refuses() -> None:
    got: list[Any] = []

    def ask() -> None:
        with portal:
            portal.send("item")
            got.append(portal.request("question", timeout=10))
            with pytest.raises(LookupError, match="bad"):
                portal.request("bad", timeout=10)

    def handle(item: str) -> str:
        if item == "bad":
            raise LookupError(item)
        return f"answer to {item}"

    told = Told()
    with dss.open_polled_hub(on_error=told) as hub:
        portal = hub.register("worker")
        handled = 0
        hub.portal.close()
        with threads(ask), pytest.raises(anyio.EndOfStream):
            while hub.wait(10):
                handled += hub.dispatch(handle)
    assert (handled, got, told) == (3, ["answer to question"], [])


def test_the_error_of_a_plain_item_is_told_with_its_source_and_the_next_is_handled() -> None:
    told = Told()
    handled: list[int] = []

    def handle(item: int) -> None:
        handled.append(item)
        if item:
            raise ValueError(item)

    with dss.open_polled_hub(on_error=told) as hub:
        one, two = hub.register("one"), hub.register("two")
        for portal, item in ((one, 1), (hub.portal, 2), (two, 3), (one, 0)):
            portal.send(item)
        assert hub.dispatch(handle) == 4
        all_told(hub, told, 3)
        assert told == [("ValueError(1)", "one"), ("ValueError(2)", None), ("ValueError(3)", "two")]
        assert not select.select([hub], [], [], 0)[0]
    assert handled == [1, 2, 3, 0]


def test_at_most_so_many_and_what_comes_meanwhile_is_for_the_next_call() -> None:
    handled: list[int] = []

    def handle(item: int) -> None:
        handled.append(item)
        hub.portal.send(item + 10)

    with dss.open_polled_hub() as hub:
        hub.portal.send_many([1, 2, 3])
        assert hub.dispatch(handle, 2) == 2
        assert select.select([hub], [], [], 10)[0]
        assert hub.dispatch(handle) == 3
        assert handled == [1, 2, 3, 11, 12]
        assert len(hub) == 3
        assert hub.dispatch(lambda _: None) == 3
        assert hub.dispatch(handle) == 0
        with pytest.raises(ValueError, match="max_items"):
            hub.dispatch(handle, 0)


def test_what_ends_the_program_leaves_the_other_items_and_releases_the_asker() -> None:
    def handle(item: str) -> None:
        if item != "fine":
            raise SystemExit(item)

    raised: list[Any] = []

    def ask() -> None:
        try:
            hub.portal.request("exit", timeout=10)
        except BaseException as exc:
            raised.append(exc)

    with dss.open_polled_hub() as hub, threads(ask):
        until(lambda: len(hub) == 1)
        hub.portal.send_many(["exit now", "fine"])
        for _ in range(2):
            with pytest.raises(SystemExit):
                hub.dispatch(handle)
            assert hub.wait(0)
        assert hub.poll() == ["fine"]
    assert [type(exc) for exc in raised] == [SystemExit]


def test_senders_that_wait_for_a_place_get_in_also_with_no_places() -> None:
    handled: list[int] = []
    with dss.open_polled_hub(0) as hub:
        portal = hub.portal
        with threads(lambda: portal.send(1), lambda: portal.send(1)):
            until(lambda: len(hub.blocked()) == 2)
            assert hub.dispatch(handled.append) == 2
    assert handled == [1, 1]


def test_a_handler_may_end_the_hub_and_the_rest_is_handed_back() -> None:
    back: list[int] = []
    hub = dss.open_polled_hub()
    hub.register("source", on_undelivered=back.append).send_many([1, 2, 3])
    assert hub.dispatch(lambda _: hub.close()) == 1
    assert back == [2, 3]
    with pytest.raises(anyio.ClosedResourceError):
        hub.dispatch(print)


def test_decode_and_calls_work_as_in_poll() -> None:
    told, handled = Told(), list[Any]()
    with dss.open_polled_hub(on_error=told) as hub:
        hub.register("numbers", decode=int).send_many(["1", "x", "3"])
        future = hub.portal.start_task_soon(threading.get_ident)
        while hub.wait(0):
            hub.dispatch(handled.append)
        assert future.result(0) == threading.get_ident()
    assert handled == [1, 3]
    assert [source for _, source in told] == ["numbers"]


def test_a_coroutine_function_is_refused_at_once_and_a_coroutine_when_it_comes() -> None:
    async def handle(_: object) -> None: ...

    told = Told()
    with dss.open_polled_hub(on_error=told) as hub:
        hub.register("source").send(1)
        for handler in (handle, functools.partial(handle)):
            with pytest.raises(TypeError, match=r"handler must be a plain function.*hub\.serve"):
                hub.dispatch(handler)
        with pytest.raises(TypeError, match="handler must be callable"):
            hub.dispatch(None)  # type: ignore[arg-type]
        assert len(hub) == 1
        assert hub.dispatch(lambda item: handle(item)) == 1  # closed, or Python would warn of it
    ((exc, source),) = told
    assert "has returned a coroutine" in exc
    assert source == "source"
