"""What both receiving faces share: opening, registering, looking at the state."""

from __future__ import annotations

import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable, Mapping
from itertools import count
from typing import TYPE_CHECKING, Any, Generic, Literal, NamedTuple, TypeAlias, cast, overload
from weakref import WeakMethod, ref

from anyio.abc import TaskGroup

from ._api import Api1, Api2
from ._bounds import Overflow
from ._darksidesync import DarkSideSync
from ._ending import abandon, unwatch, watch
from ._errors import senders_closed
from ._feed import Feed
from ._lane import Source, SourceStatistics
from ._mailbox import Mailbox
from ._portal import Portal, open_portal
from ._request import ENDINGS, RequestStatistics

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    T_Item = TypeVar("T_Item", default=Any)
    T_Raw = TypeVar("T_Raw")
else:
    # The default (PEP 696) is for type checkers; typing_extensions is no dependency of ours.
    from typing import TypeVar

    T_Item = TypeVar("T_Item")
    T_Raw = TypeVar("T_Raw")

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

OnError: TypeAlias = Callable[[BaseException, "str | None"], object]

_numbers = count(1)
_logger = logging.getLogger("dss_anyio")


class HubStatistics(NamedTuple):
    """A look at a hub. Exact whenever nothing is in progress; the first six are anyio's.

    ``sent == received + queued + dropped + undelivered``
    """

    current_buffer_used: int  #: items that wait to be received
    max_buffer_size: float  #: how many may wait, or ``math.inf``
    open_send_streams: int  #: portals that are not closed
    open_receive_streams: int  #: receiving ends that are not closed
    tasks_waiting_send: int  #: threads and tasks that wait for room
    tasks_waiting_receive: int  #: tasks (polled hub: threads) that wait for an item
    received: int  #: items that were received
    dropped: int  #: items that the overflow policy, or a full hub's callback, threw out
    undelivered: int  #: items that were handed back because nobody was going to receive them
    late: int  #: calls of a callback after the end of its portal or of the hub
    wakes: int  #: how often the receiver was woken
    wake_failures: int  #: notifications by UDP that failed even on a fresh socket
    errors: int  #: what ``pack``, ``decode`` and ``on_undelivered`` have raised
    sources: Mapping[str, SourceStatistics]  #: the same for each registered source
    requests: RequestStatistics  #: how requests have ended, whoever asked

    @property
    def queued(self) -> int:
        """Another name for :attr:`current_buffer_used`."""
        return self.current_buffer_used

    @property
    def sent(self) -> int:
        """Items that were accepted: received, queued, dropped and undelivered ones."""
        return self.received + self.queued + self.dropped + self.undelivered


class BlockedCall(NamedTuple):
    """A thread or task that waits inside a call of a hub's portal."""

    source: str | None  #: the registered source; None for the hub's own portal and its clones
    call: str  #: the method it waits in
    seconds: float  #: for how long
    thread: int  #: the thread's ``threading.get_ident()``
    thread_name: str | None  #: its name, if it is a thread that Python has made


openings: list[Callable[[Face[Any]], object]] = []  # told of each hub that is opened: for tests


