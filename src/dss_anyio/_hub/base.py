"""The common part of both receiving faces: opening, registering, looking at the state."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from itertools import count
from typing import Any, Generic, Literal, TypeVar, overload

from anyio.abc import TaskGroup

from .._bindings import Api1, Api2, makers
from .._core.errors import NotCopied, other_process, senders_closed, title
from .._core.functions import check_plain, is_async
from .._core.mailbox import Mailbox
from .._core.policies import Overflow
from .._core.reports import OnError
from .._core.source import Source
from .._ending.ways_out import abandon, unwatch, watch
from .._loops.slices import check_limit
from .._portal.feed import Feed
from .._portal.portal import Portal, open_portal
from .docks import Docks
from .looking import BlockedCall, HubStatistics, blocked_in, state_of, statistics_of, waiting_calls
from .typed import T_Item, Typed

T_Raw = TypeVar("T_Raw")

_numbers = count(1)


openings: list[Callable[[Face[Any]], object]] = []  # called with each hub that is opened: for tests


class Face(NotCopied, Typed, Docks, Generic[T_Item]):
    """The base of Hub and PolledHub."""

    _task_group: TaskGroup | None = None  # of an open hub that has an event loop
    _has_loop: bool = False  # an event loop, in which coroutine functions can run
    _left_open: bool = False  # True from its opening until its end begins

    def __init__(
        self,
        max_buffer_size: float,
        overflow: Overflow,
        name: str | None,
        on_error: OnError | None,
    ) -> None:
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a string or None, not {name!r}")
        if on_error is not None:
            check_plain("on_error", on_error)
        self._on_error = on_error
        self._mailbox = mailbox = Mailbox(max_buffer_size, overflow)
        mailbox.books.hub = next(_numbers) if name is None else name
        self._portal: Portal[T_Item] = Portal(mailbox, mailbox.root)

    def _enter_thread(self) -> None:
        """Make this thread the receiving thread, and enter the hub among the open ones."""
        home = self._mailbox.home
        home.come_home()
        home.hub = watch(self, self._mailbox)
        self._left_open = True
        for note in openings:
            note(self)

    def __del__(
        self,
        # A module may be torn down before its last object, and then its globals are None.
        _abandon: Callable[[Mailbox], None] = abandon,
        _unwatch: Callable[..., object] = unwatch,
        _warn: Callable[..., None] = warnings.warn,
        _other_process: object = other_process,
    ) -> None:
        try:
            mailbox = self._mailbox
        except AttributeError:
            return  # refused by __init__
        swept = mailbox.swept
        if swept and not self._left_open:
            return
        if mailbox.refusal is _other_process:
            return  # this is a forked child: the parent opened the hub, and the parent closes it
        forgotten = f"Unclosed {self!r}" if self._left_open else None
        if not swept:
            # No thread can receive any more, so none may go on waiting. No portal holds the hub.
            _abandon(mailbox)
        _unwatch(mailbox.home.hub, None)
        if forgotten is not None:
            _warn(forgotten, ResourceWarning, stacklevel=1, source=self)

    @property
    def name(self) -> str:
        """Its name: the parameter *name*, or ``hub-`` and a number."""
        hub = self._mailbox.books.hub
        return hub if isinstance(hub, str) else f"hub-{hub}"

    # -- sources -----------------------------------------------------------------------------------

    @property
    def portal(self) -> Portal[T_Item]:
        """The hub's own portal. May be given to any thread."""
        return self._portal

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
        overflow: Overflow | None = None,
    ) -> Portal[T_Raw]: ...

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
        overflow: Overflow | None = None,
    ) -> Portal[T_Item]: ...

    def register(
        self,
        name: str,
        *,
        stop: Callable[[], object] | None = None,
        stop_timeout: float = 10.0,
        decode: Callable[[Any], T_Item] | None = None,
        on_undelivered: Callable[[Any], object] | None = None,
        max_buffer_size: float | None = None,
        overflow: Overflow | None = None,
    ) -> Portal[Any]:
        """Register a source, such as the binding of a library, and return its portal.

        From any thread; never waits. The source is registered until its portal (and each clone of
        it) is closed or aborted, or the hub ends.

        :param stop: called once if the source is still registered when the hub ends, to stop the
            library: newest source first, when no call is blocked any more. A plain function is
            called in a worker thread. A coroutine function (or a plain one that returns a
            coroutine) runs in the hub's event loop. It has a task of its own, which the
            cancellation of the hub's tasks does not reach. If that loop is gone, it is not run, and
            an error says so. The exception of *stop* is raised where the hub ends
        :param stop_timeout: how many seconds *stop* may take (``math.inf``: any number). Then a
            ``TimeoutError`` is raised where the hub ends; a plain function goes on in a daemon
            thread, a coroutine is cancelled, and has 2 seconds to end
        :param decode: called with each item in the hub's thread when it is received; its return
            value is received in place of the item. If it raises, the item goes to *on_undelivered*
            and the exception to ``on_error``, and the next item is received
        :param on_undelivered: called with each accepted item that will not be received, exactly
            once, so that you can free the resources of the item. It runs in the sending thread if
            the policy drops the item, in the thread that aborts the portal, or in a worker thread
            when the hub ends. It should be quick. Its exception goes to ``on_error``
        :param max_buffer_size: how many of its items may wait to be received: a bound of its own
            instead of the hub's. So this source cannot fill the hub for other sources, and they
            cannot fill it for this source. None: it shares the hub's places
        :param overflow: the policy for an item of this source that finds no room. The policies are
            those of :func:`open_hub`; ``"drop_oldest"`` drops the oldest item of this source. If
            only one of the two is given, the other one is the hub's
        :raises ValueError: if a source of that name is registered, or *stop_timeout* is negative;
            if *max_buffer_size* or *overflow* cannot be, as for :func:`open_hub`
        :raises TypeError: if *name* is not a string, *stop_timeout* not a number, or one of the
            others is not callable; if *decode* or *on_undelivered* is a coroutine function, or
            *stop* is one and the hub is polled
        :raises anyio.ClosedResourceError: after :meth:`close_senders`
        :raises anyio.BrokenResourceError: if the hub has ended
        """
        check_callable("stop", stop)
        if not self._has_loop and is_async(stop):
            raise TypeError(
                f"stop must be a plain function, not the coroutine function {stop!r}: a polled hub "
                "has no event loop to run it in. Give a function that blocks until the library has "
                "stopped, or open the hub with open_hub() or start_hub()"
            )
        limit = check_limit(stop_timeout, "stop_timeout")
        return self._register(name, stop, limit, decode, on_undelivered, max_buffer_size, overflow)[
            0
        ]

    def _register(
        self,
        name: str,
        stop: Callable[[], object] | None,
        stop_timeout: float,
        decode: Callable[[Any], T_Item] | None,
        on_undelivered: Callable[[Any], object] | None,
        max_buffer_size: float | None,
        overflow: Overflow | None,
    ) -> tuple[Portal[Any], Source]:
        if not isinstance(name, str):
            raise TypeError(f"the name of a source must be a string, not {name!r}")
        check_plain("decode", decode)
        check_plain("on_undelivered", on_undelivered)
        mailbox = self._mailbox
        places = mailbox.make_places(max_buffer_size, overflow)
        source = Source(name, decode, on_undelivered, stop_timeout)
        if max_buffer_size is not None or overflow is not None:
            source.max_buffer_size = places.limit
        if stop is not None:
            source.set_stop(stop)
        lane = mailbox.open_lane(source, places)
        if lane.refusal is None:  # else ``books`` would keep the names of attempts after the end
            source.account = mailbox.books.account_of(name)  # before other threads know the lane
        # A local variable: the end of the hub may set ``source.portal`` to None at any time.
        portal = open_portal(mailbox, lane)
        source.portal = portal
        if mailbox.registry.sources.setdefault(name, source) is not source:
            refusal = lane.refusal
            source.retire("portal")
            portal.close()
            if refusal is not None:
                raise refusal(lane)
            raise ValueError(
                f"a source named {name!r} is registered already in {title(mailbox.books)}; "
                f"hub.source({name!r}) returns its portal"
            )
        # The hub may have ended meanwhile. Its end writes the refusal, and *then* empties
        # ``sources``. So either it finds our source and calls ``stop``, or we read the refusal.
        if lane.refusal is not None and source.retire("portal"):
            mailbox.registry.sources.pop(name, None)
            raise lane.refusal(lane)
        return portal, source

    def source(self, name: str) -> Portal[Any]:
        """Return the portal of the registered source *name*. From any thread; never waits.

        :meth:`register` has returned the same portal. It may be closed while a clone of it keeps
        the source registered.

        :raises LookupError: if no source of that name is registered
        """
        source = self._mailbox.registry.sources.get(name)
        portal: Portal[Any] | None = source.portal if source is not None else None
        if portal is None:
            known = ", ".join(map(repr, list(self._mailbox.registry.sources))) or "none"
            raise LookupError(
                f"no source named {name!r} is registered in {title(self._mailbox.books)}; "
                f"registered are: {known}"
            )
        return portal

    @overload
    def api(self, version: Literal["1.0"]) -> Api1[T_Item]: ...

    @overload
    def api(self, version: Literal["2.0"]) -> Api2[T_Item]: ...

    def api(self, version: str) -> Any:
        """Return the API of that version, for a binding that does not import this library.

        From any thread, also after the end; never waits. ``"1.0"`` has the shape of DarkSideSync
        1.0, see :class:`Api1`; ``"2.0"`` is this hub itself, see :class:`Api2`. Bindings of both
        kinds may use one hub at the same time.

        :raises LookupError: if there is no such version; its message names those that there are
        """
        if version == "2.0":
            return self
        make = makers.get(version)
        if make is None:
            raise LookupError(
                f"there is no API {version!r}; {title(self._mailbox.books)} has "
                f"{' and '.join(map(repr, sorted({*makers, '2.0'})))}"
            )
        # Made at the first call. (Why in the mailbox's dict, and not in our own: see ``Docks``.)
        apis: dict[str, Any] = self._mailbox.__dict__.setdefault("apis", {})
        # Two threads that call at once may make two; both get the one that was entered first.
        return apis.get(version) or apis.setdefault(version, make(self))

    def open_feed(self, max_buffer_size: float, *, name: str | None = None) -> Feed[Any]:
        """Open a feed: a queue from which a callback with a deadline takes items in time.

        From any thread; never waits. The feed ends with the hub, or when it is closed.

        :param max_buffer_size: how many items may wait to be taken; ``math.inf`` for any number
        :param name: appears in ``repr``, :meth:`blocked` and :meth:`statistics`, where the counts
            of all feeds of one name add up; without it, ``feed-`` and a number
        :raises ValueError: if *max_buffer_size* is not a positive integer or ``math.inf``
        :raises anyio.BrokenResourceError: if the hub has ended
        """
        return Feed(self._mailbox, max_buffer_size, name)

    def close_senders(self) -> None:
        """End the stream gracefully: refuse new items; queued ones are still received.

        From any thread; never waits. All portals are closed, and calls that wait in them raise
        ``ClosedResourceError``. The receiver gets the accepted items, then ``EndOfStream``. Sources
        stay registered, so the end of the hub still calls their ``stop``.
        """
        if not self._mailbox.ended:
            self._mailbox.registry.refuse_all(senders_closed)

    # -- looking at it -----------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many items wait to be received. From any thread."""
        return len(self._mailbox)

    def __bool__(self) -> bool:
        return True  # an empty hub is still a hub

    def blocked(self) -> list[BlockedCall]:
        """Return the calls that wait in this hub's portals, the longest wait first.

        From any thread; never waits. Each entry has the source, the method, the seconds and the
        thread, so you see why a thread hangs.
        """
        return blocked_in(self._mailbox)

    def statistics(self) -> HubStatistics:
        """Return the counts of this hub. From any thread, also after the end; never waits.

        The counts of a source that has ended stay, under its name, until the hub is gone; if the
        name is registered again, they add up. So each name takes 150 to 500 bytes for good.
        """
        return statistics_of(self._mailbox, self._open_receivers(), self._waiting_receivers())

    def _open_receivers(self) -> int:
        raise NotImplementedError

    def _waiting_receivers(self) -> int:
        raise NotImplementedError

    def __repr__(self) -> str:
        mailbox = self._mailbox
        queued = f"{len(mailbox)} of {mailbox.places.limit} queued"
        return (
            f"<{type(self).__name__} {self.name!r}: {state_of(mailbox)}, "
            f"{queued}, {waiting_calls(mailbox)} blocked, "
            f"{len(mailbox.registry.sources)} sources>"
        )


def mailbox_of(hub: Face[Any]) -> Mailbox:
    """The mailbox of *hub*, for the other files of this package that need it."""
    return hub._mailbox  # pyright: ignore[reportPrivateUsage]  # of this file


def check_callable(what: str, value: object) -> None:
    if value is not None and not callable(value):
        raise TypeError(f"{what} must be callable or None, not {value!r}")
