"""Handlers: a function that is called with each item, and answers the requests among them."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from functools import partial
from time import monotonic
from typing import Any, TypeAlias, TypeVar

from anyio import ClosedResourceError, EndOfStream, Event, WouldBlock, create_task_group
from anyio.lowlevel import checkpoint

from ._calling import is_awaitable
from ._errors import not_open, receiver_closed
from ._receiver import TURN, TURN_SECONDS, Receiver, Sleepers
from ._request import TOKEN, Request, answer, question_of

T_Item = TypeVar("T_Item")
Handler: TypeAlias = Callable[[T_Item], Any]


async def serve(
    receiver: Receiver[T_Item],
    sleepers: Sleepers,
    handler: Handler[T_Item],
    max_concurrency: float,
    on_error: Callable[[BaseException], object] | None,
) -> None:
    if not callable(handler):
        raise TypeError(f"handler must be callable, not {handler!r}")
    check_concurrency(max_concurrency)
    way_in = sleepers.mailbox.way_in
    if way_in is None:
        raise not_open()
    context = copy_context()
    context.run(way_in.name_loop)  # in a wake no task is there to ask
    running = 0
    one_has_ended = Event()
    over = closed = False  # the stream
    struck: list[BaseException] = []  # what is raised in the end

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

    def handle(entry: Any) -> None:
        nonlocal running
        request: Request[T_Item] | None = None
        item = entry
        if type(entry) is TOKEN:
            request = entry
            item = entry.item
        try:
            result = context.copy().run(handler, item)
        except Exception as exc:
            if request is not None:
                question_of(request).settle("refused", exc)
            elif on_error is not None:
                on_error(exc)
            else:
                raise
        else:
            if is_awaitable(result):
                running += 1
                tasks.start_soon(run, request, result, name=handler)
            elif request is not None:
                question_of(request).settle("answered", result)

    def work() -> bool:
        """Handle what is there. False if there is something else to do: the task has to go on.

        It is called by the task, and in a wake that has just arrived, which spares the requests of
        a thread that asks one by one a trip through the event loop each. So it must not raise: that
        would end a whole trio run.
        """
        nonlocal over, closed
        begun = monotonic()
        mailbox = sleepers.mailbox
        items = mailbox.items
        try:
            while True:
                for _ in range(TURN):
                    if running >= max_concurrency:
                        return False  # nothing is in hand while we wait
                    try:
                        entry = receiver.receive_nowait()
                    except WouldBlock:
                        return True
                    except EndOfStream:
                        over = True
                        return False
                    except ClosedResourceError:
                        over = closed = True
                        return False
                    handle(entry)
                    del entry  # or it would not be forgotten until the next one comes
                    done = not items and not mailbox.waiting and running < max_concurrency
                    if done and not receiver._closed:  # pyright: ignore[reportPrivateUsage]
                        return True  # whoever goes to sleep looks for all else that there may be
                if monotonic() - begun > TURN_SECONDS:
                    return False
        except BaseException as exc:
            over = True
            struck.append(exc)
        return False

    async with create_task_group() as tasks:
        while not over:
            if context.run(work):
                await sleepers.sleep(receiver, partial(context.run, work))
            elif running >= max_concurrency:
                one_has_ended = Event()
                await one_has_ended.wait()
            else:
                await checkpoint()  # a turn is over, or the stream: then a cancellation comes first
        if struck:
            raise struck.pop()
    if closed:
        raise receiver_closed()


def check_concurrency(max_concurrency: float) -> None:
    if max_concurrency == math.inf:
        return
    if not isinstance(max_concurrency, int) or isinstance(max_concurrency, bool):
        raise TypeError(f"max_concurrency must be an integer or math.inf, not {max_concurrency!r}")
    if max_concurrency < 1:
        raise ValueError(f"max_concurrency must be at least 1, got {max_concurrency}")
