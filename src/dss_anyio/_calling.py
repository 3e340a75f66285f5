"""Functions that other threads have called in the hub's thread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import copy_context
from inspect import isawaitable, iscoroutine
from typing import Any

from ._errors import no_event_loop, not_open
from ._mailbox import Mailbox
from ._request import Question, answer
from ._wake import name_loop


def begin_call(
    mailbox: Mailbox,
    question: Question,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any] | None = None,
    name: object = None,
) -> None:
    """Have *func* called soon, in the hub's thread; its result settles *question*."""
    if not callable(func):
        raise TypeError(f"a function is needed, not {func!r}")
    call_soon = mailbox.call_soon
    if call_soon is None:
        raise not_open()
    context = copy_context()

    def run() -> None:
        if not question.settled:  # whoever asked has not given up meanwhile
            context.run(_call, mailbox, question, func, args, kwargs or {}, name)

    mailbox.enter(question)
    call_soon(run)


def _call(
    mailbox: Mailbox,
    question: Question,
    func: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    name: object,
) -> None:
    """In the hub's thread. In an event loop it must not raise: it would end a whole trio run."""
    name_loop()
    try:
        result = func(*args, **kwargs)
        if isawaitable(result):
            _start(mailbox, question, result, name if name is not None else func)
        else:
            question.settle("answered", result)
    except BaseException as exc:
        question.fail(exc)
        if not isinstance(exc, Exception) and mailbox.task_group() is None:
            raise  # Ctrl-C in a poll() is its caller's as well


def _start(mailbox: Mailbox, question: Question, awaitable: Awaitable[Any], name: object) -> None:
    task_group = mailbox.task_group()
    if task_group is None:
        if iscoroutine(awaitable):
            awaitable.close()
        raise no_event_loop()
    task_group.start_soon(answer, question, awaitable, name=name)


def check_coroutine_function(mailbox: Mailbox) -> None:
    """Raise if the hub can have no tasks. Before a function is called to no purpose."""
    if mailbox.task_group() is None:
        raise no_event_loop() if mailbox.call_soon is not None else not_open()
