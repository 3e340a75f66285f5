"""Looking at a hub: its counts, and its blocked calls. From any thread; nothing here waits."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import NamedTuple

from .._core.inlet import Inlet
from .._core.inlets import NO_INLET, InletCounts
from .._core.mailbox import Mailbox
from .._core.question import RequestStatistics, count_requests
from .._core.waiter import WaitForPlace
from .._portal.feed import FeedStatistics, statistics_of_feeds


class SourceStatistics(NamedTuple):
    """The counts of all sources that have had one name: the registered one, and those before it.

    ``sent == received + queued + dropped + undelivered``
    """

    received: int  #: items that were received
    queued: int  #: items that wait to be received
    dropped: int  #: items that the overflow policy threw out
    #: items that were handed back, because they could not be received any more; and requests that
    #: were abandoned or released before they were received. The latter are not handed back
    undelivered: int
    requests: RequestStatistics  #: how its requests have ended
    registered: bool  #: is a source of this name registered now? Otherwise it has ended
    #: how many of its items may be queued, if it is registered with a bound of its own
    max_buffer_size: float | None

    @property
    def sent(self) -> int:
        """Items that were accepted: received, queued, dropped and undelivered ones."""
        return self.received + self.queued + self.dropped + self.undelivered


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
    dropped: int  #: items that a full hub did not keep
    #: accepted items that were handed back, not received; and requests that were abandoned or
    #: released before they were received. The latter are not handed back: their askers know
    undelivered: int
    late: int  #: calls of a callback after the end of its portal or of the hub
    wakes: int  #: how often the receiver was woken
    wake_failures: int  #: notifications by UDP that failed even on a fresh socket
    errors: int  #: exceptions of ``pack``, ``decode`` and ``on_undelivered``
    sources: Mapping[str, SourceStatistics]  #: the same for each source, also if it has ended
    requests: RequestStatistics  #: how all requests have ended
    feeds: Mapping[str, FeedStatistics]  #: the counts of each feed, also if it was closed

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
    #: ``"hub"`` if it waits for room in the hub, ``"source"`` if it waits for room under the bound
    #: of its source. None: it waits for something else, such as an answer
    room: str | None


def blocked_in(mailbox: Mailbox) -> list[BlockedCall]:
    # Copy before the clock is read, so that no wait is shorter than 0 seconds.
    waiters = list(mailbox.inside.waiters)
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    now = time.monotonic()
    calls: list[tuple[str | None, str, float, int, str | None]] = []
    for each in waiters:
        source = each.lane.source.name
        if isinstance(each, Inlet):  # it stands for the threads that wait in it
            calls += [(source, *call, None) for call in each.ring.blocked()]
        else:
            room = _room(mailbox, each.waiting)
            calls.append((source, each.call, now - each.since, each.thread, room))
    if mailbox.inlets is not None:
        calls.sort(key=lambda call: -call[2])
    return [BlockedCall(*call[:4], names.get(call[3]), call[4]) for call in calls]


def waiting_calls(mailbox: Mailbox) -> int:
    """How many calls ``blocked_in`` finds."""
    if mailbox.inlets is None:
        return len(mailbox.inside.waiters)
    return len(blocked_in(mailbox))


def _room(mailbox: Mailbox, waiting: WaitForPlace | None) -> str | None:
    if waiting is None or waiting.accepted:
        return None
    return "hub" if waiting.lane.places is mailbox.places else "source"


def statistics_of(
    mailbox: Mailbox, open_receive_streams: int, tasks_waiting_receive: int
) -> HubStatistics:
    books, registry = mailbox.books, mailbox.registry
    counts = books.counts
    queued = registry.queued()
    inlets: dict[str | None, InletCounts] = {}
    failures = 0
    if mailbox.inlets is not None:
        inlets, failures = mailbox.inlets.counts(), mailbox.inlets.bell.failures
    # Copied in one step: making the pairs one by one may start a collection, and a finalizer may
    # register a source.
    sources = {
        name: SourceStatistics(
            account.received + inlets.get(name, NO_INLET).received,
            queued.get(name, 0) + inlets.get(name, NO_INLET).queued,
            account.value_of("dropped") + inlets.get(name, NO_INLET).dropped,
            account.value_of("undelivered"),
            count_requests(account),
            name in registry.sources,
            registry.bound_of(name),
        )
        for name, account in books.accounts.copy().items()
    }
    requests = [count_requests(counts), *(each.requests for each in sources.values())]
    waiting = {mailbox.places: len(mailbox.places.waiting)}  # for the hub's and each source's bound
    for lane in registry.lanes.copy():
        if lane.places not in waiting:
            waiting[lane.places] = len(lane.places.waiting)
    return HubStatistics(
        current_buffer_used=len(mailbox),
        max_buffer_size=mailbox.places.limit,
        open_send_streams=len(registry.open_lanes),
        open_receive_streams=open_receive_streams,
        tasks_waiting_send=sum(waiting.values()),
        tasks_waiting_receive=tasks_waiting_receive,
        received=books.received + sum([each.received for each in inlets.values()]),
        dropped=counts.value_of("dropped") + sum([each.dropped for each in inlets.values()]),
        undelivered=counts.value_of("undelivered"),
        late=counts.value_of("late") + sum([each.late for each in inlets.values()]),
        wakes=mailbox.bell.wakes,
        wake_failures=counts.value_of("wake_failures") + failures,
        errors=counts.value_of("errors"),
        sources=sources,
        requests=RequestStatistics(*map(sum, zip(*requests, strict=True))),
        feeds=statistics_of_feeds(books.feeds),
    )


def state_of(mailbox: Mailbox) -> str:
    return "ended" if mailbox.ended else "senders closed" if mailbox.refusal else "open"
