"""A shorter way into a trio run than the run's own: a pair of sockets.

You need not read this file to understand the others. Without it everything works, but takes longer:
``run_sync_soon`` takes a lock and wakes a task of the run, and the function that this task calls
can only schedule another task for the next round. That is half of the 80 microseconds from a thread
to a task. So a hub that other threads call gets a pair of sockets of its own, and the task that
sleeps in the hub listens there.

True whenever nothing is in progress: there is a bell (``ShortWay.bell``) exactly while a task
listens, and never more than one task listens.
"""

from __future__ import annotations

import socket
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

import trio
from anyio.abc import TaskGroup
from trio.lowlevel import notify_closing, wait_readable

from .datagram import DONT_WAIT


class Listener(Protocol):
    """The nap of a task that listens while it sleeps."""

    is_over: bool
    ear: socket.socket | None  # the socket at which its task listens


class _Listening:
    """The nap of a task that listens and does nothing else."""

    is_over = False
    ear: socket.socket | None = None


class ShortWay:
    """Announces calls to a task that listens. All but the bell is for the hub's thread.

    The first call takes the long way, and opens the short one: so a hub without such calls costs no
    sockets. From then on a task that begins to sleep listens, if no other task does. A call that
    comes while no task listens takes the long way. The first such call starts a task in
    *task_group* that listens until the end of the hub.
    """

    # Set from the moment at which a task begins to listen, or is started to listen, until it has
    # stopped. Any thread reads it; only the hub's thread writes it.
    bell: Bell | None = None
    _inside: socket.socket | None = None  # the socket at which a task may listen
    _outside: Bell | None = None  # the bell, also while no task listens

    def __init__(self, task_group: TaskGroup) -> None:
        self._calls: deque[Callable[[], Any]] = deque()  # any thread appends
        self._task_group: TaskGroup | None = task_group  # None: nothing is opened any more

    def called_the_long_way(self) -> None:
        if self._calls and self.bell is None and self._task_group is not None:
            if self._inside is None:
                try:
                    self._inside, self._outside = Bell.pair()
                except OSError:
                    self._task_group = None  # no descriptor is free: the long way, for good
            else:
                start_soon, self._task_group = self._task_group.start_soon, None
                self.bell = self._outside  # the task will find a ring from before it listens
                start_soon(self.listen, self._inside, _Listening(), name="dss_anyio: listening")
        self._run_calls()

    @property
    def free_ear(self) -> socket.socket | None:
        """The socket at which a sleeping task is to listen. None if a task listens, or not open."""
        return self._inside if self.bell is None else None

    @trio.lowlevel.enable_ki_protection  # as in the run's own queue: between two of our states
    async def listen(self, inside: socket.socket, nap: Listener) -> None:
        """Run the calls that come until *nap* is over, or until the short way is closed or cut."""
        self.bell = self._outside
        fd = inside.fileno()  # trio would ask for it each time
        try:
            while self._inside is inside and not nap.is_over:
                nap.ear = inside
                try:
                    await wait_readable(fd)
                    # First empty it, then look into the line. (It holds one byte in most cases; if
                    # there are more than these, it is readable still, and we come back.)
                    if not inside.recv(256, DONT_WAIT):
                        raise ConnectionError("the other end was closed")
                except trio.ClosedResourceError:
                    pass  # another task has woken the nap, or has closed the way
                except BlockingIOError:
                    pass  # spurious readiness
                except (OSError, trio.BusyResourceError):
                    # The descriptor of one of the ends was closed by its number, which may be
                    # another file's by now. Calls that were announced here may still be in the
                    # line.
                    self.bell = self._inside = self._outside = None
                finally:
                    nap.ear = None
                self._run_calls()
        except GeneratorExit:
            self._calls.clear()  # the run has crashed; in this thread nothing can be called
            raise
        finally:
            # A caller appends to the line, in one step, and then looks for the bell. We take the
            # bell away, and then act on the line in one step. If our step is first, the caller
            # finds no bell, and takes the long way; if not, we find its call now.
            self.bell = None
            self._calls.rotate(0)
            try:
                self._run_calls()
            finally:
                if self._inside is not inside:
                    with suppress(OSError):
                        inside.close()

    def _run_calls(self) -> None:
        """Run the calls that wait in the line. A call that comes meanwhile is announced again."""
        calls = self._calls
        for _ in range(len(calls)):
            calls.popleft()()

    def close(self) -> None:
        """Close the short way: a call that is made afterwards takes the long way."""
        self._task_group = None
        inside, self._inside, self._outside = self._inside, None, None
        if inside is not None:
            if self.bell is None:
                with suppress(OSError):
                    inside.close()
            else:
                rouse(inside)  # the task that listens closes it


def rouse(inside: socket.socket) -> None:
    """Wake the task that listens at *inside*."""
    with suppress(OSError):  # its descriptor was closed, and this is not Linux
        notify_closing(inside)


class Bell(socket.socket):
    """The end that callers write to. It closes itself when nothing refers to it any more.

    A thread that rings refers to it. If it were closed while a thread is ringing, its number might
    be another file's by the time that thread writes to it. (``run_sync_soon`` has its lock for
    that.)
    """

    @classmethod
    def pair(cls) -> tuple[socket.socket, Bell]:
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
        """Have the listening task look into the line. False if no task listens here any more."""
        try:
            self.send(b"\0", DONT_WAIT)
        except BlockingIOError:
            pass  # it is full, so it has been rung
        except OSError:
            return False  # the hub has ended; or a descriptor was closed by its number
        return True

    def __del__(self) -> None:
        try:
            self.close()
        except OSError:
            pass  # its descriptor was closed by its number
