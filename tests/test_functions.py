"""Coroutine functions where a plain one is called: refused when they are given, by name."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from functools import partial, partialmethod
from typing import Any

import pytest
from conftest import registered

import dss_anyio as dss
from dss_anyio._core.functions import is_async


async def coroutine(*_: object) -> None:
    pass


async def asyncgen(*_: object) -> AsyncIterator[None]:
    yield


def plain(*_: object) -> None:
    pass


class Async:
    async def __call__(self, *_: object) -> None:
        pass

    async def method(self, *_: object) -> None:
        pass

    @classmethod
    async def of_class(cls, *_: object) -> None:
        pass

    @staticmethod
    async def static(*_: object) -> None:
        pass

    in_part = partialmethod(method, 1)


class Plain:
    def __call__(self, *_: object) -> None:
        pass

    def method(self, *_: object) -> None:
        pass


class Wrapped:
    __call__ = Async.static


ASYNC: list[Any] = [
    coroutine,
    asyncgen,
    Async(),
    Async().method,
    Async.of_class,
    Async.static,
    Async().in_part,
    Wrapped(),
    partial(coroutine, 1),
    partial(partial(Async().method, 1), 2),
    partial(Async(), 1),
]
PLAIN: list[Any] = [plain, Plain(), Plain().method, Plain, Async, print, [].append, str.upper]


@pytest.mark.parametrize("func", ASYNC)
def test_a_coroutine_function_is_seen_through_whatever_it_is_wrapped_in(func: Any) -> None:
    assert is_async(func)


@pytest.mark.parametrize("func", [*PLAIN, partial(plain, 1), partial(Plain().method)])
def test_a_plain_callable_is_taken_for_one(func: Any) -> None:
    assert not is_async(func)


@pytest.mark.parametrize("func", ASYNC)
@pytest.mark.parametrize("open_hub", [dss.open_hub, dss.open_polled_hub, dss.start_hub])
def test_a_coroutine_function_as_on_error_is_refused_at_once(
    open_hub: Callable[..., object], func: Any
) -> None:
    with pytest.raises(TypeError, match="on_error must be a plain function, not the coroutine"):
        open_hub(on_error=func)


@pytest.mark.parametrize("func", ASYNC)
@pytest.mark.parametrize("what", ["decode", "on_undelivered"])
def test_a_coroutine_function_as_a_hook_of_a_source_is_refused_at_once(
    what: str, func: Any
) -> None:
    with dss.open_polled_hub[Any]() as hub:
        with pytest.raises(TypeError, match=f"{what} must be a plain function, not the coroutine"):
            hub.register("source", **{what: func})
        assert not registered(hub)


@pytest.mark.anyio
@pytest.mark.parametrize("what", ["decode", "on_undelivered"])
async def test_open_source_refuses_it_before_it_starts_anything(what: str) -> None:
    begun: list[object] = []
    async with dss.open_hub[Any]() as hub:
        with pytest.raises(TypeError, match=f"{what} must be a plain function"):
            async with hub.open_source("source", begun.append, plain, **{what: coroutine}):
                pass
        assert not registered(hub)
    assert not begun
