"""The sending face: what is given to other threads. The same for both hubs."""

from __future__ import annotations

import threading
import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType
from typing import Any, TypeVar, cast, final

from anyio import Event
from anyio.lowlevel import checkpoint

from ._asking import Asker, T_contra, check_pack, packed
from ._errors import no_room, portal_aborted, portal_closed, would_deadlock
from ._lane import Blocked, Lane
from ._mailbox import Mailbox
from ._waiting import acquire, check_timeout
from ._wake import call_soon_here

T_Method = TypeVar("T_Method", bound=Callable[..., Any])


class _Quick:
    """A method of which each portal has a quick form of its own, made when it is first used.

    What stands below is what the quick form does, in so many words, and what is used if somebody
    calls it as ``Portal.send(portal, item)``. The quick form does not hold the portal.
    """

    def __init__(
        self, make: Callable[[Mailbox, Lane], Callable[..., Any]], method: Callable[..., Any]
    ) -> None:
        self._make = make
        self._method = method
        self._name = method.__name__

    def __get__(self, portal: Portal[Any] | None, owner: object = None) -> Callable[..., Any]:
        if portal is None:
            return self._method
        made = self._make(portal._mailbox, portal._lane)  # pyright: ignore[reportPrivateUsage]
        setattr(portal, self._name, made)  # from now on it is found before we are
        return made


def _quick(
    make: Callable[[Mailbox, Lane], Callable[..., Any]],
) -> Callable[[T_Method], T_Method]:
    return cast("Callable[[T_Method], T_Method]", partial(_Quick, make))


