"""What only a hub in trio needs: a way in that is shorter than the run's own, and its naps.

``run_sync_soon`` takes a lock, wakes a task of the run, and what that calls can only have another
task wait for its turn: of the 80 microseconds from a thread to a task, that is half. So a hub that
is used has a task and a pair of sockets of its own. It is imported in a trio run only.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import trio
from anyio.abc import TaskGroup
from trio.lowlevel import (
    Abort,
    Task,
    current_task,
    current_trio_token,
    reschedule,
    wait_readable,
    wait_task_rescheduled,
)


class Nap:
    """What ``trio.Event`` does for any number of tasks, for one. See ``_wake.Nap``."""

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: Task | None = None

    def __await__(self) -> Generator[Any, Any, Any]:
        self._task = current_task()
        return wait_task_rescheduled(self._abort).__await__()  # noqa: ASYNC105  # it is, by this

    def _abort(self, _: object) -> Abort:
        self._task = None
        return Abort.SUCCEEDED

    def wake(self) -> None:
        task, self._task = self._task, None
        if task is not None:
            reschedule(task)

    wake_now = wake  # nobody but trio runs its tasks


class WayIn:
    """Calls functions soon, in one hub's trio run and in their order, whichever thread asks.

    The first call comes through the run's own queue, and opens the short way: so a hub that nobody
    calls costs no sockets. All of them wait in one line, whichever way they are announced.
    """

    make_nap = Nap
    _bell: _Bell | None = None
    _scope: trio.CancelScope | None = None  # of the task that listens

    def __init__(self, task_group: TaskGroup) -> None:
        self._run_sync_soon = current_trio_token().run_sync_soon
        self._task_group: TaskGroup | None = task_group  # None: no short way (any more)
        self._calls: deque[Callable[[], Any]] = deque()

    def call_soon(self, func: Callable[[], Any]) -> None:
        """From any thread, at any bytecode; never waits. Raises ``RunFinishedError`` at last."""
        self._calls.append(func)  # before it is announced
        bell = self._bell  # from here on it stays open until we let go of it: see ``_Bell``
        if bell is None or not bell.ring():
            self._run_sync_soon(self._arrived)

    @staticmethod
    def name_loop() -> None:
        """Trio has left a note for the whole thread."""

    def _arrived(self) -> None:
        if self._task_group is not None:
            start_soon, self._task_group = self._task_group.start_soon, None
            try:
                inside, bell = _Bell.pair()
            except OSError:
                pass  # no file descriptor is free: the long way goes on working
            else:
                self._scope = trio.CancelScope(shield=True)
                start_soon(self._listen, inside, self._scope, name="dss_anyio: listening")
                self._bell = bell
        self._run_calls()

    @trio.lowlevel.enable_ki_protection  # as in the run's own queue: between two of our states
    async def _listen(self, inside: socket.socket, scope: trio.CancelScope) -> None:
        with inside, scope:
            while True:
                await wait_readable(inside)
                try:
                    inside.recv(4096)  # first empty it, then look into the line
                except BlockingIOError:
                    pass  # the system has said too much
                self._run_calls()

    def _run_calls(self) -> None:
        for _ in range(len(self._calls)):  # what comes meanwhile is announced again
            self._calls.popleft()()

    def leave(self, task_group: TaskGroup) -> Awaitable[object]:
        self.close()
        return task_group.__aexit__(None, None, None)

    def close(self) -> None:
        """Listen no more; what is called now comes the long way. In the hub's thread."""
        self._task_group = None
        if self._scope is not None:
            self._bell = None
            self._scope.cancel()


def way_in(
    task_group: TaskGroup, _: object
) -> tuple[WayIn, Callable[[Callable[[], Any]], None], None]:
    """See ``_wake.way_into``. A run cannot be closed under a hub."""
    way = WayIn(task_group)
    return way, way.call_soon, None


class _Bell(socket.socket):
    """What is rung from outside. It closes itself when nobody holds it any more.

    Whoever is ringing holds it. If it was closed under their hands, the number of the file might be
    somebody else's by the time they write to it. (``run_sync_soon`` has its lock for that.)
    """

    @classmethod
    def pair(cls) -> tuple[socket.socket, _Bell]:
        inside, outside = socket.socketpair()
        try:
            inside.setblocking(False)
            outside.setblocking(False)
            return inside, cls(outside.family, outside.type, outside.proto, outside.detach())
        except BaseException:
            inside.close()
            outside.close()
            raise

    def ring(self) -> bool:
        """Have the line looked into. False if nobody listens here any more."""
        try:
            self.send(b"\0")
        except BlockingIOError:
            pass  # it is full, so it has been rung
        except OSError:
            return False  # the hub has ended; or somebody has closed the descriptor of either end
        return True

    def __del__(self) -> None:
        try:
            self.close()
        except OSError:
            pass  # somebody has closed its descriptor
