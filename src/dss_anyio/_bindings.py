"""The versions of the API, as a binding sees them that does not import this library.

A program passes its hub to a binding. The binding calls ``hub.api(version)`` with the version for
which it was written, and gets an object that has the methods below. The author of the binding may
copy them into a ``Protocol`` of their own: type checkers compare methods, not names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any, Literal, Protocol, TypeAlias, TypeVar, overload

from ._blocking_portal import BlockingPortalLike

T_Item = TypeVar("T_Item")
T_Item_contra = TypeVar("T_Item_contra", contravariant=True)
T_Raw = TypeVar("T_Raw")
T_Default = TypeVar("T_Default")
T_Answer = TypeVar("T_Answer")
T_Returned = TypeVar("T_Returned")
T_Function = TypeVar("T_Function")
T_Overflow: TypeAlias = Literal["block", "drop_oldest", "drop_newest"]

# By version, the function that makes the result of ``hub.api(version)`` from the hub. The folder of
# an older version enters its function when it is imported, so that no hub has to import the folder.
makers: dict[str, Callable[[Any], Any]] = {}


class Api1(Protocol[T_Item_contra]):
    """API 1.0, ``hub.api("1.0")``: DarkSideSync 1.0 as its bindings know it.

    Functions return codes where this library raises: ``DSS_SUCCESS``, a warning above it, errors
    below. The functions of a binding are called as DarkSideSync calls them:

    * ``decode(hub, data, utilid)``, in the hub's thread when the item is received. Its return value
      is received. None means that nothing is left to receive; a thread that waits goes on.
      If *hub* is None, the item will not be received: free the resources of *data*.
    * ``return_(hub, data, utilid, garbage, value)``, when the request is answered, in the thread
      that answers, before the thread that has delivered goes on. *garbage* is true if there will be
      no answer: the request was forgotten, or its handler has raised. If *hub* is None, the hub or
      the registration has ended.
    * ``cancel(utilid)``, in a worker thread when the hub ends: stop delivering, and unregister.

    Each delivered item has one last call: of ``return_`` if it was given and ``decode(hub, ...)``
    has returned an item; otherwise of ``decode``. Both should return soon. Their exceptions go
    to ``on_error`` of the hub; if ``decode(hub, ...)`` raises, ``decode(None, ...)`` follows.
    Other return values are ignored. A *utilid* may be used with the API of any hub.
    """

    version: str  #: ``"DSS API 1v0"``

    DSS_SUCCESS: int  #: -100
    DSS_ERR_UDP_SEND_FAILED: int  #: -99: a warning. Delivered, but no datagram was sent
    DSS_ERR_INVALID_UTILID: int  #: -101: no *utilid*, or unregistered, or its portal was closed
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

        From any thread; never waits. If the library is registered already, this returns its
        *utilid* and ``DSS_ERR_ALREADY_REGISTERED``, and changes nothing.

        :param libid: identifies the library: anything hashable. The source is named after it, with
            its ``repr`` if it is no string
        :param cancel: called once if it is still registered when the hub ends, as *stop* of
            ``hub.register`` is: newest first, for at most 10 seconds. Where the hub has an event
            loop, it may be a coroutine function
        :return: the *utilid* or None; ``DSS_SUCCESS``, ``DSS_ERR_NO_CANCEL_PROVIDED``,
            ``DSS_ERR_ALREADY_REGISTERED``, ``DSS_ERR_NOT_STARTED``, ``DSS_ERR_OUT_OF_MEMORY``
        :raises TypeError: if *cancel* is a coroutine function and the hub is polled
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
        *return_*, the program receives a :class:`Request`. This call blocks until the last call has
        returned, the wait for room included; the end of the hub releases it.

        After ``DSS_SUCCESS`` or a warning, *data* was delivered and its last call is made or will
        be. After an error it was not, and is still the caller's. The code does not tell whether
        there was an answer; the call of ``return_`` does.

        If it is interrupted while it waits (Ctrl-C, an exception set in this thread), the last call
        is made, the request is given up as with ``Portal.request``, and the exception goes on.

        :return: ``DSS_SUCCESS``, ``DSS_ERR_UDP_SEND_FAILED`` (also if at that moment the datagram
            of another thread could not be sent), ``DSS_ERR_INVALID_UTILID``,
            ``DSS_ERR_NO_DECODE_PROVIDED``, ``DSS_ERR_NOT_STARTED``, ``DSS_ERR_OUT_OF_MEMORY``
        :raises RuntimeError: with *return_* in the hub's own thread: it would wait for ever
        :raises TypeError: if *return_* is neither None nor callable
        """
        ...

    def unregister(self, utilid: object) -> int:
        """End a registration; return a code.

        From any thread. Blocks until the waiting calls, which it releases, have left, at most 2
        seconds. Nothing is delivered any more. Queued items are handed back through
        ``decode(None, ...)``, in this thread. So after it returned no function of the binding is
        called any more. *cancel* is not called.

        :return: ``DSS_SUCCESS``, ``DSS_ERR_INVALID_UTILID``
        """
        ...


