"""Functions that other threads have called in the hub's thread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import copy_context
from functools import partial
from inspect import isawaitable, iscoroutine
from types import GeneratorType
from typing import Any

from ._errors import hub_gone, no_event_loop, not_open
from ._mailbox import Mailbox
from ._request import Question, answer


def begin_call(
    question: Question,
    mailbox: Mailbox,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
    name: object = None,
) -> None:
    """Have *func* called soon, in the hub's thread; its result settles *question*."""
    check_function(func)
    call_soon = mailbox.call_soon
    if call_soon is None:
        raise not_open()
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
        return  # whoever asked has given up meanwhile
    try:
        if mailbox.way_in is not None:
            mailbox.way_in.name_loop()
        result = func(*args) if kwargs is None else func(*args, **kwargs)
        if is_awaitable(result):
            _start(mailbox, question, result, name if name is not None else func)
        else:
            question.settle("answered", result)
    except BaseException as exc:
        question.fail(exc)
        if not isinstance(exc, Exception) and mailbox.way_in is None:
            raise  # Ctrl-C in a poll() is its caller's as well


def _start(mailbox: Mailbox, question: Question, awaitable: Awaitable[Any], name: object) -> None:
    task_group = mailbox.task_group
    if task_group is None:
        if iscoroutine(awaitable):
            awaitable.close()
        raise no_event_loop()
    mailbox.has_tasks = True
    task_group.start_soon(answer, question, awaitable, name=name)


def check_function(func: object) -> None:
    if not callable(func):
        raise TypeError(f"a function is needed, not {func!r}")


def check_coroutine_function(mailbox: Mailbox) -> None:
    """Raise if the hub can have no tasks. Before a function is called to no purpose."""
    if mailbox.way_in is None:
        raise no_event_loop() if mailbox.call_soon is not None else not_open()


def is_awaitable(value: object) -> bool:
    """As ``inspect.isawaitable``, at a tenth of the price: it is asked of each answer."""
    cls: type = type(value)
    return hasattr(cls, "__await__") or (cls is GeneratorType and isawaitable(value))
