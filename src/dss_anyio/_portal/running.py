"""How a function runs in the hub's thread because another thread has called it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import copy_context
from functools import partial
from inspect import iscoroutine
from typing import Any

from .._core.errors import (
    ends_the_program,
    hub_gone,
    is_a_loops_own,
    no_event_loop,
    not_open,
)
from .._core.mailbox import Mailbox
from .._core.question import Question
from .._core.request import answer, is_awaitable
from .._core.source import Lane
from .._loops.surroundings import surround_calls


def begin_call(
    question: Question,
    mailbox: Mailbox,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
    name: object = None,
) -> None:
    """Have *func* called soon, in the hub's thread; its result settles *question*."""
    if not callable(func):
        check_function(func)
    call_soon = mailbox.home.call_soon
    if call_soon is None:
        raise not_open(mailbox, question.lane)
    mailbox.enter(question)
    run: Callable[..., object] = copy_context().run
    try:
        call_soon(partial(run, _call, question, mailbox, func, args, kwargs, name))
    except RecursionError:
        raise  # a RuntimeError as well, but it is the caller's
    except RuntimeError:
        mailbox.end(hub_gone)  # the loop is gone, and the hub with it


def _call(
    question: Question,
    mailbox: Mailbox,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None,
    name: object,
) -> None:
    """In the hub's thread. In an event loop it must not raise: that would end a whole trio run."""
    if question.settled:
        return  # the caller has given up in the meantime
    try:
        home = mailbox.home
        if kwargs is not None:
            func = partial(func, **kwargs)
        if home.way_in is not None:
            if home.surround is None:
                home.way_in.name_loop()
                home.surround = surround_calls()
            result = home.surround(func, *args)
        else:
            result = func(*args)
        if is_awaitable(result):
            _start(mailbox, question, result, name if name is not None else func)
        else:
            question.settle("answered", result)
    except BaseException as exc:
        told = question.fail(exc)
        if mailbox.home.way_in is None and ends_the_program(exc):
            raise  # Ctrl-C in a poll() is raised in the polling thread, too
        if not told:
            _report(question, mailbox, exc)


def _start(mailbox: Mailbox, question: Question, awaitable: Awaitable[Any], name: object) -> None:
    home = mailbox.home
    task_group = home.task_group()
    if task_group is None or home.way_in is None:
        if iscoroutine(awaitable):
            awaitable.close()
        lane = question.lane
        raise no_event_loop(lane) if home.is_polled else hub_gone(lane)
    home.has_tasks = True
    home.way_in.name_loop()  # we are outside of all tasks here
    task_group.start_soon(_answer, mailbox, question, awaitable, name=name)


async def _answer(mailbox: Mailbox, question: Question, awaitable: Awaitable[Any]) -> None:
    try:
        await answer(question, awaitable)
    except BaseException as exc:
        if ends_the_program(exc) or is_a_loops_own(exc):
            raise
        _report(question, mailbox, exc)


def _report(question: Question, mailbox: Mailbox, exc: BaseException) -> None:
    """The asker has gone. Drop an ``Exception``; report any other exception, such as a panic."""
    if not isinstance(exc, Exception) and not is_a_loops_own(exc):
        mailbox.reports.add(mailbox.bell, question.lane.source.name, exc)


def check_function(func: object) -> None:
    if not callable(func):
        raise TypeError(f"a function is needed, not {func!r}")


def check_coroutine_function(mailbox: Mailbox, lane: Lane) -> None:
    """Raise if the hub can have no tasks, before the user's function is called."""
    if mailbox.home.way_in is None:
        raise no_event_loop(lane) if mailbox.home.is_polled else not_open(mailbox, lane)
