"""An errand: one of our threads runs a coroutine in the hub's event loop, and waits for it.

``start`` and ``stop`` of a library's binding may be coroutine functions. We call them where we call
plain functions: in a thread that may wait. That thread sends the coroutine on an errand into the
event loop, and waits for it. So for both kinds of functions the order of the end is the same. Its
time limits are the same, too (in real time, whatever clock the loop has), and so are the reports of
errors.

The coroutine runs in a task that belongs to no task group. The hub's own task group is gone when
the hub's sources are stopped, and the cancellation of another task group must not reach the
coroutine. (On asyncio, ``task.cancel()`` does, if the user looks for this very task.)

Between threads: ``_turn`` decides once whether the loop begins the coroutine, or the waiting thread
calls it off. The loop decides to begin, and later the task reads ``_cancelled``. A thread that
cancels writes ``_cancelled``, and *then* looks whether the coroutine was begun. So either the task
reads it, or that thread asks the loop to call ``_cancel_now``. That call may come before the task
has its ``_scope``: then it does nothing, and the task reads ``_cancelled``. Or it comes after that,
and cancels the scope. The begin, the task and this call all run in the loop's thread.
"""

from __future__ import annotations

from collections.abc import Coroutine
from contextvars import Context
from threading import Lock
from typing import Any, Final

from anyio import CancelScope, get_cancelled_exc_class

from .._core.home import Home
from .._core.steps import Once
from .._loops.slices import acquire

GRACE: Final = 2.0  # seconds that a coroutine has to end after it was cancelled


class Errand:
    """One coroutine, at most, that runs in the event loop of *home*. *what* names it."""

    def __init__(self, home: Home, context: Context | None, what: str) -> None:
        self._home = home
        self._context = Context() if context is None else context
        self._what = what
        self._turn: Once[str] = Once()
        self.sent = False  # does a thread wait for it in ``run``?
        self._cancelled = False
        self._scope: CancelScope | None = None
        self._value: Any = None
        self._error: BaseException | None = None
        self._done = Lock()
        self._done.acquire()

    @property
    def begun(self) -> bool:
        """Has the coroutine been given to the loop?"""
        return self._turn.decision is not None

    def run(self, coroutine: Coroutine[Any, Any, Any], limit: float | None = None) -> Any:
        """Run *coroutine*, wait for it and return its value. In any thread but the loop's.

        After *limit* seconds it is cancelled, and has ``GRACE`` seconds to end.

        :raises BaseException: the exception of the coroutine
        :raises TimeoutError: if it was cancelled because of the limit
        :raises RuntimeError: if the loop is gone, or this is its thread, so that the coroutine
            cannot run; or if it was cancelled by code that is not the hub's
        """
        way_in, call_soon = self._home.way_in, self._home.call_soon

        def begin() -> None:  # in the loop; must not raise
            if way_in is None or not self._turn.decide("begun"):
                return
            try:
                way_in.start_alone(lambda: self._work(coroutine), self._context, self._what)
            except BaseException as exc:
                self._error = exc
                self._end()

        self.sent = True
        try:
            if call_soon is None:
                raise self._cannot_run("its hub was never opened")
            if way_in is None:
                raise TypeError(
                    f"{self._what} returns a coroutine, and a polled hub has no event loop to run "
                    "it; give a plain function, or open the hub with open_hub() or start_hub()"
                )
            if self._home.enter_errand(self) or self._home.is_here():
                raise self._cannot_run("its event loop does not run any more")
            try:
                call_soon(begin)
            except RecursionError:
                raise  # a RuntimeError as well, but it is the caller's
            except RuntimeError:
                raise self._cannot_run("its event loop is gone") from None
            ended = acquire(self._done, limit)
            if not ended:
                self.cancel()
                ended = acquire(self._done, GRACE)
        finally:
            if self._home.errands is not None:
                self._home.errands.pop(self, None)
            if self._turn.decide("called off"):
                coroutine.close()  # or Python warns that it was never awaited
        if self._error is not None:
            raise self._error
        if self._turn.decision != "begun":
            raise self._cannot_run(f"its event loop has not come to it within {limit} s")
        if self._cancelled and (not ended or self._scope is None or self._scope.cancelled_caught):
            goes_on = "it was cancelled" if ended else "it was cancelled, but goes on"
            raise TimeoutError(f"{self._what} takes longer than {limit} s; {goes_on}")
        return self._value

    def give_up(self) -> None:
        """End the wait: the event loop is over, and the coroutine with it. From any thread."""
        if self._error is None:
            self._error = self._cannot_run("its event loop was closed or left meanwhile")
        self._end()

    def _end(self) -> None:
        try:
            self._done.release()
        except RuntimeError:
            pass  # released before: ``give_up`` was called first

    def cancel(self) -> bool:
        """Cancel the coroutine, also before it begins. From any thread; never waits.

        Returns whether it has begun. If it begins later, it runs until it first waits.
        """
        self._cancelled = True
        call_soon = self._home.call_soon
        if not self.begun or call_soon is None:
            return False
        try:
            call_soon(self._cancel_now)
        except RuntimeError:
            pass  # the loop is gone, and has destroyed the coroutine
        return True

    def _cancel_now(self) -> None:
        if self._scope is not None:
            self._scope.cancel()

    async def _work(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        try:
            with CancelScope(shield=True) as self._scope:
                if self._cancelled:
                    self._scope.cancel()
                self._value = await coroutine
        except GeneratorExit:  # first: the next clause needs a running loop, and there is none
            self._error = self._cannot_run("its event loop was closed meanwhile")
            raise
        except get_cancelled_exc_class() as exc:
            self._error = RuntimeError(f"{self._what} was cancelled, and not by the hub")
            self._error.__cause__ = exc
            raise
        except BaseException as exc:
            self._error = exc  # the end of the hub raises it, also Ctrl-C
        finally:
            self._end()

    def _cannot_run(self, why: str) -> RuntimeError:
        return RuntimeError(
            f"{self._what} is a coroutine function, and was not run to its end: {why}; "
            "a plain function is called even then"
        )
