"""A feed, the other direction: a callback with a deadline takes items that were put in advance.

An audio callback that has 10 ms for an answer cannot wait for an event loop that is busy for 20 ms.
So the loop fills a feed while it has time, and the callback takes an item that is there.

The two sides are mirror images. A side that has to wait enters its line, and *then* looks again. A
side that puts or takes an item does that, and *then* looks for a waiter in the other side's line.
All of these are single steps, so one of the two sees the other: no side sleeps although it could go
on. A waiter that is woken looks again. If it leaves for another reason, it passes the wake on.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, NamedTuple, TypeVar

from anyio import BrokenResourceError, ClosedResourceError, EndOfStream, Event, WouldBlock
from anyio.lowlevel import checkpoint

from .._core.books import Books
from .._core.errors import RAISE, NotCopied, hub_of, title, would_deadlock
from .._core.mailbox import Mailbox
from .._core.question import Question
from .._core.source import Lane, Source
from .._core.steps import Counter, Counters
from .._core.waiter import InTurn
from .._loops.slices import acquire, check_timeout
from .._loops.way import call_soon_here

T_Item = TypeVar("T_Item")


class FeedStatistics(NamedTuple):
    """The counts of a feed, or of all feeds of one name: ``sent == taken + queued``."""

    queued: int  #: items that wait to be taken
    max_buffer_size: float  #: how many may wait (in the feed opened last), or ``math.inf``
    taken: int  #: items that were taken
    underruns: int  #: how often no item was there in time: the taker got a default or an error
    overruns: int  #: how often ``send_nowait`` found no room

    @property
    def sent(self) -> int:
        """Items that were accepted."""
        return self.taken + self.queued


class FeedAccount(Counters):
    """The counts of all feeds that have had one name in a hub. Kept until the hub is gone.

    Each event is counted when it happens, as for sources, so nothing is added up when a feed ends.
    It counts the items fed, before they can be taken; the items taken; and the items left in a feed
    that was destroyed ("forgotten").
    """

    __slots__ = ("limit",)

    def __init__(self) -> None:
        self.limit: float = 0  # the limit of the feed that was opened last

    def statistics(self) -> FeedStatistics:
        taken = self.value_of("taken") + self.value_of("forgotten")  # read before "fed"
        return FeedStatistics(
            self.value_of("fed") - taken,
            self.limit,
            self.value_of("taken"),
            self.value_of("underruns"),
            self.value_of("overruns"),
        )


def statistics_of_feeds(accounts: dict[str, Any]) -> dict[str, FeedStatistics]:
    """The counts of a hub's feeds, by name. From any thread."""
    return {name: account.statistics() for name, account in accounts.copy().items()}


