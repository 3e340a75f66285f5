"""What only a hub in trio needs: a way in that is shorter than the run's own, and its naps.

``run_sync_soon`` takes a lock, wakes a task of the run, and what that calls can only have another
task wait for its turn: of the 80 microseconds from a thread to a task, that is half. So a hub that
is used has a pair of sockets of its own. One who sleeps listens there; if the hub is called while
nobody does, a task. This file is imported in a trio run only.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from typing import Any

import trio
from anyio.abc import TaskGroup
from trio.lowlevel import (
    Abort,
    Task,
    current_task,
    current_trio_token,
    notify_closing,
    reschedule,
    wait_readable,
    wait_task_rescheduled,
)


class Nap:
    """What ``trio.Event`` does for any number of tasks, for one. See ``_wake.Nap``.

    If nobody else does, it listens while it sleeps. What wakes it is then called in its own task;
    in another one it could only have it wait for its turn in the next round of the loop.
    """

    __slots__ = ("_task", "_way_in", "ear", "is_over")

    def __init__(self, way_in: WayIn) -> None:
        self._way_in = way_in
        self.is_over = False
        self.ear: socket.socket | None = None  # where its task waits for something to be heard,
        self._task: Task | None = None  # or the task, if it waits for nothing but us

    def __await__(self) -> Generator[Any, Any, Any]:
        return self._sleep().__await__()

    async def _sleep(self) -> None:
        ear = self._way_in.free_ear
        if ear is not None:
            await self._way_in.listen(ear, self)
        if not self.is_over:
            self._task = current_task()
            await wait_task_rescheduled(self._abort)

    def _abort(self, _: object) -> Abort:
        self._task = None
        return Abort.SUCCEEDED

    def wake(self) -> None:
        self.is_over = True
        if self.ear is not None:
            _tell(self.ear)
        elif self._task is not None:
            reschedule(self._task)
            self._task = None
        # else it does not wait: it is its own task that calls us, with what it has heard

    wake_now = wake  # nobody but trio runs its tasks


class WayIn:
    """Calls functions soon, in one hub's trio run and in their order, whichever thread asks.

    The first call comes through the run's own queue, and opens the short way: so a hub that nobody
    calls costs no sockets. From then on who begins to sleep listens, if nobody does. What comes
    while nobody listens comes the long way, and the first call that does so starts a task that
    listens for good. All of them wait in one line, whichever way they are announced.
    """

    _inside: socket.socket | None = None  # where one may listen
    _outside: _Bell | None = None  # what is rung for it
    # The same, from the moment at which somebody begins to listen, or a task is started that will,
    # until it has stopped. So there is never more than one.
    _bell: _Bell | None = None

    def __init__(self, task_group: TaskGroup) -> None:
        self._run_sync_soon = current_trio_token().run_sync_soon
        self._task_group: TaskGroup | None = task_group  # None: nothing is opened any more
        self._calls: deque[Callable[[], Any]] = deque()

    def make_nap(self) -> Nap:
        return Nap(self)

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
        if self._calls and self._bell is None and self._task_group is not None:
            if self._inside is None:
                try:
                    self._inside, self._outside = _Bell.pair()
                except OSError:
                    self._task_group = None  # no descriptor is free: the long way, for good
            else:
                start_soon, self._task_group = self._task_group.start_soon, None
                self._bell = self._outside  # what is rung before it listens is heard then
                start_soon(self.listen, self._inside, Nap(self), name="dss_anyio: listening")
        self._run_calls()

    @property
    def free_ear(self) -> socket.socket | None:
        """Where one who sleeps is to listen. None if somebody does, or there is no short way."""
        return self._inside if self._bell is None else None

    @trio.lowlevel.enable_ki_protection  # as in the run's own queue: between two of our states
    async def listen(self, inside: socket.socket, nap: Nap) -> None:
        """Call what comes until *nap* is over, or until the short way is closed or cut."""
        self._bell = self._outside
        try:
            while self._inside is inside and not nap.is_over:
                nap.ear = inside
                try:
                    await wait_readable(inside)
                    if not inside.recv(4096):  # first empty it, then look into the line
                        raise ConnectionError("the other end was closed")
                except trio.ClosedResourceError:
                    pass  # somebody else has woken the nap, or closed the way
                except BlockingIOError:
                    pass  # the system has said too much
                except (OSError, trio.BusyResourceError):
                    # Somebody has closed the descriptor of one of the ends; perhaps the number is
                    # another one's by now. What was to be heard may be in the line.
                    self._bell = self._inside = self._outside = None
                finally:
                    nap.ear = None
                self._run_calls()
        except GeneratorExit:
            self._calls.clear()  # the run has crashed; in this thread nothing can be called
            raise
        finally:
            # A caller appends to the line, in one step, and then looks for the bell. We take the
            # bell away, and then act on the line in one step. If ours is the first, the caller
            # finds no bell, and comes the long way; if not, we find its call now.
            self._bell = None
            self._calls.rotate(0)
            try:
                self._run_calls()
            finally:
                if self._inside is not inside:
                    with suppress(OSError):
                        inside.close()

    def _run_calls(self) -> None:
        for _ in range(len(self._calls)):  # what comes meanwhile is announced again
            self._calls.popleft()()

    def leave(self, task_group: TaskGroup) -> Awaitable[object]:
        self.close()
        return task_group.__aexit__(None, None, None)

    def close(self) -> None:
        """Nobody listens any more; what is called now comes the long way. In the hub's thread."""
        self._task_group = None
        inside, self._inside, self._outside = self._inside, None, None
        if inside is not None:
            if self._bell is None:
                with suppress(OSError):
                    inside.close()
            else:
                _tell(inside)  # whoever listens closes it


def _tell(inside: socket.socket) -> None:
    """Have whoever waits there look up."""
    with suppress(OSError):  # its descriptor was closed, and this is not Linux
        notify_closing(inside)


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