@final
class Portal(Asker[T_contra]):
    """A way into a hub, for any thread.

    Made by the hub (``hub.portal``, ``hub.register``) or by :meth:`clone`. All methods may be
    called from any thread, whoever made it, with or without an event loop of its own. As with the
    send streams of anyio, the receiver gets ``EndOfStream`` after the last portal has been closed;
    a portal may be used as a context manager that closes it.
    """

    _witness: _Forgotten | None = None  # of all but the hub's own

    # -- one item ----------------------------------------------------------------------------------

    @_quick(lambda mailbox, lane: mailbox.quick_waiting_sender(lane, _put))
    def send(self, item: T_contra, *, timeout: float | None = None) -> None:
        """Deliver *item* to the hub; wait for room if it is full and its policy is ``"block"``.

        From any thread; in the hub's own it does not wait, see below. Waits at most *timeout*
        seconds (None: as long as it takes). Once it has returned, *item* will be received, or
        handed to ``on_undelivered`` if the hub ends first. If it raises, it was not accepted.

        :raises TimeoutError: if there was no room in time
        :raises RuntimeError: in the hub's own thread, if it would have to wait: for ever
        :raises anyio.ClosedResourceError: if this portal is closed, or is closed meanwhile
        :raises anyio.BrokenResourceError: if the hub has ended, or ends meanwhile
        """
        _put(self._mailbox, self._lane, item, timeout)

    @_quick(lambda mailbox, lane: mailbox.quick_sender(lane, _put_nowait, None))
    def send_nowait(self, item: T_contra) -> None:
        """Deliver *item* to the hub at once, or raise.

        From any thread, a signal handler, a finalizer, at any bytecode. Never waits. Once it has
        returned, *item* will be received, or handed to ``on_undelivered`` if the hub ends first or
        its policy drops it.

        :raises anyio.WouldBlock: if the hub is full and its policy is ``"block"``
        :raises anyio.ClosedResourceError: if this portal is closed
        :raises anyio.BrokenResourceError: if the hub has ended
        """
        _put_nowait(self._mailbox, self._lane, item)

    @_quick(lambda mailbox, lane: mailbox.quick_sender(lane, _offer, True, failed=False))
    def offer(self, item: T_contra) -> bool:
        """Deliver *item* to the hub if that can be done at once; return whether it was accepted.

        From any thread, a signal handler, a finalizer, a C callback, at any bytecode, also after
        the hub and its event loop are gone. Never waits, never raises. True means what
        :meth:`send_nowait` promises; with False the item is still the caller's.
        """
        return _offer(self._mailbox, self._lane, item)

    # -- many items --------------------------------------------------------------------------------

    def send_many(self, items: Iterable[T_contra], *, timeout: float | None = None) -> None:
        """Deliver all *items*, in their order; wait for room as :meth:`send` does.

        From any thread; in the hub's own it does not wait. Waits at most *timeout* seconds
        altogether. As many as there is room for are accepted in one go and with one wake. If it
        raises, the first so many of *items* were accepted, and the message says how many.

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
                    raise self._lane.refusal()
                sent += self._mailbox.put_many(self._lane, batch, sent)
                if sent == len(batch):
                    return
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                _wait(self._mailbox, self._lane, batch[sent], "send_many", left)
            except Exception as exc:
                exc.args = (f"{exc} ({sent} of {len(batch)} items were accepted)",)
                raise
            sent += 1

    # -- waiting -----------------------------------------------------------------------------------

    async def asend(self, item: T_contra) -> None:
        """Deliver *item* to the hub; wait for room without blocking the event loop.

        From any event loop of either backend: the hub's own or another one. Always a checkpoint.
        Once it has returned, *item* will be received, or handed to ``on_undelivered`` if the hub
        ends first. If it is cancelled while it waits, the item was not accepted, unless room came
        up at that very moment.

        :raises anyio.ClosedResourceError: if this portal is closed, or is closed meanwhile
        :raises anyio.BrokenResourceError: if the hub has ended, or ends meanwhile
        """
        await checkpoint()
        lane = self._lane
        if lane.refusal is not None:
            raise lane.refusal()
        if self._mailbox.put(lane, item):
            return
        call_soon = call_soon_here()
        woken = Event()
        blocked = Blocked(lane, item, "asend", lambda: call_soon(woken.set))
        try:
            self._mailbox.wait_for_room(blocked)
            await woken.wait()
        except BaseException:
            blocked.withdraw()
            raise
        finally:
            self._mailbox.leave(blocked)
        if blocked.refused and lane.refusal is not None:
            raise lane.refusal()

    # -- what is handed to a library ---------------------------------------------------------------

    def send_callback(self, pack: Callable[..., T_contra] | None = None) -> Callable[..., None]:
        """Return a function for a library to call, which sends what it is called with.

        It may be called from any thread, at any bytecode, for ever. It never waits, never raises
        and always returns None. *pack* makes the item of the arguments; without it one argument is
        the item, several are a tuple. An exception in *pack* is reported on the hub's side (see
        ``on_error`` of :func:`open_hub`). If there is no room, even if the policy is ``"block"``,
        the item is dropped: counted, and handed to ``on_undelivered``. After the end of the portal
        or the hub nothing is called, *pack* neither; only ``statistics().late`` counts it.

        :raises TypeError: if *pack* is not callable
        """
        check_pack(pack)
        mailbox = self._mailbox
        lane = self._lane
        late = mailbox.counts["late"]

        def callback(*args: Any, **kwargs: Any) -> None:
            if lane.refusal is not None:
                late.add_one()
                return
            try:
                item = packed(pack, args, kwargs)
                if not mailbox.put(lane, item):
                    mailbox.drop(lane.source, item)
            except BaseException as exc:
                mailbox.report(lane.source.name, exc)

        return callback

    # -- the end of the portal ---------------------------------------------------------------------

    def clone(self) -> Portal[T_contra]:
        """Return another portal of the same source, to be closed separately. Never waits.

        :raises anyio.ClosedResourceError: if this portal is closed
        :raises anyio.BrokenResourceError: if the hub has ended
        """
        mailbox = self._mailbox
        source = self._lane.source
        if self._lane.refusal is not None:
            raise self._lane.refusal()
        lane = mailbox.open_lane(source)
        # First it has entered, then it looks: see ``Mailbox.close_lane``.
        if source.retired:
            mailbox.close_lane(lane, portal_closed)
            raise portal_closed()
        return open_portal(mailbox, lane)

    def close(self) -> None:
        """Send nothing more through this portal. Never waits; a second call does nothing.

        What was accepted is still received. Calls that wait in it raise ``ClosedResourceError``.
        When the last portal of a registered source is closed, the source is no longer registered
        and its ``cancel`` is not called; after the last portal of the hub has been closed and
        everything was received, the receiver gets ``EndOfStream``.
        """
        self._mailbox.close_lane(self._lane, portal_closed)

    def abort(self) -> None:
        """Close this portal and take back what it has queued. A second call does nothing.

        What was accepted and not yet received goes to ``on_undelivered``, in this thread, before
        this method returns; so it takes as long as that. (One that a receiver has in hand just now
        is handed back there, perhaps a moment later.) Calls that wait in it raise
        ``ClosedResourceError``. With ``"drop_oldest"`` the places of what was taken back become
        free when the receiver, or an item that replaces the oldest, comes to them.
        (DarkSideSync's *unregister*.)
        """
        lane = self._lane
        self._mailbox.close_lane(lane, portal_aborted)
        if not self._mailbox.ended:
            lane.refusal = portal_aborted  # also if it was closed before
        self._mailbox.take_back(lane)

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
    portal._witness = _Forgotten(lane)  # pyright: ignore[reportPrivateUsage]  # of one room
    return portal


class _Forgotten:
    """Is destroyed with a portal, and tells if that is open then.

    As anyio's streams: a forgotten clone keeps the receiver from its ``EndOfStream``. The hub's own
    portal has none, because it need not be closed.
    """

    def __init__(self, lane: Lane) -> None:
        self._lane = lane

    def __del__(self) -> None:
        if self._lane.refusal is None:
            portal = _described(self._lane)
            warnings.warn(f"Unclosed {portal}", ResourceWarning, stacklevel=1, source=self)


def _described(lane: Lane) -> str:
    source = lane.source.name
    of = "" if source is None else f" of {source!r}"
    return f"<Portal{of}: {'open' if lane.refusal is None else 'closed'}>"


# -- What the quick forms leave over ---------------------------------------------------------------


def _put(mailbox: Mailbox, lane: Lane, item: object, timeout: float | None) -> None:
    if timeout is not None:
        timeout = check_timeout(timeout)
    if lane.refusal is not None:
        raise lane.refusal()
    if not mailbox.put(lane, item):
        _wait(mailbox, lane, item, "send", timeout)


def _put_nowait(mailbox: Mailbox, lane: Lane, item: object) -> None:
    if lane.refusal is not None:
        raise lane.refusal()
    if not mailbox.put(lane, item):
        raise no_room(mailbox.limit)


def _offer(mailbox: Mailbox, lane: Lane, item: object) -> bool:
    if lane.refusal is not None:
        return False
    try:
        return mailbox.put(lane, item)
    except Exception:  # out of memory, or out of stack: in both cases before it was accepted
        return False


def _wait(mailbox: Mailbox, lane: Lane, item: object, call: str, timeout: float | None) -> None:
    """Block this thread until there is room for *item*."""
    if mailbox.is_at_home():
        raise would_deadlock(call)
    # A lock that is taken twice: the second time as soon as somebody has released it. It is
    # what waits with a timeout, is interrupted by Ctrl-C and costs least.
    woken = threading.Lock()
    woken.acquire()
    blocked = Blocked(lane, item, call, woken.release)
    try:
        mailbox.wait_for_room(blocked)
        if not acquire(woken, timeout):
            if blocked.withdraw():
                raise TimeoutError(
                    f"no room in the hub within {timeout} s; the item was not accepted"
                )
            # Accepted or refused just now: whoever did it is about to wake us. Returning
            # before might let our next item overtake this one.
            acquire(woken, None)
    except BaseException:
        blocked.withdraw()
        raise
    finally:
        mailbox.leave(blocked)
    if blocked.refused and lane.refusal is not None:
        raise lane.refusal()