class Feed(NotCopied, Generic[T_Item]):
    """Filled in the hub's event loop, or the thread that polls; emptied by any thread.

    Made by ``hub.open_feed()``. After :meth:`close` the remaining items can still be taken; after
    the end of the hub none can.
    """

    def __init__(self, mailbox: Mailbox, max_buffer_size: float, name: str | None) -> None:
        if max_buffer_size != math.inf and (
            not isinstance(max_buffer_size, int)
            or isinstance(max_buffer_size, bool)
            or max_buffer_size < 1
        ):
            raise ValueError(
                f"max_buffer_size must be a positive integer or math.inf, not {max_buffer_size!r}"
            )
        if name is not None and not isinstance(name, str):
            raise TypeError(f"name must be a string or None, not {name!r}")
        if mailbox.ended:
            raise _hub_gone(name, mailbox.books)
        books = mailbox.books
        if name is None:
            name = f"feed-{books.counts['feeds'].add_one() + 1}"
        self._account: FeedAccount = books.feeds.setdefault(name, FeedAccount())  # in one step
        self._account.limit = max_buffer_size
        self._mailbox = mailbox
        self._limit = max_buffer_size
        # For ``blocked()``; nothing is sent through it.
        self._lane = Lane(Source(name), None, mailbox.places)
        self._items: deque[T_Item] = deque()
        self._senders: InTurn[Question] = InTurn()
        self._takers: InTurn[Question] = InTurn()
        self._closed = False
        self._taken = Counter()
        self._underruns = Counter()
        self._overruns = Counter()

    # -- filling it: in the hub's thread -----------------------------------------------------------

    async def send(self, item: T_Item) -> None:
        """Add *item*; wait while the feed is full. In the hub's event loop. Always a checkpoint.

        :raises anyio.ClosedResourceError: if the feed is closed, or is closed meanwhile
        :raises anyio.BrokenResourceError: if the hub has ended, or ends meanwhile
        """
        await checkpoint()
        while not self._put(item):
            call_soon = call_soon_here()
            woken = Event()
            # A late call of this function wakes the wait of the next round, which looks again.
            question = Question(self._lane, "feed.send", lambda: call_soon(woken.set))  # noqa: B023
            await self._sleep(question, woken)
            if self._mailbox.ended:
                await checkpoint()  # if the end has cancelled this task as well, that comes first

    async def _sleep(self, question: Question, woken: Event) -> None:
        mailbox = self._mailbox
        try:
            mailbox.enter(question)
            self._senders[question] = True
            if self._closed or mailbox.ended or len(self._items) < self._limit:
                question.settle("answered")
            await woken.wait()
        except BaseException:
            if not question.settle("abandoned"):
                self._wake(self._senders)  # it was woken, and does not use the wake: pass it on
            raise
        finally:
            self._leave(self._senders, question)

    def send_nowait(self, item: T_Item) -> None:
        """Add *item* at once. In the hub's thread. Never waits.

        :raises anyio.WouldBlock: if the feed is full; this is counted as an overrun
        :raises anyio.ClosedResourceError: if the feed is closed
        :raises anyio.BrokenResourceError: if the hub has ended
        """
        if not self._put(item):
            self._overruns.add_one()
            self._account["overruns"].add_one()
            raise WouldBlock(
                f"{self._title} holds {self._limit} items already; use 'await feed.send(item)' to "
                "wait, or let the callback take more often"
            )

    def _put(self, item: T_Item) -> bool:
        if self._closed:
            raise ClosedResourceError(
                f"{self._title} was closed; open another one with hub.open_feed()"
            )
        if self._mailbox.ended:
            raise self._hub_gone()
        # Only the hub's thread adds items, so their number cannot grow meanwhile.
        if len(self._items) >= self._limit:
            return False
        self._account["fed"].add_one()
        self._items.append(item)
        self._wake(self._takers)
        if len(self._items) < self._limit:
            self._wake(self._senders)  # each sender wakes the next
        return True

    def close(self) -> None:
        """Add nothing more. From any thread; never waits; a second call does nothing.

        Queued items can still be taken. Calls that wait in ``take`` or ``send`` are released.
        """
        self._closed = True
        for line in (self._senders, self._takers):
            while self._wake(line):
                pass

    async def aclose(self) -> None:
        """The same as :meth:`close`, and a checkpoint."""
        self.close()
        await checkpoint()

    def __enter__(self) -> Feed[T_Item]:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()

    # -- emptying it: from any thread --------------------------------------------------------------

    def take_nowait(self, default: Any = RAISE) -> T_Item:
        """Take the oldest item if there is one. From any thread, at any bytecode. Never waits.

        With *default*, it never raises: *default* is returned if no item is there, also after the
        end. That is counted as an underrun, and so is WouldBlock.

        :raises anyio.WouldBlock: if no item is there
        :raises anyio.EndOfStream: if no item is there, and the feed is closed
        :raises anyio.BrokenResourceError: if the hub has ended
        """
        item: T_Item = self._take(default, self._empty, lambda: False)
        return item

    def take(self, *, timeout: float | None = None, default: Any = RAISE) -> T_Item:
        """Take the oldest item; wait for one, at most *timeout* seconds. From any foreign thread.

        With *default*, *default* is returned where an error would be raised, also after the end.
        That is counted as an underrun, and so is TimeoutError.

        :raises TimeoutError: if no item came in time
        :raises RuntimeError: in the hub's own thread, if it would have to wait, also with *default*
        :raises anyio.EndOfStream: if no item is there, and the feed is closed
        :raises anyio.BrokenResourceError: if the hub has ended, or ends meanwhile
        """
        timeout = check_timeout(timeout)
        deadline = None if timeout is None else time.monotonic() + timeout

        def empty() -> Exception:
            return TimeoutError(f"nothing was fed to {self._title} within {timeout} s")

        item: T_Item = self._take(default, empty, lambda: self._wait(deadline))
        return item

    def _empty(self) -> Exception:
        return WouldBlock(f"{self._title} is empty; use take() to wait")

    def _take(self, default: Any, empty: Callable[[], Exception], wait: Callable[[], bool]) -> Any:
        error: Callable[[], Exception]
        in_time = True
        while True:
            if self._mailbox.ended:
                error = self._hub_gone
                break
            closed = self._closed  # read before the queue: so items sent before the close are seen
            try:
                item = self._items.popleft()
            except IndexError:
                if closed or not in_time:
                    error = self._end_of_stream if closed else empty
                    break
                in_time = wait()  # and look once more, also when the time is over
            else:
                self._taken.add_one()
                self._account["taken"].add_one()
                self._wake(self._senders)
                return item
        self._underruns.add_one()
        self._account["underruns"].add_one()
        if default is RAISE:
            raise error()
        return default

    def _wait(self, deadline: float | None) -> bool:
        """Block this thread until there may be an item. False if the time is over."""
        if self._mailbox.home.is_here():
            raise would_deadlock(self._lane, "take", in_a_loop=True)
        woken = threading.Lock()
        woken.acquire()
        question = Question(self._lane, "feed.take", woken.release)
        left = None if deadline is None else max(0.0, deadline - question.since)
        try:
            self._mailbox.inside.enter(question)  # before ``ended`` is read
            self._takers[question] = True
            if self._items or self._closed or self._mailbox.ended:
                question.settle("answered")
            if acquire(woken, left):
                return True
            return not question.settle("abandoned")  # if it was woken just now, look again
        except BaseException:
            if not question.settle("abandoned"):
                self._wake(self._takers)  # it was woken, and does not use the wake: pass it on
            raise
        finally:
            self._leave(self._takers, question)

    # -- both --------------------------------------------------------------------------------------

    def _wake(self, line: InTurn[Question]) -> bool:
        """Wake the first in *line* that still waits. False if there is none."""
        while line:
            question = line.take_first()
            if question is None:
                return False
            if question.settle("answered"):
                return True
        return False

    def _leave(self, line: InTurn[Question], question: Question) -> None:
        line.leave(question)
        self._mailbox.leave(question)

    def statistics(self) -> FeedStatistics:
        """Return the counts. From any thread; never waits."""
        return FeedStatistics(
            len(self._items),
            self._limit,
            self._taken.value,
            self._underruns.value,
            self._overruns.value,
        )

    def __del__(self) -> None:
        for _ in getattr(self, "_items", ()):  # no thread can take them any more
            self._account["forgotten"].add_one()

    # -- its errors, made only when they are raised ------------------------------------------------

    @property
    def _title(self) -> str:
        return f"feed {self._lane.source.name!r} of {hub_of(self._lane)}"

    def _hub_gone(self) -> Exception:
        return _hub_gone(self._lane.source.name, self._mailbox.books)

    def _end_of_stream(self) -> Exception:
        return EndOfStream(f"{self._title} was closed, and everything was taken")

    def __len__(self) -> int:
        """How many items wait to be taken. From any thread."""
        return len(self._items)

    def __bool__(self) -> bool:
        return True  # an empty feed is still a feed

    def __repr__(self) -> str:
        name = self._lane.source.name
        state = "ended" if self._mailbox.ended else "closed" if self._closed else "open"
        return f"<Feed {name!r}: {state}, {len(self._items)} of {self._limit} queued>"


def _hub_gone(name: str | None, books: Books) -> BrokenResourceError:
    feed = "a feed" if name is None else f"feed {name!r}"
    return BrokenResourceError(f"{feed} of {title(books)} has ended with it; open a new hub")