class ApiPortal(BlockingPortalLike, Protocol[T_Item_contra]):
    """The portal of API 2.0. :class:`Portal` has these methods, and describes them.

    It has those of :class:`BlockingPortalLike` as well.
    """

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

    @overload
    def send_callback(
        self, pack: Callable[..., T_Item_contra] | None = None, *, returns: None = None
    ) -> Callable[..., None]: ...

    @overload
    def send_callback(
        self, pack: Callable[..., T_Item_contra] | None = None, *, returns: T_Returned
    ) -> Callable[..., T_Returned]: ...

    def send_callback(
        self, pack: Callable[..., T_Item_contra] | None = None, *, returns: Any = None
    ) -> Callable[..., Any]:
        """See :meth:`Portal.send_callback`."""
        ...

    def c_callback(
        self,
        prototype: type[T_Function],
        *,
        buffers: Mapping[int, int] | None = None,
        skip: Iterable[int] = (),
        returns: Any = 0,
        max_buffer_size: int | None = None,
        overflow: Literal["block", "drop_oldest", "drop_newest"] | None = None,
    ) -> T_Function:
        """See :meth:`Portal.c_callback`."""
        ...

    def c_request_callback(
        self,
        prototype: type[T_Function],
        *,
        timeout: float | None,
        default: Any,
        convert: Callable[[Any], Any] | None = None,
        buffers: Mapping[int, int] | None = None,
        skip: Iterable[int] = (),
    ) -> T_Function:
        """See :meth:`Portal.c_request_callback`."""
        ...

    def native_sender(
        self,
        max_buffer_size: int | None = None,
        *,
        item_size: int = 256,
        overflow: Literal["block", "drop_oldest", "drop_newest"] | None = None,
    ) -> Any:
        """See :meth:`Portal.native_sender`."""
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
        self,
        pack: Callable[..., T_Item_contra] | None = None,
        *,
        timeout: float | None,
        convert: None = None,
    ) -> Callable[..., Any]: ...

    @overload
    def request_callback(
        self,
        pack: Callable[..., T_Item_contra] | None = None,
        *,
        timeout: float | None,
        convert: Callable[[Any], T_Answer],
    ) -> Callable[..., T_Answer]: ...

    @overload
    def request_callback(
        self,
        pack: Callable[..., T_Item_contra] | None = None,
        *,
        timeout: float | None,
        default: T_Default,
        convert: None = None,
    ) -> Callable[..., Any | T_Default]: ...

    @overload
    def request_callback(
        self,
        pack: Callable[..., T_Item_contra] | None = None,
        *,
        timeout: float | None,
        default: T_Default,
        convert: Callable[[Any], T_Answer],
    ) -> Callable[..., T_Answer | T_Default]: ...

    def request_callback(
        self,
        pack: Callable[..., T_Item_contra] | None = None,
        *,
        timeout: float | None,
        default: Any = ...,
        convert: Callable[[Any], Any] | None = None,
    ) -> Callable[..., Any]:
        """See :meth:`Portal.request_callback`."""
        ...

    def call_within(self, timeout: float, func: Callable[..., Any], *args: Any) -> Any:
        """See :meth:`Portal.call_within`."""
        ...

    async def call_async(
        self, func: Callable[..., Any], *args: Any, abandon_on_cancel: bool = False
    ) -> Any:
        """See :meth:`Portal.call_async`."""
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
    """API 2.0, ``hub.api("2.0")``: the hub itself, with the methods that a binding may use.

    :class:`Hub` and :class:`PolledHub` have these methods, and describe them.
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
        stop: Callable[[], object] | None = None,
        stop_timeout: float = 10.0,
        decode: Callable[[T_Raw], T_Item],
        on_undelivered: Callable[[T_Raw], object] | None = None,
        max_buffer_size: float | None = None,
        overflow: T_Overflow | None = None,
    ) -> ApiPortal[T_Raw]: ...

    @overload
    def register(
        self,
        name: str,
        *,
        stop: Callable[[], object] | None = None,
        stop_timeout: float = 10.0,
        decode: None = None,
        on_undelivered: Callable[[T_Item], object] | None = None,
        max_buffer_size: float | None = None,
        overflow: T_Overflow | None = None,
    ) -> ApiPortal[T_Item]: ...

    def register(
        self,
        name: str,
        *,
        stop: Callable[[], object] | None = None,
        stop_timeout: float = 10.0,
        decode: Callable[[Any], T_Item] | None = None,
        on_undelivered: Callable[[Any], object] | None = None,
        max_buffer_size: float | None = None,
        overflow: T_Overflow | None = None,
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
