"""Two unusual ends of a block: it is left with GeneratorExit, or in another task.

First: may a block that is left with GeneratorExit still await?

GeneratorExit comes in two ways. ``aclose()`` of an async generator throws it in at the ``yield``
where the generator stands: a task awaits ``aclose()``, so the generator may await as well. The
other way: a coroutine is destroyed, because its event loop was closed or its task was forgotten. It
gets the exception at the ``await`` where it stands. If it awaits again, Python raises RuntimeError,
and it never goes on.

A running task is no proof that we may await: a collector may destroy the coroutines of one loop
while a task of another loop runs. The two ways differ in the place where the exception came in, so
we look there.
"""

from __future__ import annotations

import asyncio
import dis
import sys

# Documented for authors of event loops, under "Extending" in the documentation of asyncio.
from asyncio import _enter_task, _leave_task  # pyright: ignore[reportPrivateUsage]
from inspect import CO_GENERATOR
from types import TracebackType
from typing import Any

from anyio import CancelScope
from anyio.abc import TaskGroup

# The lowest two bits of the argument of RESUME: where the function goes on. It is in the
# documentation of ``dis``. (Python 3.10 and PyPy wait for others in YIELD_FROM; on 3.10 the place
# of a coroutine that is destroyed there is the LOAD_CONST just before.)
_WHERE, _AFTER_YIELD_FROM, _AFTER_AWAIT = 3, 2, 3


def may_await(exc: BaseException | None) -> bool:
    """May a block that is left with *exc* await at its end? In the thread that leaves it.

    False if its coroutine is being destroyed, or if no task runs here.
    """
    return not isinstance(exc, GeneratorExit) or (
        running_task() is not None and not _is_being_destroyed(exc)
    )


def running_task() -> Any:
    """The task of asyncio or trio that runs in this thread; None outside of tasks."""
    try:
        task: Any = asyncio.current_task()
    except RuntimeError:
        task = None
    trio: Any = sys.modules.get("trio")
    if task is None and trio is not None:  # trio may be the guest of an asyncio loop
        try:
            task = trio.lowlevel.current_task()
        except RuntimeError:
            pass
    return task


async def leave_elsewhere(task_group: TaskGroup, opener: Any, has_tasks: bool, hub: str) -> None:
    """Cancel and leave *task_group* of *hub* in another task than *opener*, which has entered it.

    On asyncio the scope of the group is first left in the name of *opener*, wherever that waits. If
    the scope is cancelled after that, only the tasks of the group are cancelled. If *opener* has
    entered other scopes since then, the scope of the group cannot be left. If the group has no
    tasks, its scope then stays behind, and *opener* cannot leave the scopes that it entered before:
    anyio raises there.

    :raises RuntimeError: if it has tasks and its scope cannot be left; always on trio
    """
    if is_asyncios(opener):
        left = _leave_in_the_name_of(opener, task_group.cancel_scope)
        if not has_tasks:
            return
        if left or opener.done():
            task_group.cancel_scope.cancel()
            try:
                await task_group.__aexit__(None, None, None)  # errors of its tasks are in a group
            except RuntimeError:
                pass  # that its scope was left before
            return
    raise RuntimeError(
        f"{hub} was opened in one task and closed in another, and has tasks or cancel scopes "
        "(on trio always) that belong to the task that opened it; close it in that task, or first "
        "leave the scopes that were entered since it was opened"
    )


def is_asyncios(task: object) -> bool:
    return isinstance(task, asyncio.Task)


def _leave_in_the_name_of(task: Any, scope: CancelScope) -> bool:
    """Leave *scope* as *task* would, which has entered it. False if that is not possible."""
    loop, here = asyncio.get_running_loop(), asyncio.current_task()
    if here is None or task.get_loop() is not loop:
        return False
    _leave_task(loop, here)
    _enter_task(loop, task)
    try:
        scope.__exit__(None, None, None)
    except RuntimeError:
        return False
    finally:
        _leave_task(loop, task)
        _enter_task(loop, here)
    return True


def _is_being_destroyed(exc: GeneratorExit) -> bool:
    """Did *exc* come in where a coroutine waits, and not at the ``yield`` of an async generator?"""
    came_in = exc.__traceback__
    if came_in is None:
        return True
    while came_in.tb_next is not None:
        came_in = came_in.tb_next
    # A plain generator here was returned by an ``__await__``, so it stands at an ``await``.
    return bool(came_in.tb_frame.f_code.co_flags & CO_GENERATOR) or _waits(came_in)


def _waits(place: TracebackType) -> bool:
    """Is *place* an ``await``? In ``async for`` and ``async with`` as well."""
    reached = False
    for instruction in dis.get_instructions(place.tb_frame.f_code):
        reached = reached or instruction.offset == place.tb_lasti
        if not reached:
            continue
        if instruction.opname in ("YIELD_VALUE", "LOAD_CONST"):
            continue  # the next instruction tells whether it is an ``await``
        if instruction.opname == "RESUME":
            return (instruction.arg or 0) & _WHERE in (_AFTER_YIELD_FROM, _AFTER_AWAIT)
        return instruction.opname == "YIELD_FROM"
    return False
