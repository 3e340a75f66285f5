"""The books: the fate of each item.

Invariant: each accepted item has one fate. Either it is received, or dropped, or undelivered; until
then it is queued. Each of the three is counted once, for the hub and for the item's source, in the
account of its name. The account stays when the source ends, in whichever thread, and no count is
moved then. So the invariant holds before, meanwhile and afterwards.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from .bell import Bell
from .errors import twin
from .reports import Reports
from .request import TOKEN, Request, dequeue, is_queued, question_of
from .source import Account, Source
from .steps import Counters


class _Nothing:
    """The type of ``NOTHING``."""

    def __repr__(self) -> str:
        return "NOTHING"


NOTHING: Final = _Nothing()  # a ``decode`` returns it if it has done everything itself
NOT_RECEIVED: Final[tuple[bool, Any]] = (False, None)


class Books:
    """The counts of a hub, and the hooks that go with each fate."""

    __slots__ = ("_bell", "accounts", "counts", "feeds", "hub", "interrupt", "received", "reports")

    hub: str | int  # the name of its hub, or the number of one without a name. The hub writes it

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self.received: int = 0  # written in the receiving thread only
        # Counts of rare events; and of the requests of the hub's own portal.
        self.counts: Counters = Counters()
        # One for each name that a source, or a feed, has ever had. None is taken out.
        self.accounts: dict[str, Account] = {}
        self.feeds: dict[str, Any] = {}
        self.reports: Reports = Reports()
        # Ctrl-C in the user's ``decode`` while a batch was received; the next call raises it.
        self.interrupt: BaseException | None = None

    def account_of(self, name: str) -> Account:
        """The account of *name*, made when it is first registered. From any thread.

        Two threads that register it at once get the same one, because ``setdefault`` is one step.
        """
        return self.accounts.setdefault(name, Account())

    def requests_of(self, source: Source) -> Counters:
        """Return the counters of the requests of *source*. The hub's numbers are the sum of all."""
        return self.counts if source.name is None else source.account

    # -- received: in the receiving thread ---------------------------------------------------------

    def receive(self, source: Source, item: Any) -> tuple[bool, Any]:
        """Count *item* as received, and decode it. ``(False, None)``: nothing is left to receive.

        If its ``decode`` raises, it counts as undelivered.
        """
        if source.decode is not None:
            return self._decode(source, item, source.decode)
        if type(item) is TOKEN:
            dequeue(item)
        source.account.received += 1
        self.received += 1
        return True, item

    def _decode(self, source: Source, item: Any, decode: Callable[[Any], Any]) -> tuple[bool, Any]:
        request: Request[Any] | None = None
        if type(item) is TOKEN and is_queued(item):
            request = item
        try:
            decoded = decode(item if request is None else request.item)
        except BaseException as exc:
            reported = exc
            if request is not None:
                reported = twin(exc)  # before the asker's thread gets *exc*
                question_of(request).fail(exc)
            self.undeliver(source, item)
            if not isinstance(exc, Exception):
                raise
            self.report(source, reported)
            return NOT_RECEIVED
        if request is not None:
            request.item = decoded
            dequeue(request)
        source.account.received += 1
        self.received += 1
        if decoded is not NOTHING:
            return True, decoded if request is None else request
        if request is not None:
            question_of(request).settle("answered")
        return NOT_RECEIVED

    def receive_all(self, opened: list[tuple[Source, Any]]) -> list[Any]:
        """``receive`` for a part of a batch. Keeps a ``decode``'s exception that ends the program.

        Items of this part, or of an earlier one, have left the line and must reach the caller. So
        ``Taking.take_many`` raises the exception: at once if there is no item, or else at its next
        call.
        """
        batch: list[Any] = []
        for source, item in opened:
            try:
                received, decoded = self.receive(source, item)
            except BaseException as exc:
                self.interrupt = exc
            else:
                if received:
                    batch.append(decoded)
        return batch

    def raise_interrupt(self) -> None:
        interrupt, self.interrupt = self.interrupt, None
        if interrupt is not None:
            raise interrupt

    # -- the other fates: from any thread ----------------------------------------------------------

    def drop(self, source: Source, item: object) -> None:
        """Count *item*, which was accepted and is thrown out, as dropped, and hand it back."""
        self.counts["dropped"].add_one()
        source.account["dropped"].add_one()
        self._hand_back(source, item, "was dropped: nobody has received it")

    def undeliver(self, source: Source, item: object) -> None:
        """Count *item*, which was accepted and will not be received, and hand it back."""
        self.count_undelivered(source)
        self._hand_back(source, item, "was taken back: nobody has received it")

    def count_undelivered(self, source: Source) -> None:
        """The same for an item that was handed back already, or that no callback takes."""
        self.counts["undelivered"].add_one()
        source.account["undelivered"].add_one()

    def _hand_back(self, source: Source, item: Any, why: str) -> None:
        try:
            if type(item) is TOKEN and is_queued(item):
                # Its asker gets NoReplyError, and still has the item. So ``on_undelivered`` is not
                # called as well. (The asker's future may have callbacks, and these may raise.)
                dequeue(item)
                question_of(item).settle("unanswered", why)
            elif source.on_undelivered is not None:
                source.on_undelivered(item)
        except BaseException as exc:
            self.report(source, exc)  # this may be a library's thread: no exception may escape

    # -- errors ------------------------------------------------------------------------------------

    def report(self, source: Source, exc: BaseException) -> None:
        """Report *exc*, which no waiting caller receives. From any thread; never waits."""
        self.counts["errors"].add_one()
        self.reports.add(self._bell, source.name, exc)