class Face(Generic[T_Item]):
    """A hub without its way of receiving."""

    _task_group: TaskGroup | None = None  # of an open hub that has an event loop
    _left_open: bool = False  # True from its opening until somebody begins to end it
    _api1: Api1[T_Item] | None = None  # made when it is first asked for

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
            check_callable("on_error", on_error)
        self._name: str | None = name
        self._number: int = next(_numbers)
        self._on_error = on_error
        self._mailbox = mailbox = Mailbox(max_buffer_size, overflow)
        self._portal: Portal[T_Item] = Portal(mailbox, mailbox.root)

    def _enter_thread(self) -> None:
        """From now on this thread is the one that receives."""
        mailbox = self._mailbox
        mailbox.home = threading.current_thread()  # ``come_home``, written out
        mailbox.home_ident = threading.get_ident()
        mailbox.hub = watch(self)
        self._left_open = True
        for note in openings:
            note(self)

    def _together(self, first: BaseException | None, errors: list[BaseException]) -> BaseException:
        """One exception for *errors* at the end, which came up after *first*."""
        if isinstance(first, (KeyboardInterrupt, SystemExit)):
            for exc in errors:
                tell(self._on_error, exc, None)
            return first  # somebody wants to leave; that is not wrapped
        if isinstance(first, BaseExceptionGroup):
            group = cast("BaseExceptionGroup[BaseException]", first)
            errors = [*group.exceptions, *errors]
        elif first is not None:
            errors = [first, *errors]
        return BaseExceptionGroup(f"errors at the end of {self.name}", errors)

    def __del__(
        self,
        # A module may be torn down before its last object, and then its globals are None.
        _abandon: Callable[[Mailbox], None] = abandon,
        _unwatch: Callable[..., None] = unwatch,
        _warn: Callable[..., None] = warnings.warn,
    ) -> None:
        try:
            mailbox = self._mailbox
        except AttributeError:
            return  # refused by __init__
        if mailbox.swept and not self._left_open:
            return
        forgotten = f"Unclosed {self!r}" if self._left_open else None
        if not mailbox.swept:
            # Nobody can receive any more, so nobody may go on waiting. No portal holds the hub.
            _abandon(mailbox)
        _unwatch(mailbox.hub, None)
        if forgotten is not None:
            _warn(forgotten, ResourceWarning, stacklevel=1, source=self)

    @property
    def name(self) -> str:
        """What it was called when it was made, or ``hub-`` and a number."""
        return f"hub-{self._number}" if self._name is None else self._name

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
        cancel: Callable[[], object] | None = None,
        decode: Callable[[T_Raw], T_Item],
        on_undelivered: Callable[[T_Raw], object] | None = None,
    ) -> Portal[T_Raw]: ...

    @overload
    def register(
        self,
        name: str,
        *,
        cancel: Callable[[], object] | None = None,
        decode: None = None,
        on_undelivered: Callable[[T_Item], object] | None = None,
    ) -> Portal[T_Item]: ...

    def register(
        self,
        name: str,
        *,
        cancel: Callable[[], object] | None = None,
        decode: Callable[[Any], T_Item] | None = None,
        on_undelivered: Callable[[Any], object] | None = None,
    ) -> Portal[Any]:
        """Register a source, such as the binding of a library, and return its portal.

        From any thread; never waits. The source is registered until its portal (and each clone of
        it) is closed or aborted, or the hub ends.

        :param cancel: called once if the source is still registered when the hub ends, to tell the
            library that its time is over: in a worker thread, newest source first, after nobody is
            blocked any more, for at most 10 seconds. Its exception is raised where the hub ends.
        :param decode: called with each item in the hub's thread when it is received; what it
            returns is received in its place. If it raises, the item goes to *on_undelivered* and
            the exception to ``on_error``, and the next item is received.
        :param on_undelivered: called with each accepted item that will not be received, exactly
            once, so that what it holds can be freed: in the sending thread if the policy drops it,
            in the thread that aborts the portal, in a worker thread when the hub ends. It should be
            quick. Its exception goes to ``on_error``.
        :raises ValueError: if a source of that name is registered
        :raises TypeError: if *name* is not a string, or one of the others is not callable
        :raises anyio.ClosedResourceError: after :meth:`close_senders`
        :raises anyio.BrokenResourceError: if the hub has ended
        """
        return self._register(name, cancel, decode, on_undelivered)[0]

    def _register(
        self,
        name: str,
        cancel: Callable[[], object] | None,
        decode: Callable[[Any], T_Item] | None,
        on_undelivered: Callable[[Any], object] | None,
    ) -> tuple[Portal[Any], Source]:
        if not isinstance(name, str):
            raise TypeError(f"the name of a source must be a string, not {name!r}")
        check_callable("cancel", cancel)
        check_callable("decode", decode)
        check_callable("on_undelivered", on_undelivered)
        mailbox = self._mailbox
        source = Source(name, decode, on_undelivered)
        if cancel is not None:
            source.set_cancel(cancel)
        lane = mailbox.open_lane(source)
        # Not to be asked of the source later on: the end of the hub takes it from there.
        portal = open_portal(mailbox, lane)
        source.portal = portal
        if mailbox.sources.setdefault(name, source) is not source:
            refusal = lane.refusal
            source.retire("portal")
            portal.close()
            if refusal is not None:
                raise refusal()
            raise ValueError(
                f"a source named {name!r} is registered already; hub.source({name!r}) returns it"
            )
        # The hub may have ended meanwhile. Its end writes the refusal before it empties
        # ``sources``; so either it has found ours and will call ``cancel``, or we read the refusal.
        if lane.refusal is not None and source.retire("portal"):
            mailbox.sources.pop(name, None)
            raise lane.refusal()
        return portal, source

    def source(self, name: str) -> Portal[Any]:
        """Return the portal of the registered source *name*. From any thread; never waits.

        It is the one that :meth:`register` has returned, and may be closed while a clone of it
        keeps the source registered.

        :raises LookupError: if no source of that name is registered
        """
        source = self._mailbox.sources.get(name)
        portal: Portal[Any] | None = source.portal if source is not None else None
        if portal is None:
            known = ", ".join(map(repr, list(self._mailbox.sources))) or "none"
            raise LookupError(f"no source named {name!r} is registered; registered are: {known}")
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
        if version != "1.0":
            raise LookupError(f"there is no API {version!r}; this hub has '1.0' and '2.0'")
        made = self._api1
        if made is None:
            made = DarkSideSync(
                self._mailbox,
                ref(self),
                WeakMethod(self._register),
                WeakMethod(self._wake_failures),
            )
            made = self.__dict__.setdefault("_api1", made)
        return made

    def open_feed(self, max_buffer_size: float, *, name: str | None = None) -> Feed[Any]:
        """Open a feed: what a callback with a deadline takes, without having to ask for it.

        From any thread. It ends with the hub, or when it is closed.

        :param max_buffer_size: how many items may wait to be taken; ``math.inf`` for any number
        :param name: appears in ``repr`` and :meth:`blocked`
        :raises ValueError: if *max_buffer_size* is not a positive integer or ``math.inf``
        :raises anyio.BrokenResourceError: if the hub has ended
        """
        return Feed(self._mailbox, max_buffer_size, name)

    def close_senders(self) -> None:
        """End the stream gracefully: take no new items, let the receiver have what there is.

        From any thread; never waits. All portals are closed, calls that wait in them raise
        ``ClosedResourceError``. The receiver gets what was accepted, then ``EndOfStream``. Sources
        stay registered, so the end of the hub still calls their ``cancel``.
        """
        if not self._mailbox.ended:
            self._mailbox.refuse_all(senders_closed)

    # -- looking at it -----------------------------------------------------------------------------

    def __len__(self) -> int:
        """How many items wait to be received. From any thread."""
        return len(self._mailbox)

    def __bool__(self) -> bool:
        return True  # an empty hub is still a hub

    def blocked(self) -> list[BlockedCall]:
        """Who waits inside a call of this hub's portals, longest first. From any thread.

        It is for the one who wonders why a thread hangs: source, method, seconds, thread.
        """
        calls = list(self._mailbox.blocked)  # before the clock is read: nobody waits since later
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        now = time.monotonic()
        return [
            BlockedCall(
                each.lane.source.name,
                each.call,
                now - each.since,
                each.thread,
                names.get(each.thread),
            )
            for each in calls
        ]

    def statistics(self) -> HubStatistics:
        """Return the counts of this hub. From any thread, also after the end; never waits."""
        mailbox = self._mailbox
        queued: dict[Source, int] = {}
        for lane in list(mailbox.queues):
            queued[lane.source] = queued.get(lane.source, 0) + len(lane.items or ())
        return HubStatistics(
            current_buffer_used=len(mailbox),
            max_buffer_size=mailbox.limit,
            open_send_streams=len(mailbox.lanes),
            open_receive_streams=self._open_receivers(),
            tasks_waiting_send=len(mailbox.waiting),
            tasks_waiting_receive=self._waiting_receivers(),
            received=mailbox.received,
            dropped=mailbox.counts["dropped"].value,
            undelivered=mailbox.counts["undelivered"].value,
            late=mailbox.counts["late"].value,
            wakes=mailbox.wakes,
            wake_failures=self._wake_failures(),
            errors=mailbox.counts["errors"].value,
            sources={
                source.name or "": SourceStatistics(
                    source.received,
                    queued.get(source, 0),
                    source.counts["dropped"].value,
                    source.counts["undelivered"].value,
                )
                # Not the pairs: to make them may start a collection, and a finalizer may close one.
                for source in list(mailbox.sources.values())
            },
            requests=self._count_requests(),
        )

    def _count_requests(self) -> RequestStatistics:
        counts = self._mailbox.counts
        asked = counts["asked"].value  # before the others: none of them is counted before it
        ended = [counts[ending].value for ending in ENDINGS]
        answered, refused, unanswered, released, abandoned = ended
        waiting = max(0, asked - sum(ended))
        return RequestStatistics(answered, refused, unanswered, released, abandoned, waiting)

    def _open_receivers(self) -> int:
        raise NotImplementedError

    def _waiting_receivers(self) -> int:
        raise NotImplementedError

    def _wake_failures(self) -> int:
        return 0

    @property
    def _state(self) -> str:
        mailbox = self._mailbox
        return "ended" if mailbox.ended else "senders closed" if mailbox.refusal else "open"

    def __repr__(self) -> str:
        mailbox = self._mailbox
        return (
            f"<{type(self).__name__} {self.name!r}: {self._state}, "
            f"{len(mailbox)} of {mailbox.limit} queued, {len(mailbox.blocked)} blocked, "
            f"{len(mailbox.sources)} sources>"
        )


def tell(on_error: OnError | None, exc: BaseException, source: str | None) -> None:
    """Hand *exc* to the user's hook, or to logging. Raises only if the hook wants to leave."""
    try:
        if on_error is not None:
            on_error(exc, source)
            return
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as again:
        again.__cause__ = exc
        exc = again
    of = "the hub's own portal" if source is None else f"source {source!r}"
    _logger.error("error in %s: %r", of, exc, exc_info=exc)


def tell_reports(mailbox: Mailbox, on_error: OnError | None) -> None:
    """Tell *on_error* what was reported from any thread. In the hub's thread."""
    while mailbox.reports:
        source, exc = mailbox.reports.pop(0)
        tell(on_error, exc, source)


def check_callable(what: str, value: object) -> None:
    if value is not None and not callable(value):
        raise TypeError(f"{what} must be callable or None, not {value!r}")
