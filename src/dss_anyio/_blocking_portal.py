"""The type of a parameter that takes anyio's portal or ours: the calls that both have."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Any, Protocol, TypeVar, overload, runtime_checkable

if sys.version_info >= (3, 11):
    from typing import TypeVarTuple, Unpack
else:
    from typing_extensions import TypeVarTuple, Unpack

T_Args = TypeVarTuple("T_Args")
T_Result = TypeVar("T_Result")
T_Entered_co = TypeVar("T_Entered_co", covariant=True)


@runtime_checkable
class BlockingPortalLike(Protocol):
    """The type of a parameter that takes ``anyio.from_thread.BlockingPortal`` as well as a portal.

    Annotate with it the parameter of a function that calls into an event loop. Then you can pass
    ``hub.portal``, a source's portal, or the portal of anyio that you have passed so far. It has
    the four methods that both have, with anyio's signatures: type checkers compare the arguments
    with the parameters of *func*. It exists for annotations and ``isinstance``; nothing inherits
    from it. *Coming from a queue, or another portal* says where the two behave differently.
    """

    @overload
    def call(
        self, func: Callable[[Unpack[T_Args]], Awaitable[T_Result]], *args: Unpack[T_Args]
    ) -> T_Result: ...

    @overload
    def call(
        self, func: Callable[[Unpack[T_Args]], T_Result], *args: Unpack[T_Args]
    ) -> T_Result: ...

    def call(self, func: Callable[[Unpack[T_Args]], Any], *args: Unpack[T_Args]) -> Any:
        """See :meth:`Portal.call`."""
        ...

    @overload
    def start_task_soon(
        self,
        func: Callable[[Unpack[T_Args]], Awaitable[T_Result]],
        *args: Unpack[T_Args],
        name: object = None,
    ) -> Future[T_Result]: ...

    @overload
    def start_task_soon(
        self,
        func: Callable[[Unpack[T_Args]], T_Result],
        *args: Unpack[T_Args],
        name: object = None,
    ) -> Future[T_Result]: ...

    def start_task_soon(
        self, func: Callable[[Unpack[T_Args]], Any], *args: Unpack[T_Args], name: object = None
    ) -> Future[Any]:
        """See :meth:`Portal.start_task_soon`."""
        ...

    def start_task(
        self, func: Callable[..., Awaitable[T_Result]], *args: object, name: object = None
    ) -> tuple[Future[T_Result], Any]:
        """See :meth:`Portal.start_task`."""
        ...

    def wrap_async_context_manager(
        self, cm: AbstractAsyncContextManager[T_Entered_co]
    ) -> AbstractContextManager[T_Entered_co]:
        """See :meth:`Portal.wrap_async_context_manager`."""
        ...
