"""The books: what became of each item.

Invariant: each accepted item has one fate. Either it is received, or dropped, or undelivered; until
then it is queued. Each of the three is counted once, for the hub and for the item's source, in the
account of its name. That stays when the source ends, in whichever thread, and nothing is moved
then; so the invariant holds before, meanwhile and afterwards.
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

    hub: str | int  # whose books they are: its name, or its number if it has none. It writes that

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self.received: int = 0  # written in the receiving thread only
        # Of everything that is rare; and of the requests of the hub's own portal.
        self.counts: Counters = Counters()
        # Of each name that a source, or a feed, has ever had. None is taken out.
        self.accounts: dict[str, Account] = {}
        self.feeds: dict[str, Any] = {}
        self.reports: Reports = Reports()
        # Ctrl-C in the user's ``decode`` while a batch was received; the next call raises it.
        self.interrupt: BaseException | None = None

    def account_of(self, name: str) -> Account:
        """The account of *name*, made when it is first registered. From any thread.

        Two that register it at once get the same one, because ``setdefault`` is one step.
        """
        return self.accounts.setdefault(name, Account())

    def requests_of(self, source: Source) -> Counters:
        """Where the requests of *source* are counted. Those of the hub are the sum of all."""
        return self.counts if source.name is None else source.account

    # -- received: in the receiving thread ---------------------------------------------------------

    def receive(self, source: Source, item: Any) -> tuple[bool, Any]:
        """Count *item* as received, and decode it. ``(False, None)`` if there is nothing to have.

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
                reported = twin(exc)  # before it is the asker's
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
        """``receive`` for a part of a batch. What a ``decode`` raises to end the program is kept.

        Items of this part, or of an earlier one, have left the line and must reach the caller. So
        ``Taking.take_many`` raises it: at once if there is no item, or else the next time.
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
        """*item* was accepted and is thrown out: count it, and give it back."""
        self.counts["dropped"].add_one()
        source.account["dropped"].add_one()
        self._hand_back(source, item, "was dropped: nobody has received it")

    def undeliver(self, source: Source, item: object) -> None:
        """*item* was accepted and nobody will receive it: count it, and give it back."""
        self.count_undelivered(source)
        self._hand_back(source, item, "was taken back: nobody has received it")

    def count_undelivered(self, source: Source) -> None:
        """The same of an item that was given back already, or has nobody to go to."""
        self.counts["undelivered"].add_one()
        source.account["undelivered"].add_one()

    def _hand_back(self, source: Source, item: Any, why: str) -> None:
        try:
            if type(item) is TOKEN and is_queued(item):
                # Its asker is told, and still has the item. This is all that its source hears.
                # (Its future may have callbacks, and these may raise.)
                dequeue(item)
                question_of(item).settle("unanswered", why)
            elif source.on_undelivered is not None:
                source.on_undelivered(item)
        except BaseException as exc:
            self.report(source, exc)  # perhaps in a library's thread: nothing escapes

    # -- errors ------------------------------------------------------------------------------------

    def report(self, source: Source, exc: BaseException) -> None:
        """An error that no waiting caller receives. From any thread; never waits."""
        self.counts["errors"].add_one()
        self.reports.add(self._bell, source.name, exc)
