"""The way into asyncio and uvloop: how a task sleeps there, and how we notice a closed loop."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from contextvars import Context
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from anyio.abc import TaskGroup

if TYPE_CHECKING:  # ``way`` imports this file when the first hub is opened in such a loop
    from .way import Way, WhenClosed


class Nap(asyncio.Future[None]):
    """A future that can call its callback by itself, and need not leave that to the loop.

    When a usual future is done, the event loop calls its callbacks in its next round, so the item
    in the queue waits for one more look at the selector. But the function that a sender has called
    runs in a callback of the loop, too. So it may do at once what the loop would do soon.

    The one callback is the one of the task that awaits us. It needs no more than the documentation
    demands of a Future-like object (``asyncio.isfuture``). Code may run between our bytecodes, such
    as a signal handler that cancels the task (Ctrl-C, since Python 3.11). Even then ``set_result``
    and ``cancel`` cannot both succeed, and only the one that succeeds calls back.
    """

    __slots__ = ("_callback", "_context")

    def __init__(self) -> None:
        super().__init__()
        self._callback: Callable[[Any], object] | None = None
        self._context: Context | None = None

    def add_done_callback(
        self, fn: Callable[[Any], object], /, *, context: Context | None = None
    ) -> None:
        self._callback = fn
        self._context = context

    def _call_back_soon(self) -> None:
        loop = self.get_loop()
        # If the loop was closed under it, the task is being destroyed, and must not be called.
        if self._callback is not None and not loop.is_closed():
            loop.call_soon(self._callback, self, context=self._context)

    def cancel(self, msg: Any = None) -> bool:
        cancelled = super().cancel(msg)
        if cancelled:
            self._call_back_soon()
        return cancelled

    def wake(self) -> None:
        try:
            self.set_result(None)
        except asyncio.InvalidStateError:
            return  # it was cancelled before
        self._call_back_soon()

    def wake_now(self) -> None:
        if self._callback is None or self._context is None:
            self.wake()
            return
        try:
            self.set_result(None)
        except asyncio.InvalidStateError:
            return
        self._context.run(self._callback, self)


_numbers = count(1)


class Watch:
    """A reader of the loop. See ``way.Watch``."""

    __slots__ = ("_fd", "_left", "_native")

    def __init__(
        self,
        native: asyncio.AbstractEventLoop,
        fd: int,
        arrived: Callable[[], object],
        left: Callable[[], object],
    ) -> None:
        native.add_reader(fd, arrived)
        self._native = native
        self._fd = fd
        self._left = [left]

    def _stop(self) -> None:
        try:
            left = self._left.pop()  # two threads may stop it; only one goes on
        except IndexError:
            return
        try:
            self._native.remove_reader(self._fd)
        finally:
            left()  # may close the descriptor, so the reader has to go first

    def stop(self) -> None:
        try:
            here: Any = asyncio.get_running_loop()
        except RuntimeError:
            here = None
        if here is self._native:
            self._stop()
            return
        try:
            self._native.call_soon_threadsafe(self._stop)
        except RuntimeError:  # the loop is closed, and watches nothing
            for left in self._left:
                left()


class WayIn:
    """The way into one loop, and the witness that notices when the loop is closed.

    For calls, asyncio's own ``call_soon_threadsafe`` is all that a hub needs. All hubs in one loop
    share this object. While there are any, it stands in the place of the loop's ``close``. See
    below for the reasons.
    """

    __slots__ = ("_close", "_native", "_when_closed", "guests", "number")

    make_nap = Nap

    def __init__(self, native: asyncio.AbstractEventLoop, when_closed: WhenClosed) -> None:
        self.number: int = next(_numbers)  # a later loop may have this loop's ``id``
        self.guests: dict[object, None] = {}  # one for each hub
        self._native = native
        self._when_closed = when_closed
        self._close = native.close

    def task_here(self) -> asyncio.Task[Any] | None:
        return asyncio.current_task(self._native)

    def is_here(self) -> bool:
        try:
            return asyncio.get_running_loop() is self._native
        except RecursionError:
            raise  # it is a RuntimeError, too, but does not mean that no loop runs here
        except RuntimeError:
            return False

    @staticmethod
    def name_loop() -> None:
        """Tell sniffio that this is asyncio, because anyio starts tasks only where it knows that.

        Trio tells sniffio for the whole thread, asyncio does not. Newer versions of anyio ask
        asyncio itself if sniffio is not installed.
        """
        sniffio: Any = sys.modules.get("sniffio")
        if sniffio is not None:
            sniffio.current_async_library_cvar.set("asyncio")

    def watch(self, fd: int, arrived: Callable[[], object], left: Callable[[], object]) -> Watch:
        return Watch(self._native, fd, arrived, left)

    @staticmethod
    def close() -> None:
        """There is nothing to free."""

    @staticmethod
    async def leave(task_group: TaskGroup) -> None:
        # The group has no tasks to wait for, so we only leave its cancel scope. ``__aexit__`` of
        # the group would make another scope first, so that this turn of the loop cannot be
        # cancelled; that takes a fifth of the time of opening and closing a hub. Here this turn can
        # be cancelled.
        scope = task_group.cancel_scope
        try:
            await asyncio.sleep(0)
        except BaseException as exc:
            if not scope.__exit__(type(exc), exc, exc.__traceback__):
                raise
        else:
            scope.__exit__(None, None, None)

    def leave_loop(self, guest: object) -> None:
        self.guests.pop(guest, None)
        if not self.guests:
            self._withdraw()

    def leave_loop_soon(self, guest: object) -> None:
        try:
            self._native.call_soon_threadsafe(self.leave_loop, guest)
        except RuntimeError:
            pass  # the loop is closed, and the witness has gone with it

    def __call__(self) -> None:
        """Close the loop, in the place of its ``close``; then end the hubs that are open in it."""
        try:
            self._close()
        finally:
            if self._native.is_closed():  # a loop that runs refuses to be closed
                self._withdraw()
                if self.guests:
                    self._when_closed(self.number)
                    self.guests.clear()  # they refer to us

    def _withdraw(self) -> None:
        """Give the loop its ``close`` back."""
        if self._native.close is not self:
            return  # other code has put its own function here, which calls us: we stay
        del self._native.close
        if self._native.close != self._close:  # the loop had a ``close`` of its own before
            self._native.close = self._close  # type: ignore[method-assign]  # as it was

    @staticmethod
    def start_alone(
        func: Callable[[], Coroutine[Any, Any, None]], context: Context, name: str
    ) -> None:
        loop = asyncio.get_running_loop()
        task = context.run(partial(loop.create_task, func(), name=name))
        _alone[task] = None
        task.add_done_callback(_alone.pop)


_alone: dict[asyncio.Task[None], None] = {}  # the loop itself holds its tasks weakly


# -- A loop that is closed under a hub -------------------------------------------------------------
#
# An asyncio loop can be stopped and closed while tasks are suspended in it. Then their ``finally``
# blocks do not run, and no callback is called. So while a hub is open in a loop, the loop's
# attribute ``close`` is a witness: it closes the loop, and then calls ``abandon_those_in`` of
# ``_ending/ways_out``. (A trio run cannot end before its tasks, so it needs no witness.)
#
# Why ``close``: every event loop has it, and all code that closes a loop calls it: ``asyncio.run``,
# ``Runner``, test frameworks, and ``BaseEventLoop.__del__`` for a forgotten loop. (A forgotten loop
# of uvloop is never destroyed.) We looked at other ways, in asyncio, uvloop, qasync and loops for
# tests:
#
# - A closed loop drops its timers. So we could notice the destruction of a timer that is never due.
#   But Qt's timers take no more than 24 days; loops for tests fire all timers, or complain of the
#   timers that are left; and in a loop with virtual time "never" comes.
# - It drops its readers as well. But a reader takes two descriptors for each loop, and a loop with
#   a proactor has no readers.
# - Nothing happens to its async generators, tasks and futures, and its executor is shut down only
#   if it has one. Weak references to its private parts would tell, but each kind of loop has other
#   parts, and those of uvloop take no weak references.
#
# The methods above run in the loop's thread, in its tasks or callbacks, or while nothing runs in it
# (``close``). So none of them can come between two steps of another.


def way_in(_: TaskGroup, when_closed: WhenClosed, guest: object) -> Way:
    """See ``way.way_into``. In the loop's thread."""
    native = asyncio.get_running_loop()
    way: Any = native.close
    if type(way) is not WayIn:
        way = WayIn(native, when_closed)
        try:
            native.close = way  # type: ignore[method-assign]  # the witness: see above
        except AttributeError:
            pass  # a loop whose ``close`` cannot be replaced: we notice its end at the next call
    way.guests[guest] = None
    return way, native.call_soon_threadsafe, way.number
