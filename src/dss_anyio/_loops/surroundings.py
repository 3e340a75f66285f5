"""What a plain function finds around it that is called outside of tasks, in a wake of the loop.

A task for it alone would cost one more round of the loop. But what a function that cannot await
may ask of its task is little, and asyncio lets anybody say which task runs (``_enter_task`` and
``_leave_task``, in the documentation under *Extending*).
"""

from __future__ import annotations

import asyncio

# Documented for those who write event loops, under "Extending" in the documentation of asyncio.
from asyncio import _enter_task, _leave_task  # pyright: ignore[reportPrivateUsage]
from collections.abc import Callable
from contextvars import Context
from typing import Any, TypeAlias

from .closing import is_asyncios
from .way import native_loop

# Calls a function with arguments.
Surround: TypeAlias = Callable[..., Any]


def surround_calls() -> Surround:
    """Return what calls plain functions in this event loop outside of tasks, as if in a task.

    asyncio: in a task without a cancel scope, the same for all of them. trio has a task of its own
    there already, in which it holds back Ctrl-C; not in the function, as in
    ``trio.from_thread.run_sync``.
    """
    native = native_loop()
    if not isinstance(native, asyncio.AbstractEventLoop):
        return _let_ctrl_c_in()
    # It ends in the next round, and cannot be cancelled then; nothing of ours is left in the loop.
    # In a context of its own, or it would hold what is in the first caller's.
    task = Context().run(native.create_task, _nothing())
    task.set_name("dss_anyio: plain functions")
    return _in_task(task)


def surround_as(task: Any) -> Surround:
    """The same in the place of *task*, which waits, with its cancel scopes (trio: without)."""
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
