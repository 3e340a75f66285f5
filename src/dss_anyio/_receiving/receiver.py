"""The receiving end in an event loop: a stream that sleeps until an item was sent.

Guarantee: an item leaves the line only in ``receive_nowait``, ``receive_many`` and ``__anext__``,
and between that and their ``return`` there is no ``await``. So a cancellation, anyio's or asyncio's
own, finds the item either in the hub or with the caller.
"""

from __future__ import annotations

import warnings
from threading import get_ident
from time import monotonic
from types import TracebackType
from typing import Generic, TypeVar

from anyio import ClosedResourceError, EndOfStream, WouldBlock
from anyio.abc import ObjectReceiveStream
from anyio.lowlevel import checkpoint

from .._core.books import NOTHING
from .._core.errors import (
    NotCopied,
    hub_gone,
    no_more,
    nothing_there,
    received_elsewhere,
    receiver_closed,
    title,
)
from .._core.line import Mark
from .._core.request import TOKEN
from .._core.source import Lane
from .._core.steps import IN_TURN, TURN, TURN_SECONDS
from .sleepers import End, Sleepers

T_Item = TypeVar("T_Item")


class Receiver(NotCopied, ObjectReceiveStream[T_Item], Generic[T_Item]):
    """A receiving end of a hub: an ``anyio.abc.ObjectReceiveStream``.

    Use it in the hub's event loop only. Several receivers may wait at once; each item goes to one
    of them. A waiting receiver may be cancelled in any way; no item is lost.
    """

    _turn_began: float = 0.0

    def __init__(self, sleepers: Sleepers) -> None:
        self._join(sleepers)

    def _join(self, sleepers: Sleepers) -> None:
        """Become one of the receiving ends that *sleepers* wake."""
        self._sleepers = sleepers
        self._mailbox = mailbox = sleepers.mailbox
        self._end = End()
        # An iteration looks at these for each item.
        self._books = mailbox.books
        self._line = mailbox.line
        self._places = mailbox.places
        # When the hub has received so many items, an iteration's turn is over: see ``__anext__``.
        self._turn_ends: int = self._books.received + TURN
        sleepers.open_ends += 1

    def _begin_turn(self) -> None:
        if not self._end.closed:
            self._turn_ends = self._books.received + TURN

    async def receive(self) -> T_Item:
        """Wait for an item and return it. Always a checkpoint.

        :raises anyio.EndOfStream: if all portals were closed and everything was received
        :raises anyio.ClosedResourceError: if this end was closed, or is closed meanwhile
        :raises RuntimeError: in another event loop than the hub's own, at once
        """
        self._sleepers.check_here(self._end)
        await checkpoint()
        while True:
            try:
                return self._receive_nowait()
            except WouldBlock:
                await self._sleepers.sleep(self._end)

    def receive_nowait(self) -> T_Item:
        """Return an item if there is one. Never waits.

        :raises anyio.WouldBlock: if there is none
        :raises anyio.EndOfStream: if all portals were closed and everything was received
        :raises anyio.ClosedResourceError: if this end was closed
        :raises RuntimeError: in another thread than the hub's own
        """
        if get_ident() != self._mailbox.home.ident:
            self._check_thread()
        try:
            return self._receive_nowait()
        except WouldBlock:
            raise nothing_there(self._mailbox) from None

    def _check_thread(self) -> None:
        """Raise in another thread than the hub's, if the hub is open."""
        mailbox = self._mailbox
        if mailbox.home.ident is not None and not (self._end.closed or mailbox.ended):
            raise received_elsewhere(mailbox)

    def _receive_nowait(self) -> T_Item:
        """The same; its WouldBlock has no message, because the callers catch it."""
        mailbox = self._mailbox
        item: T_Item
        if self._end.closed or mailbox.ended:
            raise receiver_closed(mailbox)
        # Read before the queue: if the senders were closed by now, all their items are in it.
        finished = not mailbox.registry.open_lanes
        try:
            item = mailbox.take()
        except WouldBlock:
            self._sleepers.report_errors()
            if finished and not mailbox.entries():
                raise no_more(mailbox) from None
            raise
        return item

    async def receive_many(self, max_items: int | None = None) -> list[T_Item]:
        """Wait for an item, and return it with all others that are there. Always a checkpoint.

        :param max_items: how many at most; None for no limit
        :return: the items in their order, at least one
        :raises ValueError: if *max_items* is less than 1
        :raises anyio.EndOfStream: if all portals were closed and everything was received
        :raises anyio.ClosedResourceError: if this end was closed, or is closed meanwhile
        :raises RuntimeError: in another event loop than the hub's own, at once
        """
        check_max_items(max_items)
        self._sleepers.check_here(self._end)
        await checkpoint()
        mailbox = self._mailbox
        while True:
            if self._end.closed or mailbox.ended:
                raise receiver_closed(mailbox)
            finished = not mailbox.registry.open_lanes
            batch: list[T_Item] = mailbox.take_many(max_items)
            if batch:
                return batch
            self._sleepers.report_errors()
            if finished and not mailbox.entries():
                raise no_more(mailbox)
            await self._sleepers.sleep(self._end)

    def __aiter__(self) -> Receiver[T_Item]:
        if get_ident() != self._mailbox.home.ident:
            self._check_thread()
        return self

    async def __anext__(self) -> T_Item:
        """As :meth:`receive`, but while there are items, a checkpoint only now and then.

        That is every 128 items, or 0.25 ms after the last one if that is later.
        """
        books, line = self._books, self._line
        item: T_Item
        while True:
            if books.received < self._turn_ends:
                beside = line.beside
                if beside is None or (line.entries and books.received < beside.turn_ends):
                    # ``Mailbox.receive``, written out: the path of most items. Another thread may
                    # end the hub after we have looked; then this item was received just before.
                    # (We read ``tagged`` after the item was taken: senders write it before they put
                    # a turn or a mark.)
                    try:
                        item = line.entries.popleft()
                    except IndexError:
                        pass
                    else:
                        if not line.tagged or (
                            type(item) is not Lane
                            and type(item) is not TOKEN
                            and type(item) is not Mark
                        ):
                            books.received += 1
                            vacated = self._places.vacated
                            if vacated is not None:
                                vacated.append(None)
                                if self._places.waiting:
                                    self._admit()
                            return item
                        received, item = self._mailbox.receive(item)
                        if received:
                            return item
                        self._turn_ends -= 1  # a husk takes its time as well
                        continue
                else:
                    receive = beside.receive  # a local variable: calling a slot's value is slow
                    if not line.entries:
                        item = receive()
                        if item is not None:
                            return item
                    elif books.received < beside.turn_ends + IN_TURN:
                        item = receive()
                        if item is not None:
                            beside.turn_ends -= 1  # ``books.received`` does not count it yet
                            return item
                    if beside.begin_turn():
                        continue  # the items taken are counted now; this may have used up our turn
                    if not line.entries or books.received < beside.turn_ends + IN_TURN:
                        item = self._mailbox.receive_beside()
                        if item is not NOTHING:
                            return item
                    if line.entries and self._mailbox.begin_turn(beside):
                        continue
            elif not self._end.closed:
                self._sleepers.report_errors()
                if monotonic() - self._turn_began > TURN_SECONDS:
                    await checkpoint()
                    self._turn_began = monotonic()
                self._begin_turn()
                continue
            try:
                item = self._receive_nowait()
            except WouldBlock:
                self._sleepers.check_here(self._end)
                await self._sleepers.sleep(self._end)
                self._turn_began = monotonic()
                self._begin_turn()
            except EndOfStream:
                raise StopAsyncIteration from None
            except ClosedResourceError:
                await checkpoint()  # as in ``receive``: a cancellation comes first
                raise
            else:
                return item

    def _admit(self) -> None:
        """Let in the senders that wait for the place of the item that was taken just now."""
        try:
            self._places.admit()
        except RecursionError:
            pass  # the item has left the line and must reach the caller; ``take`` admits as well

    # -- the end of the receiver -------------------------------------------------------------------

    def clone(self) -> Receiver[T_Item]:
        """Return another receiving end of the same hub, to be closed separately.

        In the hub's thread; never waits.

        :raises anyio.ClosedResourceError: if this end was closed
        """
        if self._end.closed:
            raise receiver_closed(self._mailbox)
        return Receiver(self._sleepers)

    def close(self) -> None:
        """Receive nothing more here. In the hub's thread; never waits; a second call does nothing.

        Tasks that wait in this end raise ``ClosedResourceError``. After the last receiving end of a
        hub was closed, its senders, also waiting ones, get ``BrokenResourceError``.
        """
        if self._end.closed:
            return
        self._end.closed = True
        self._turn_ends = 0  # ends the turn of an iteration, which then finds that this is closed
        sleepers = self._sleepers
        sleepers.open_ends -= 1
        sleepers.rouse_all(self._end)
        if not sleepers.open_ends:
            self._mailbox.end(hub_gone)

    async def aclose(self) -> None:
        """The same as :meth:`close`, and a checkpoint."""
        self.close()
        await checkpoint()

    def __enter__(self) -> Receiver[T_Item]:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if not self._end.closed and not self._mailbox.ended:
            warnings.warn(f"Unclosed {self!r}", ResourceWarning, stacklevel=1, source=self)

    def __repr__(self) -> str:
        state = "closed" if self._end.closed else "open"
        return f"<{type(self).__name__} of {title(self._mailbox.books)}: {state}>"


def check_max_items(max_items: int | None) -> None:
    if max_items is None:
        return
    if not isinstance(max_items, int) or isinstance(max_items, bool):
        raise TypeError(f"max_items must be an integer or None, not {max_items!r}")
    if max_items < 1:
        raise ValueError(f"max_items must be at least 1, got {max_items}; None sets no limit")
