"""The versions of the API, as a binding sees them that does not import this library.

A binding is given a hub by whoever uses it, and says which version it was written for. What it gets
has the methods that stand here. Its author may copy them into a ``Protocol`` of their own: type
checkers compare methods, not names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Protocol, TypeVar, overload

T_Item = TypeVar("T_Item")
T_Item_contra = TypeVar("T_Item_contra", contravariant=True)
T_Raw = TypeVar("T_Raw")
T_Default = TypeVar("T_Default")


class Api1(Protocol[T_Item_contra]):
    """API 1.0, ``hub.api("1.0")``: DarkSideSync 1.0 as its bindings know it.

    Functions return codes where this library raises: ``DSS_SUCCESS``, a warning above it, errors
    below. The functions that a binding gives along are called as theirs were:

    * ``decode(hub, data, utilid)``, in the hub's thread when the item is received. What it returns
      is received. None means that nothing is: it has done everything, and whoever waits is
      released. If *hub* is None, nobody will receive it; what *data* holds has to be freed.
    * ``return_(hub, data, utilid, garbage, value)``, when the request is answered, in the thread
      that answers, before the one that has delivered goes on. *garbage* is true if there will be no
      answer: the request was thrown away, or its handler has raised. If *hub* is None, the hub or
      the registration has ended.
    * ``cancel(utilid)``, in a worker thread when the hub ends: stop delivering, and unregister.

    What was delivered ends with one last call: of ``return_`` if it was given and ``decode(hub,
    ...)`` has returned an item; otherwise of ``decode``. Both should return soon. What they raise
    goes to ``on_error`` of the hub; if ``decode(hub, ...)`` raises, ``decode(None, ...)`` follows.
    What they return otherwise is ignored. A *utilid* may be used with the API of any hub.
    """

    version: str  #: ``"DSS API 1v0"``

    DSS_SUCCESS: int  #: -100
    DSS_ERR_UDP_SEND_FAILED: int  #: -99: a warning. It was delivered; ``wake_address`` was not told
    DSS_ERR_INVALID_UTILID: int  #: -101: it was unregistered, its portal was closed, or it is none
    DSS_ERR_NOT_STARTED: int  #: -102: the hub has ended, or ``close_senders`` was called
    DSS_ERR_NO_CANCEL_PROVIDED: int  #: -103: *cancel* is not callable
    DSS_ERR_OUT_OF_MEMORY: int  #: -104: there is no memory, or no room in the hub
    DSS_ERR_NO_DECODE_PROVIDED: int  #: -105: *decode* is not callable
    DSS_ERR_NO_GLOBALS: int  #: -106: never returned; DarkSideSync does not return it, either
    DSS_ERR_UNKNOWN_LIB: int  #: -107: this *libid* is not registered
    DSS_ERR_ALREADY_REGISTERED: int  #: -108: this *libid* is, or another source of its name

    def register(
        self, libid: object, cancel: Callable[[Any], object] | None
    ) -> tuple[object | None, int]:
        """Register a library; return its *utilid* and a code.

        From any thread; never waits. If the library is registered, what is returned is the *utilid*
        that it has, and ``DSS_ERR_ALREADY_REGISTERED``; nothing is changed.

        :param libid: identifies the library: anything hashable. The source is named after it, with
            its ``repr`` if it is no string
        :param cancel: called once if it is still registered when the hub ends, as *cancel* of
            ``hub.register`` is: newest first, for at most 10 seconds
        :return: the *utilid* or None; ``DSS_SUCCESS``, ``DSS_ERR_NO_CANCEL_PROVIDED``,
            ``DSS_ERR_ALREADY_REGISTERED``, ``DSS_ERR_NOT_STARTED``, ``DSS_ERR_OUT_OF_MEMORY``
        """
        ...

    def getutilid(self, libid: object) -> tuple[object | None, int]:
        """Return the *utilid* of a library that is registered with this hub, and a code.

        From any thread; never waits.

        :return: the *utilid* or None; ``DSS_SUCCESS``, ``DSS_ERR_UNKNOWN_LIB``,
            ``DSS_ERR_NOT_STARTED``
        """
        ...

    def deliver(
        self,
        utilid: object,
        decode: Callable[[Any, Any, Any], T_Item_contra | None] | None,
        return_: Callable[[Any, Any, Any, bool, Any], object] | None = None,
        data: Any = None,
    ) -> int:
        """Deliver *data* to the hub; return a code.

        From any thread; with *return_* not in the hub's own. Without *return_* it never waits: if
        the hub is full and its policy is ``"block"``, the code is ``DSS_ERR_OUT_OF_MEMORY``. With
        *return_*, a :class:`Request` is received, and this blocks until the last call has returned,
        the wait for room included; the end of the hub releases it.

        After ``DSS_SUCCESS`` or a warning, *data* was delivered and its last call is made or will
        be. After an error it was not, and is still the caller's. The code does not tell whether
        there was an answer; ``return_`` is told.

        If it is interrupted while it waits (Ctrl-C, an exception set in this thread), the last call
        is made, the request is given up as with ``Portal.request``, and the exception goes on.

        :return: ``DSS_SUCCESS``, ``DSS_ERR_UDP_SEND_FAILED`` (also if it was the notification of
            another thread that failed at that moment), ``DSS_ERR_INVALID_UTILID``,
            ``DSS_ERR_NO_DECODE_PROVIDED``, ``DSS_ERR_NOT_STARTED``, ``DSS_ERR_OUT_OF_MEMORY``
        :raises RuntimeError: with *return_* in the hub's own thread: it would wait for ever
        :raises TypeError: if *return_* is neither None nor callable
        """
        ...

    def unregister(self, utilid: object) -> int:
        """End a registration; return a code.

        From any thread. Nothing is delivered any more; whoever waits is released, and has left
        (this waits for it, at most 2 seconds); what is queued is handed back by ``decode(None,
        ...)``, in this thread. So after it no function of the binding is called any more. *cancel*
        is not called.

        :return: ``DSS_SUCCESS``, ``DSS_ERR_INVALID_UTILID``
        """
        ...


class ApiPortal(Protocol[T_Item_contra]):
    """The portal of API 2.0. See :class:`Portal`, which has these methods, for what they do."""

    def send(self, item: T_Item_contra, *, timeout: float | None = None) -> None:
        """See :meth:`Portal.send`."""
        ...

    def send_nowait(self, item: T_Item_contra) -> None:
        """See :meth:`Portal.send_nowait`."""
        ...

    def offer(self, item: T_Item_contra) -> bool:
        """See :meth:`Portal.offer`."""
        ...

    def send_many(self, items: Iterable[T_Item_contra], *, timeout: float | None = None) -> None:
        """See :meth:`Portal.send_many`."""
        ...

    async def asend(self, item: T_Item_contra) -> None:
        """See :meth:`Portal.asend`."""
        ...

    def send_callback(
        self, pack: Callable[..., T_Item_contra] | None = None
    ) -> Callable[..., None]:
        """See :meth:`Portal.send_callback`."""
        ...

    def request(self, item: T_Item_contra, *, timeout: float | None = None) -> Any:
        """See :meth:`Portal.request`."""
        ...

    def request_soon(self, item: T_Item_contra) -> Future[Any]:
        """See :meth:`Portal.request_soon`."""
        ...

    async def arequest(self, item: T_Item_contra) -> Any:
        """See :meth:`Portal.arequest`."""
        ...

    @overload
    def request_callback(
        self, pack: Callable[..., T_Item_contra] | None = None, *, timeout: float | None
    ) -> Callable[..., Any]: ...

    @overload
    def request_callback(
        self,
        pack: Callable[..., T_Item_contra] | None = None,
        *,
        timeout: float | None,
        default: T_Default,
    ) -> Callable[..., Any | T_Default]: ...

    def request_callback(
        self,
        pack: Callable[..., T_Item_contra] | None = None,
        *,
        timeout: float | None,
        default: Any = ...,
    ) -> Callable[..., Any]:
        """See :meth:`Portal.request_callback`."""
        ...

    def call(self, func: Callable[..., Any], *args: Any) -> Any:
        """See :meth:`Portal.call`."""
        ...

    async def call_async(
        self, func: Callable[..., Any], *args: Any, abandon_on_cancel: bool = False
    ) -> Any:
        """See :meth:`Portal.call_async`."""
        ...

    def start_task_soon(
        self, func: Callable[..., Any], *args: Any, name: object = None
    ) -> Future[Any]:
        """See :meth:`Portal.start_task_soon`."""
        ...

    def start_task(
        self, func: Callable[..., Any], *args: Any, name: object = None
    ) -> tuple[Future[Any], Any]:
        """See :meth:`Portal.start_task`."""
        ...

    def wrap_async_context_manager(
        self, cm: AbstractAsyncContextManager[Any]
    ) -> AbstractContextManager[Any]:
        """See :meth:`Portal.wrap_async_context_manager`."""
        ...

    def clone(self) -> ApiPortal[T_Item_contra]:
        """See :meth:`Portal.clone`."""
        ...

    def close(self) -> None:
        """See :meth:`Portal.close`."""
        ...

    def abort(self) -> None:
        """See :meth:`Portal.abort`."""
        ...


class Api2(Protocol[T_Item]):
    """API 2.0, ``hub.api("2.0")``: the hub itself, as much of it as every hub has for a binding.

    See :class:`Hub` and :class:`PolledHub`, which have these methods, for what they do.
    """

    @property
    def portal(self) -> ApiPortal[T_Item]:
        """See :attr:`Hub.portal`."""
        ...

    @overload
    def register(
        self,
        name: str,
        *,
        cancel: Callable[[], object] | None = None,
        decode: Callable[[T_Raw], T_Item],
        on_undelivered: Callable[[T_Raw], object] | None = None,
    ) -> ApiPortal[T_Raw]: ...

    @overload
    def register(
        self,
        name: str,
        *,
        cancel: Callable[[], object] | None = None,
        decode: None = None,
        on_undelivered: Callable[[T_Item], object] | None = None,
    ) -> ApiPortal[T_Item]: ...

    def register(
        self,
        name: str,
        *,
        cancel: Callable[[], object] | None = None,
        decode: Callable[[Any], T_Item] | None = None,
        on_undelivered: Callable[[Any], object] | None = None,
    ) -> ApiPortal[Any]:
        """See :meth:`Hub.register`."""
        ...

    def source(self, name: str) -> ApiPortal[Any]:
        """See :meth:`Hub.source`."""
        ...

    def open_feed(self, max_buffer_size: float, *, name: str | None = None) -> Any:
        """See :meth:`Hub.open_feed`."""
        ...

    def close_senders(self) -> None:
        """See :meth:`Hub.close_senders`."""
        ...

    def blocked(self) -> list[Any]:
        """See :meth:`Hub.blocked`."""
        ...

    def statistics(self) -> Any:
        """See :meth:`Hub.statistics`."""
        ...

    def __len__(self) -> int: ...
