"""The sending face: the portal, which is given to other threads. The same for both hubs."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Any, TypeVar, cast, final, overload

from anyio import Event
from anyio.lowlevel import checkpoint

from .._core.errors import RAISE, NotCopied, portal_aborted, portal_closed, who
from .._core.functions import check_plain
from .._core.mailbox import Mailbox
from .._core.sender import ABSENT, make_sender
from .._core.source import Lane
from .._core.waiter import WaitForPlace
from .._loops.slices import check_timeout
from .._loops.way import call_soon_here
from .asking import T_contra
from .callbacks import make_send_callback
from .for_c import ForC
from .putting import offer, put, put_nowait
from .waiting import wait_for_place

T_Returned = TypeVar("T_Returned")
T_Method = TypeVar("T_Method", bound=Callable[..., Any])


class _Quick:
    """A method that each portal replaces by a closure of its own when it is first used.

    The decorated body is the readable specification. A call as ``Portal.send(portal, item)`` uses
    it. The closure (``make_sender``) does not hold the portal.
    """

    def __init__(
        self,
        otherwise: Callable[[Mailbox, Lane, Any, Any, float | None], Any],
        accepted: object,
        failed: object,
        method: Callable[..., Any],
    ) -> None:
        self._otherwise, self._accepted, self._failed = otherwise, accepted, failed
        self._method = method
        self._name = method.__name__

    def __get__(self, portal: Portal[Any] | None, owner: object = None) -> Callable[..., Any]:
        if portal is None:
            return self._method
        mailbox, lane = portal._mailbox, portal._lane  # pyright: ignore[reportPrivateUsage]  # of this file
        made = make_sender(mailbox, lane, self._otherwise, self._accepted, self._failed)
        setattr(portal, self._name, made)  # from now on Python finds the closure first
        return made


def _quick(
    otherwise: Callable[[Mailbox, Lane, Any, Any, float | None], Any],
    accepted: object = None,
    failed: object = RAISE,
) -> Callable[[T_Method], T_Method]:
    return cast("Callable[[T_Method], T_Method]", partial(_Quick, otherwise, accepted, failed))


@final
class Portal(ForC[T_contra]):
    """A way into a hub, for any thread.

    Made by the hub (``hub.portal``, ``hub.register``) or by :meth:`clone`. All methods may be
    called from any thread, also one made by C, with or without an event loop of its own. As with
    the send streams of anyio, the receiver gets ``EndOfStream`` after the last portal has been
    closed; a portal may be used as a context manager that closes it.
    """

    _witness: _Forgotten | None = None  # of all but the hub's own

    # -- one item ----------------------------------------------------------------------------------

    @_quick(put)
    def send(self, item: T_contra, *, timeout: float | None = None) -> None:
        """Deliver *item* to the hub; wait for room if it is full and its policy is ``"block"``.

        From any thread; in the hub's own it raises instead of waiting. Waits at most *timeout*
        seconds (None: as long as it takes). Once it has returned, *item* will be received, or
        handed to ``on_undelivered`` if the hub ends first. If it raises, *item* was not accepted.

        :raises TimeoutError: if there was no room in time
        :raises RuntimeError: in the hub's own thread, if it would have to wait, which would be for
            ever
        :raises anyio.ClosedResourceError: if this portal is closed, or is closed meanwhile
        :raises anyio.BrokenResourceError: if the hub has ended, or ends meanwhile
        """
        put(self._mailbox, self._lane, item, ABSENT, timeout)

    @_quick(put_nowait)
    def send_nowait(self, item: T_contra) -> None:
        """Deliver *item* to the hub at once, or raise.

        From any thread, a signal handler, a finalizer, at any bytecode. Never waits. Once it has
        returned, *item* will be received, or handed to ``on_undelivered`` if the hub ends first or
        its policy drops it.

        :raises anyio.WouldBlock: if the hub is full and its policy is ``"block"``
        :raises anyio.ClosedResourceError: if this portal is closed
        :raises anyio.BrokenResourceError: if the hub has ended
        """
        put_nowait(self._mailbox, self._lane, item, ABSENT, None)

    @_quick(offer, accepted=True, failed=False)
    def offer(self, item: T_contra) -> bool:
        """Deliver *item* to the hub if that can be done at once; return whether it was accepted.

        From any thread, a signal handler, a finalizer, a C callback, at any bytecode, also after
        the hub and its event loop are gone. Never waits, never raises. After True, *item* will be
        received or handed back, as with :meth:`send_nowait`. After False, it was not accepted, and
        is still the caller's.
        """
        return offer(self._mailbox, self._lane, item, ABSENT, None)

    # -- many items --------------------------------------------------------------------------------

    def send_many(self, items: Iterable[T_contra], *, timeout: float | None = None) -> None:
        """Deliver all *items*, in their order; wait for room as :meth:`send` does.

        From any thread; in the hub's own it raises instead of waiting. Waits at most *timeout*
        seconds altogether. As many items as there is room for are accepted at once, and with one
        wake. If it raises, the first items may have been accepted; the message says how many.

        :raises TimeoutError: if there was no room in time
        :raises RuntimeError: in the hub's own thread, if it would have to wait
        :raises anyio.ClosedResourceError: if this portal is closed, or is closed meanwhile
        :raises anyio.BrokenResourceError: if the hub has ended, or ends meanwhile
        """
        timeout = check_timeout(timeout)
        batch = list(items)  # runs the user's iterator, so it comes first
        deadline = None if timeout is None else time.monotonic() + timeout
        sent = 0
        while True:
            try:
                if self._lane.refusal is not None:
                    raise self._lane.refusal(self._lane)
                put = self._lane.places.put_many(self._lane, batch, sent)
                sent += put
                if sent == len(batch):
                    return
                if put:
                    continue  # there was no more room; or memory ran out, and there is still room
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                wait_for_place(self._mailbox, self._lane, batch[sent], "send_many", left)
            except Exception as exc:
                exc.args = (f"{exc} ({sent} of {len(batch)} items were accepted)",)
                raise
            sent += 1

    # -- waiting -----------------------------------------------------------------------------------

    async def asend(self, item: T_contra) -> None:
        """Deliver *item* to the hub; wait for room without blocking the event loop.

        From any event loop of either backend: the hub's own or another one. Always a checkpoint.
        Once it has returned, *item* will be received, or handed to ``on_undelivered`` if the hub
        ends first. If it is cancelled while it waits, *item* was not accepted, unless room became
        free at that very moment.

        :raises anyio.ClosedResourceError: if this portal is closed, or is closed meanwhile
        :raises anyio.BrokenResourceError: if the hub has ended, or ends meanwhile
        """
        await checkpoint()
        lane = self._lane
        if lane.refusal is not None:
            raise lane.refusal(lane)
        if lane.places.put(lane, item):
            return
        call_soon = call_soon_here()
        woken = Event()
        waiter = WaitForPlace(lane, item, "asend", lambda: call_soon(woken.set))
        try:
            self._mailbox.wait_for_place(waiter)
            await woken.wait()
        except BaseException:
            waiter.withdraw()
            raise
        finally:
            self._mailbox.leave(waiter)
        if waiter.refused and lane.refusal is not None:
            raise lane.refusal(lane)

    # -- functions for a library to call -----------------------------------------------------------

    @overload
    def send_callback(
        self, pack: Callable[..., T_contra] | None = None, *, returns: None = None
    ) -> Callable[..., None]: ...

    @overload
    def send_callback(
        self, pack: Callable[..., T_contra] | None = None, *, returns: T_Returned
    ) -> Callable[..., T_Returned]: ...

    def send_callback(
        self, pack: Callable[..., T_contra] | None = None, *, returns: Any = None
    ) -> Callable[..., Any]:
        """Return a function for a library to call, which sends its arguments.

        From any thread; never waits. The function may be called from any thread, at any bytecode,
        for ever. It never waits, never raises and always returns *returns*, whether or not the item
        was accepted. If the callback returns a number in C, give the number that means success,
        such as 0; the number that C gets for a None is undefined before CPython 3.14.

        *pack* makes the item from the arguments. Without *pack*, one argument is the item, and
        several arguments are a tuple. An exception in *pack* is reported on the hub's side (see
        ``on_error`` of :func:`open_hub`). If there is no room, even if the policy is ``"block"``,
        the item is dropped: counted, and handed to ``on_undelivered``. After the end of the portal
        or the hub, the function only counts its call in ``statistics().late``, and does not call
        *pack*.

        :raises TypeError: if *pack* is not callable, or is a coroutine function
        """
        check_plain("pack", pack)
        return make_send_callback(self._mailbox, self._lane, pack, returns)

    # -- the end of the portal ---------------------------------------------------------------------

    def clone(self) -> Portal[T_contra]:
        """Return another portal of the same source, to be closed separately.

        From any thread; never waits.

        :raises anyio.ClosedResourceError: if this portal is closed
        :raises anyio.BrokenResourceError: if the hub has ended
        """
        mailbox = self._mailbox
        source = self._lane.source
        if self._lane.refusal is not None:
            raise self._lane.refusal(self._lane)
        lane = mailbox.open_lane(source, self._lane.places)
        # We have entered the lane, and *then* look: see ``Registry.close_lane``.
        if source.retired:
            mailbox.registry.close_lane(lane, portal_closed)
            raise portal_closed(lane)
        return open_portal(mailbox, lane)

    def close(self) -> None:
        """Send nothing more through this portal. A second call does nothing.

        From any thread; never waits. Accepted items are still received. Calls that wait in this
        portal raise ``ClosedResourceError``. When the last portal of a registered source is closed,
        the source is no longer registered, and its ``stop`` is not called. After the last portal of
        the hub has been closed and everything was received, the receiver gets ``EndOfStream``.
        """
        self._mailbox.registry.close_lane(self._lane, portal_closed)

    def abort(self) -> None:
        """Close this portal and take back its queued items. A second call does nothing.

        From any thread. It takes as long as ``on_undelivered`` takes: the items that were accepted
        and not yet received go there, in this thread, before this method returns. (An item that a
        receiver is taking just now is handed back there, perhaps a moment later.) Calls that wait
        in this portal raise ``ClosedResourceError``. The hub's own portal has no
        ``on_undelivered``: its queued items are still received. (DarkSideSync's *unregister*.)
        """
        lane = self._lane
        registry = self._mailbox.registry
        try:
            registry.close_lane(lane, portal_aborted)
        finally:  # a callback of an asker's future may have raised: take back first
            if lane is not self._mailbox.root:
                for each in (lane, *self.__dict__.get("_branches", ())):
                    if not registry.ended:
                        each.refusal = portal_aborted  # also if it was closed before
                    self._mailbox.take_back(each)

    def __enter__(self) -> Portal[T_contra]:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return _described(self._lane)


def open_portal(mailbox: Mailbox, lane: Lane) -> Portal[Any]:
    """Return a portal for *lane* that has to be closed."""
    portal: Portal[Any] = Portal(mailbox, lane)
    portal._witness = _Forgotten(lane)  # pyright: ignore[reportPrivateUsage]  # of this file
    return portal


def lane_of(portal: Portal[Any]) -> Lane:
    """The lane of a portal, for the other files of this package that need it."""
    return portal._lane  # pyright: ignore[reportPrivateUsage]  # of this file


class _Forgotten(NotCopied):
    """Is destroyed with its portal, and warns if the portal is still open then.

    As anyio's streams do: a forgotten clone keeps the receiver from its ``EndOfStream``. The hub's
    own portal has no such witness, because it need not be closed.
    """

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    def __del__(self) -> None:
        if self._lane.refusal is None:
            portal = _described(self._lane)
            warnings.warn(f"Unclosed {portal}", ResourceWarning, stacklevel=1, source=self)


def _described(lane: Lane) -> str:
    return f"<Portal of {who(lane)}: {'open' if lane.refusal is None else 'closed'}>"
