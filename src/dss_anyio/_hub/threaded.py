"""A hub for a program that has no event loop: it gets one in a thread of its own."""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any, Generic

import anyio

from .._core.errors import title
from .._core.policies import Overflow
from .._core.reports import OnError, tell
from .._loops.slices import join, result
from .base import mailbox_of
from .hub import Hub
from .typed import T_Item, T_Received, Typed


class start_hub(  # noqa: N801, PYI059  # reads as open_hub does; the last base would hide Generic's types
    Typed, Generic[T_Item, T_Received], AbstractContextManager[Hub[T_Item, T_Received]]
):
    """Run an event loop with a hub in a thread of its own: ``with dss.start_hub() as hub``.

    For a program that is synchronous otherwise. Its threads use ``hub.portal``: ``call`` and
    ``start_task_soon`` run functions in that loop, ``hub.portal.start_task_soon(hub.serve,
    handler)`` answers requests. Leaving the block ends the hub as :class:`Hub` does, cancels its
    tasks, and waits for the thread. If the block was forgotten, the exit of Python releases
    blocked calls and stops the libraries; the tasks end with the process, wherever they are.

    In a forked child the hub has ended and its thread does not exist. Leaving the block there does
    nothing, at once, and raises nothing; what the body raises goes on.

    :param backend: ``"asyncio"`` or ``"trio"``
    :param backend_options: as for ``anyio.run``, such as ``{"use_uvloop": True}``
    :raises BaseException: at the end of the block, an exception of the hub or of one of its tasks

    The other parameters are those of :func:`open_hub`.
    """

    def __init__(
        self,
        max_buffer_size: float = 1024,
        *,
        overflow: Overflow = "block",
        name: str | None = None,
        on_error: OnError | None = None,
        backend: str = "asyncio",
        backend_options: dict[str, Any] | None = None,
    ) -> None:
        self._hub: Hub[T_Item, T_Received] = Hub(
            max_buffer_size, overflow=overflow, name=name, on_error=on_error
        )
        self._on_error: OnError | None = on_error
        self._backend: str = backend
        self._backend_options: dict[str, Any] | None = backend_options
        self._opened: Future[anyio.Event] = Future()
        self._ended: Future[None] = Future()
        self._thread: threading.Thread | None = None
        self._process: int | None = None  # where the thread is

    async def _main(self) -> None:
        leave = anyio.Event()
        async with self._hub:
            if self._opened.set_running_or_notify_cancel():  # else ``__enter__`` has given up
                self._opened.set_result(leave)
                await leave.wait()

    def _run_thread(self) -> None:
        try:
            anyio.run(self._main, backend=self._backend, backend_options=self._backend_options)
        except BaseException as exc:
            (self._ended if self._opened.done() else self._opened).set_exception(exc)
        else:
            self._ended.set_result(None)

    def __enter__(self) -> Hub[T_Item, T_Received]:
        if self._thread is not None:
            hub = title(mailbox_of(self._hub).books)
            raise RuntimeError(f"{hub} can be entered once only; call start_hub() again")
        self._process = os.getpid()
        # A daemon, so that the exit of Python ends the hub before it joins other threads.
        self._thread = threading.Thread(
            target=self._run_thread, name=f"dss_anyio: {self._hub.name}", daemon=True
        )
        try:
            self._thread.start()
            self._leave = result(self._opened)
        except BaseException:  # it could not be opened; or Ctrl-C has struck while we waited
            if not self._opened.cancel() and self._opened.exception() is None:
                self._tell_to_leave(self._opened.result())  # it was opened just now
            raise
        return self._hub

    def _tell_to_leave(self, leave: anyio.Event) -> None:
        call_soon = mailbox_of(self._hub).home.call_soon
        assert call_soon is not None  # it was opened
        try:
            call_soon(leave.set)  # not by a portal, which may be closed
        except RecursionError:
            raise  # a RuntimeError as well, but the loop is there
        except RuntimeError:
            pass  # the loop is gone

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        assert self._thread is not None
        if os.getpid() != self._process:
            # A forked child. No thread is going to set the future below. And a call into the loop
            # would write to a socket that the parent's loop reads.
            return
        self._tell_to_leave(self._leave)
        join(self._thread)
        try:
            self._ended.result()
        except Exception as exc:
            if not isinstance(exc_val, (KeyboardInterrupt, SystemExit)):
                raise
            # The exception of the body goes on, so this one is reported.
            tell(self._on_error, exc, None, mailbox_of(self._hub).books)
