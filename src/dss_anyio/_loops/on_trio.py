"""The way into trio: how a task sleeps there, and how a hub is called. Imported in a trio run only.

``run_sync_soon`` alone would do for all of it. ``short_way`` is what makes it faster.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context
from typing import TYPE_CHECKING, Any

from anyio.abc import TaskGroup
from trio import CancelScope
from trio.lowlevel import (
    Abort,
    Task,
    current_task,
    current_trio_token,
    reschedule,
    spawn_system_task,
    wait_readable,
    wait_task_rescheduled,
)

from .short_way import ShortWay, rouse

if TYPE_CHECKING:  # ``way`` imports this file when the first hub is opened in such a loop
    from .way import Way, WhenClosed


class Nap:
    """Like ``trio.Event``, but for one task. See ``way.Nap``.

    If no other task listens, its task listens while it sleeps. Then the functions that other
    threads have called run in the very task that they wake. In another task they could only
    schedule this task for the next round of the loop.
    """

    __slots__ = ("_short", "_task", "ear", "is_over")

    def __init__(self, short: ShortWay) -> None:
        self._short = short
        self.is_over = False
        self.ear: socket.socket | None = None  # the socket at which its task listens,
        self._task: Task | None = None  # or the task, if it only waits for ``wake``

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._sleep().__await__()

    async def _sleep(self) -> None:
        ear = self._short.free_ear
        if ear is not None:
            await self._short.listen(ear, self)
        if not self.is_over:
            self._task = current_task()
            await wait_task_rescheduled(self._abort)

    def _abort(self, _: object) -> Abort:
        self._task = None
        return Abort.SUCCEEDED

    def wake(self) -> None:
        self.is_over = True
        if self.ear is not None:
            rouse(self.ear)
        elif self._task is not None:
            reschedule(self._task)
            self._task = None
        # else the task does not wait: it has heard the call, and runs it itself

    wake_now = wake  # only trio can run its tasks


class Watch:
    """A system task that waits for the descriptor. See ``way.Watch``."""

    __slots__ = ("_arrived", "_fd", "_left", "_run_sync_soon", "_scope")

    def __init__(self, fd: int, arrived: Callable[[], object], left: Callable[[], object]) -> None:
        self._fd = fd
        self._arrived = arrived
        self._left = left
        self._scope = CancelScope()
        self._run_sync_soon = current_trio_token().run_sync_soon
        spawn_system_task(self._watch, name="dss_anyio: watching")

    async def _watch(self) -> None:
        try:
            with self._scope:
                while True:
                    await wait_readable(self._fd)
                    self._arrived()
        except OSError:
            pass  # the descriptor was closed by its number
        finally:
            self._left()

    def stop(self) -> None:
        try:
            self._run_sync_soon(self._scope.cancel)
        except RuntimeError:
            pass  # the run is over, and the task with it


class WayIn(ShortWay):
    """Calls functions soon, in one hub's trio run and in their order, for any thread.

    All calls wait in one line, and are announced in one of two ways: the long way is the run's own
    queue; the short way has a bell while a task listens.
    """

    def __init__(self, task_group: TaskGroup) -> None:
        ShortWay.__init__(self, task_group)
        self._token = current_trio_token()
        self._run_sync_soon = self._token.run_sync_soon

    task_here = staticmethod(current_task)

    def make_nap(self) -> Nap:
        return Nap(self)

    def call_soon(self, func: Callable[[], Any]) -> None:
        """From any thread, at any bytecode; never waits. Raises ``RunFinishedError`` at last."""
        self._calls.append(func)  # before it is announced
        bell = self.bell  # our reference keeps it open: see ``Bell``
        if bell is None or not bell.ring():
            self._run_sync_soon(self.called_the_long_way)

    def is_here(self) -> bool:
        try:
            return current_trio_token() is self._token
        except RecursionError:
            raise  # it is a RuntimeError, too, but does not mean that no run is here
        except RuntimeError:
            return False

    @staticmethod
    def watch(fd: int, arrived: Callable[[], object], left: Callable[[], object]) -> Watch:
        return Watch(fd, arrived, left)

    @staticmethod
    def name_loop() -> None:
        """Does nothing: trio has told sniffio, for the whole thread."""

    def leave(self, task_group: TaskGroup) -> Awaitable[object]:
        self.close()
        return task_group.__aexit__(None, None, None)

    def leave_loop(self, guest: object) -> None:
        """Does nothing: the task group has ended the listening task, and nothing else is left."""

    leave_loop_soon = leave_loop

    @staticmethod
    def start_alone(
        func: Callable[[], Coroutine[Any, Any, None]], context: Context, name: str
    ) -> None:
        spawn_system_task(func, name=name, context=context)


def way_in(task_group: TaskGroup, _: WhenClosed, __: object) -> Way:
    """See ``way.way_into``. A run cannot be closed under a hub."""
    way = WayIn(task_group)
    return way, way.call_soon, None
