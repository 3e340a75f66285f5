"""The way into asyncio and uvloop: how a task sleeps there, and how we hear of a closed loop."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Coroutine
from contextvars import Context
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any

from anyio.abc import TaskGroup

if TYPE_CHECKING:  # it imports us, when the first hub is opened in such a loop
    from .way import Way, WhenClosed


class Nap(asyncio.Future[None]):
    """A future that calls back itself, because it need not always leave that to the loop.

    When a future is done, the event loop calls its callbacks in its next round, and the item in the
    queue waits for one more look at the selector. But what a sender has called runs in a callback
    of the loop as well. So it may do at once what the loop would do soon.

    The one callback is that of the task that awaits us; it asks for nothing but what documentation
    calls a Future-like object (``asyncio.isfuture``). Whatever happens between our bytecodes, such
    as a signal handler that cancels the task (Ctrl-C, since Python 3.11), ``set_result`` and
    ``cancel`` cannot both succeed, and who succeeds calls back.
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
        # If the loop was closed under it, what waits is being destroyed, and nobody calls it.
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
            left = self._left.pop()  # of two who stop it, one
        except IndexError:
            return
        try:
            self._native.remove_reader(self._fd)
        finally:
            left()  # the descriptor is closed after that, and not before

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
    """asyncio's own call is all that a hub needs, beside a witness of the end of the loop.

    That is what this is: all hubs in one loop share it, and while there are any, it stands in the
    place of the loop's ``close``. See below for the reasons.
    """

    __slots__ = ("_close", "_native", "_when_closed", "guests", "number")

    make_nap = Nap

    def __init__(self, native: asyncio.AbstractEventLoop, when_closed: WhenClosed) -> None:
        self.number: int = next(_numbers)  # not the loop's ``id``, which may be another one's later
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
            raise  # a RuntimeError as well, but it says nothing about where we are
        except RuntimeError:
            return False

    @staticmethod
    def name_loop() -> None:
        """anyio starts tasks only where it knows the loop.

        Trio leaves a note for the whole thread, asyncio does not. Newer versions of anyio ask
        asyncio itself if sniffio is not there.
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
        # It has no tasks to wait for, so all there is to leave is its cancel scope. The group's own
        # way out makes another scope first, so that this turn of the loop cannot be cancelled; that
        # is a fifth of what it takes to open and close a hub. Here it can be.
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
            pass  # it is closed, and the witness has gone with it

    def __call__(self) -> None:
        """Somebody closes the loop."""
        try:
            self._close()
        finally:
            if self._native.is_closed():  # it refuses while it runs
                self._withdraw()
                if self.guests:
                    self._when_closed(self.number)
                    self.guests.clear()  # they refer to us

    def _withdraw(self) -> None:
        """Give the loop its ``close`` back."""
        if self._native.close is not self:
            return  # somebody has put another one in its place, which calls us, and we go on
        del self._native.close
        if self._native.close != self._close:  # it was not that of its class either
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
# An asyncio loop can be stopped and closed while tasks are suspended in it: ``finally`` blocks do
# not run, and nobody is told. So while a hub is open in a loop, the loop's attribute ``close`` is a
# witness: it does what ``close`` did, and then tells. (A trio run cannot end before its tasks, so
# there is nothing to watch.)
#
# Why ``close``: it is the one thing that every event loop has and everybody calls who closes one
# (``asyncio.run``, ``Runner``, test frameworks, and ``BaseEventLoop.__del__`` for one that was
# forgotten; a forgotten loop of uvloop is never destroyed). What else was looked at, in asyncio,
# uvloop, qasync and loops for tests:
#
# - A closed loop lets go of its timers. So one that is never due and is seen to be destroyed would
#   do; but Qt's timers take no more than 24 days, loops for tests fire all timers, or complain of
#   those that are left, and in a loop with virtual time "never" comes.
# - It lets go of its readers as well, but that takes two descriptors for each loop, and a loop with
#   a proactor has none.
# - Nothing happens to its async generators, tasks and futures, and its executor is shut down only
#   if it has one. Weak references to its private parts would tell, but each loop has others, and
#   uvloop's cannot be referred to.
#
# All of this happens in the loop's thread, in tasks or callbacks of it, or while nothing runs in it
# (``close``). So none of it can come between two steps of another.


def way_in(_: TaskGroup, when_closed: WhenClosed, guest: object) -> Way:
    """See ``way.way_into``. In the loop's thread."""
    native = asyncio.get_running_loop()
    way: Any = native.close
    if type(way) is not WayIn:
        way = WayIn(native, when_closed)
        try:
            native.close = way  # type: ignore[method-assign]  # the witness: see above
        except AttributeError:
            pass  # a loop that lets nobody do that; its end is noticed at the next call
    way.guests[guest] = None
    return way, native.call_soon_threadsafe, way.number
