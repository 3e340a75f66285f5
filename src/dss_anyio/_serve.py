"""Handlers: a function that is called with each item, and answers the requests among them."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from inspect import isawaitable
from typing import Any, TypeAlias, TypeVar, cast

from anyio import ClosedResourceError, Event, create_task_group

from ._receiver import Receiver
from ._request import Request, answer, question_of

T_Item = TypeVar("T_Item")
Handler: TypeAlias = Callable[[T_Item], Any]


async def serve(
    receiver: Receiver[T_Item],
    handler: Handler[T_Item],
    max_concurrency: float,
    on_error: Callable[[BaseException], object] | None,
) -> None:
    if not callable(handler):
        raise TypeError(f"handler must be callable, not {handler!r}")
    check_concurrency(max_concurrency)
    context = copy_context()
    running = 0
    one_has_ended = Event()

    async def run(request: Request[T_Item] | None, awaitable: Awaitable[Any]) -> None:
        nonlocal running
        try:
            if request is not None:
                await answer(question_of(request), awaitable)
            else:
                await awaitable
        except Exception as exc:
            if on_error is None:
                raise
            on_error(exc)
        finally:
            running -= 1
            one_has_ended.set()

    closed: ClosedResourceError | None = None
    async with create_task_group() as tasks:
        while True:
            while running >= max_concurrency:  # nothing is in hand while we wait
                one_has_ended = Event()
                await one_has_ended.wait()
            try:
                entry: Any = await receiver.__anext__()
            except StopAsyncIteration:
                break
            except ClosedResourceError as exc:
                closed = exc
                break
            request: Request[T_Item] | None = None
            item = entry
            if isinstance(entry, Request):
                request = cast("Request[T_Item]", entry)
                item = request.item
            try:
                result = context.copy().run(handler, item)
            except Exception as exc:
                if request is not None:
                    request.reply_error(exc)
                elif on_error is not None:
                    on_error(exc)
                else:
                    raise
            else:
                if isawaitable(result):
                    running += 1
                    tasks.start_soon(run, request, result, name=handler)
                elif request is not None:
                    request.reply(result)
            del entry, request  # or it would not be forgotten until the next one comes
    if closed is not None:
        raise closed


def check_concurrency(max_concurrency: float) -> None:
    if max_concurrency == math.inf:
        return
    if not isinstance(max_concurrency, int) or isinstance(max_concurrency, bool):
        raise TypeError(f"max_concurrency must be an integer or math.inf, not {max_concurrency!r}")
    if max_concurrency < 1:
        raise ValueError(f"max_concurrency must be at least 1, got {max_concurrency}")
