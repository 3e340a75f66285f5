"""The part of a hub in an event loop that opens sources."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Generic, TypeVar, overload

from .._core.policies import Overflow
from .._ending.order import together
from .._loops.slices import check_limit
from .._portal.portal import Portal
from .base import Face
from .open_source import OpenSource, opened_source
from .typed import T_Item

T_Raw = TypeVar("T_Raw")
T_Value = TypeVar("T_Value")


class Opener(Face[T_Item], Generic[T_Item]):
    """The base of :class:`Hub` that starts libraries, and stops them."""

    @overload
    def open_source(
        self,
        name: str,
        start: Callable[[Portal[T_Raw]], Coroutine[Any, Any, T_Value]],
        stop: Callable[[T_Value], object],
        *,
        stop_timeout: float = 10.0,
        drain: bool = False,
        decode: Callable[[T_Raw], T_Item] | None = None,
        on_undelivered: Callable[[T_Raw], object] | None = None,
        max_buffer_size: float | None = None,
        overflow: Overflow | None = None,
    ) -> AbstractAsyncContextManager[OpenSource[T_Raw, T_Value]]: ...

    @overload
    def open_source(
        self,
        name: str,
        start: Callable[[Portal[T_Raw]], T_Value],
        stop: Callable[[T_Value], object],
        *,
        stop_timeout: float = 10.0,
        drain: bool = False,
        decode: Callable[[T_Raw], T_Item] | None = None,
        on_undelivered: Callable[[T_Raw], object] | None = None,
        max_buffer_size: float | None = None,
        overflow: Overflow | None = None,
    ) -> AbstractAsyncContextManager[OpenSource[T_Raw, T_Value]]: ...

    def open_source(
        self,
        name: str,
        start: Callable[[Portal[Any]], Any],
        stop: Callable[[Any], object],
        *,
        stop_timeout: float = 10.0,
        drain: bool = False,
        decode: Callable[[Any], T_Item] | None = None,
        on_undelivered: Callable[[Any], object] | None = None,
        max_buffer_size: float | None = None,
        overflow: Overflow | None = None,
    ) -> AbstractAsyncContextManager[OpenSource[Any, Any]]:
        """Start a library, and stop it at the end of the ``async with`` block, in order.

        In the hub's event loop.

        ``start(portal)`` and ``stop(value)`` run while the hub is live, so they may wait for
        callbacks that wait for the hub; *value* is the return value of *start*. Plain functions
        are called in threads of their own, so they may block. A coroutine function, or a coroutine
        that a plain one returns, runs in the hub's event loop, in a task of its own, which only
        the time limit cancels. The threads are daemon threads, and a ``threading.Thread`` that is
        made in one is a daemon as well, unless you set ``daemon=False``.

        The end of the block, or of the hub, has this order. No new items are accepted from this
        source. Calls that were blocked in its portals are released with an error, and have left.
        *stop* has run. The items that were not received went to *on_undelivered*. Cancellation does
        not cut this short.
        If *start* is still running then, it has *stop_timeout* seconds to return. Then a coroutine
        is cancelled; if a plain function returns even later, *stop* is called at once.

        :param name: as for :meth:`register`, and so are *decode*, *on_undelivered*,
            *max_buffer_size* and *overflow*
        :param stop_timeout: how many seconds *stop* may take (``math.inf``: any number); then
            ``TimeoutError`` is raised. A plain function goes on in a daemon thread, a coroutine is
            cancelled
        :param drain: at a normal end of the block, run *stop* first, while the source is live.
            Items that the library sends meanwhile are accepted, and wait for room as ever. Then its
            portals are closed; queued items are still received. Another task has to receive; if
            none does, *stop* has its time limit. If an exception or a cancellation leaves the
            block, or comes while *stop* runs, or the hub ends, the end is as above
        :return: a context manager for an :class:`OpenSource`: its portal and *value*
        :raises Exception: the exception of *start*; *stop* is not called then
        :raises RuntimeError: if the system has no thread for *start*
        :raises ExceptionGroup: the exception of *stop*, together with that of the body
        :raises ValueError: if a source of that name is registered; if *stop_timeout* is negative or
            NaN; if *max_buffer_size* or *overflow* cannot be
        :raises TypeError: if *start* or *stop* is not callable, or *stop_timeout* no number
        :raises anyio.ClosedResourceError: after :meth:`close_senders`
        :raises anyio.BrokenResourceError: if the hub has ended
        """
        for what, func in (("start", start), ("stop", stop)):
            if not callable(func):
                raise TypeError(f"{what} must be callable, not {func!r}")
        limit = check_limit(stop_timeout, "stop_timeout")
        hooks = decode, on_undelivered
        register = partial(self._register, name, None, limit, *hooks, max_buffer_size, overflow)
        gather = partial(together, self._mailbox, self._on_error)
        return opened_source(self._mailbox, register, start, stop, drain, gather)
