"""The surroundings of a plain function that we call outside of tasks, in a wake of the loop.

Such a function expects to run in a task. A task for it alone would cost one more round of the loop.
But a function that cannot await asks little of its task, and asyncio lets any code say which task
runs (``_enter_task`` and ``_leave_task``, in the documentation under *Extending*).
"""

from __future__ import annotations

import asyncio

# Documented for authors of event loops, under "Extending" in the documentation of asyncio.
from asyncio import _enter_task, _leave_task  # pyright: ignore[reportPrivateUsage]
from collections.abc import Callable
from contextvars import Context
from typing import Any, TypeAlias

from .closing import is_asyncios
from .way import native_loop

# Calls a function with its arguments, in its surroundings.
Surround: TypeAlias = Callable[..., Any]


def surround_calls() -> Surround:
    """Return a function that calls plain functions in this event loop as if in a task.

    For calls outside of tasks. asyncio: in a task without a cancel scope, the same task for all of
    them. trio has a task of its own there, which defers Ctrl-C; the function itself does not defer
    it, as in ``trio.from_thread.run_sync``.
    """
    native = native_loop()
    if not isinstance(native, asyncio.AbstractEventLoop):
        return _let_ctrl_c_in()
    # The task ends in the next round, and cannot be cancelled after that; so nothing of ours is
    # left in the loop. It has a context of its own, or it would keep alive the first caller's.
    task = Context().run(native.create_task, _nothing())
    task.set_name("dss_anyio: plain functions")
    return _in_task(task)


def surround_as(task: Any) -> Surround:
    """The same as if in *task*, which waits, and in its cancel scopes (trio: in none)."""
    return _in_task(task) if is_asyncios(task) else _let_ctrl_c_in()


def _in_task(task: asyncio.Task[Any]) -> Surround:
    loop = task.get_loop()

    def surround(func: Callable[..., Any], *args: Any) -> Any:
        _enter_task(loop, task)
        try:
            return func(*args)
        finally:
            _leave_task(loop, task)

    return surround


def _let_ctrl_c_in() -> Surround:
    from trio.lowlevel import disable_ki_protection

    @disable_ki_protection
    def surround(func: Callable[..., Any], *args: Any) -> Any:
        return func(*args)

    return surround


async def _nothing() -> None:
    pass
