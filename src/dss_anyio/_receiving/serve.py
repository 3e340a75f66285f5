"""Handlers: a function that is called with each item, and answers the requests among them."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextvars import copy_context
from functools import partial
from inspect import iscoroutine
from time import monotonic
from typing import Any, TypeAlias, TypeVar

from anyio import Event, create_task_group, current_effective_deadline
from anyio.lowlevel import checkpoint

from .._core.errors import ends_the_program, is_a_loops_own, named, not_open, note, receiver_closed
from .._core.reports import OnError
from .._core.request import TOKEN, Request, answer, is_awaitable, question_of
from .._core.source import Source
from .._core.steps import TURN, TURN_SECONDS
from .._loops.closing import running_task
from .._loops.surroundings import Surround, surround_as
from .sleepers import End, Sleepers

T_Item = TypeVar("T_Item")
Handler: TypeAlias = Callable[[T_Item], Any]


async def serve(
    sleepers: Sleepers,
    end: End,
    handler: Handler[T_Item],
    max_concurrency: float,
    on_error: OnError | None,
) -> None:
    if not callable(handler):
        raise TypeError(f"handler must be callable, not {handler!r}")
    check_concurrency(max_concurrency)
    way_in = sleepers.mailbox.home.way_in
    if way_in is None:
        raise not_open(sleepers.mailbox)
    sleepers.check_here(end)
    context = copy_context()
    context.run(way_in.name_loop)  # in a wake there is no task from which anyio could tell
    surround = surround_as(running_task())
    running = 0
    one_has_ended = Event()
    over = closed = False  # is the stream over? Because this end or the hub was closed?
    struck: list[BaseException] = []  # the exception that ``serve`` raises in the end

    async def run(
        source: Source, request: Request[T_Item] | None, awaitable: Awaitable[Any]
    ) -> None:
        nonlocal running
        try:
            if request is not None:
                await answer(question_of(request), awaitable)
            else:
                await awaitable
        except GeneratorExit:
            raise
        except BaseException as exc:
            if is_a_loops_own(exc):
                if _is_cancelled():
                    raise
                exc = _cancelled_elsewhere(exc, source, sleepers)
            elif not isinstance(exc, Exception) and (request is None or ends_the_program(exc)):
                raise
            if on_error is None:
                note(exc, f"in {_handler_of(source, sleepers)}")
                raise exc
            on_error(exc, source.name)
        finally:
            running -= 1
            one_has_ended.set()

    def handle(source: Source, entry: Any, call: Surround) -> None:
        nonlocal running
        request: Request[T_Item] | None = None
        item = entry
        if type(entry) is TOKEN:
            request = entry
            item = entry.item
        try:
            result = context.copy().run(call, handler, item)
        except BaseException as exc:
            told = request is not None and question_of(request).fail(exc)
            if ends_the_program(exc):
                raise
            if told or (request is not None and isinstance(exc, Exception)):
                return
            if is_a_loops_own(exc):
                exc = _cancelled_elsewhere(exc, source, sleepers)
            elif request is None and not isinstance(exc, Exception):
                raise
            if on_error is None:
                note(exc, f"in {_handler_of(source, sleepers)}")
                raise exc
            on_error(exc, source.name)
        else:
            if is_awaitable(result):
                running += 1
                tasks.start_soon(run, source, request, result, name=handler)
            elif request is not None:
                question_of(request).settle("answered", result)

    def work(call: Surround = _call) -> bool:
        """Handle the items that are there. False if the task has other work and must go on.

        The task calls this, and so does a wake that has just arrived. The wake saves a trip through
        the event loop for each request of a thread that asks one by one. So this must not raise: an
        exception in a wake ends a whole trio run.
        """
        nonlocal over, closed
        begun = monotonic()
        mailbox = sleepers.mailbox
        registry, entries = mailbox.registry, mailbox.line.entries
        try:
            while True:
                for _ in range(TURN):
                    if running >= max_concurrency:
                        return False  # we hold no item while we wait
                    if end.closed or registry.ended:
                        over = closed = True
                        return False
                    # Read before the queue: if the senders were closed by now, all items are in it.
                    finished = not registry.open_lanes
                    taken = mailbox.take_with_source()
                    if taken is None:
                        sleepers.report_errors()
                        over = finished and not mailbox.entries()
                        return not over
                    handle(*taken, call)
                    del taken  # or we would keep a request alive until the next item comes
                    done = not entries and not mailbox.meeting.waiting and running < max_concurrency
                    if done and mailbox.inlets is not None:
                        done = not mailbox.entries()
                    if done and not end.closed:
                        return True  # before it sleeps, the task makes all other checks
                if monotonic() - begun > TURN_SECONDS:
                    return False
        except BaseException as exc:
            over = True
            struck.append(exc)
        return False

    async with create_task_group() as tasks:
        while not over:
            if context.run(work):
                await sleepers.sleep(end, partial(context.run, work, surround))
            elif running >= max_concurrency:
                one_has_ended = Event()
                await one_has_ended.wait()
            else:
                await checkpoint()  # a turn, or the stream, is over: a cancellation comes first
        if struck:
            raise struck.pop()
    if closed:
        raise receiver_closed(sleepers.mailbox)


def _call(func: Callable[..., Any], *args: Any) -> Any:
    return func(*args)


def _is_cancelled() -> bool:
    """Was this very task cancelled, or has its handler awaited another one that was?"""
    if current_effective_deadline() == -math.inf:
        return True
    task = running_task()
    # Python 3.10 does not count; there a native cancellation of the task goes to ``on_error``.
    return bool(getattr(task, "cancelling", int)())


def _handler_of(source: Source, sleepers: Sleepers) -> str:
    return f"the handler of an item of {named(source.name, sleepers.mailbox.books)}"


def _cancelled_elsewhere(exc: BaseException, source: Source, sleepers: Sleepers) -> RuntimeError:
    error = RuntimeError(
        f"{_handler_of(source, sleepers)} was cancelled by a task or function that it has awaited "
        "or called"
    )
    error.__cause__ = exc
    return error


def handle(source: Source, entry: Any, handler: Handler[Any], on_error: OnError) -> None:
    """Call the plain function *handler* with the item of *entry*; the result answers a request."""
    request: Request[Any] | None = entry if type(entry) is TOKEN else None
    try:
        result = handler(entry if request is None else request.item)
        if iscoroutine(result):
            result.close()
            raise TypeError(f"{handler!r} has returned a coroutine, and no event loop runs it here")
    except BaseException as exc:
        if request is not None:
            question_of(request).fail(exc)
        elif isinstance(exc, Exception):
            on_error(exc, source.name)
        if not isinstance(exc, Exception):
            raise
    else:
        if request is not None:
            question_of(request).settle("answered", result)


def check_concurrency(max_concurrency: float) -> None:
    if max_concurrency == math.inf:
        return
    if not isinstance(max_concurrency, int) or isinstance(max_concurrency, bool):
        raise TypeError(f"max_concurrency must be an integer or math.inf, not {max_concurrency!r}")
    if max_concurrency < 1:
        raise ValueError(f"max_concurrency must be at least 1, got {max_concurrency}")
