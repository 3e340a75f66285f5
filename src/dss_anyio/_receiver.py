"""The receiving end in an event loop: streams that sleep until something was sent.

All of this runs in the hub's thread, in its event loop, except for what ``make_wake`` returns,
which is what a sender finds in the bell (see ``_mailbox``).

Guarantees:

* An item leaves the mailbox only in ``take`` or ``take_many``, and from there to the ``return`` of
  the receiving method nothing is awaited. So a cancellation, anyio's or asyncio's own, finds the
  item either in the mailbox or with the caller.
* A receiver is woken for an item, it is not given one. If it was woken and is cancelled, the wake
  goes to the next one that sleeps.
* The bell is armed only while somebody sleeps, and only if no wake is on its way.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from time import monotonic
from types import TracebackType
from typing import Any, Generic, TypeAlias

from anyio import ClosedResourceError, EndOfStream, WouldBlock
from anyio.abc import ObjectReceiveStream
from anyio.lowlevel import checkpoint

from ._errors import hub_gone, no_more, not_open, receiver_closed
from ._face import OnError, T_Item, tell_reports
from ._lane import Lane
from ._mailbox import Mailbox, Ring, reach
from ._wake import CallSoon, Nap

# What may be done in a wake that has just arrived, instead of waking a task for it. False if the
# task is needed all the same. It must not raise.
Work: TypeAlias = Callable[[], bool]

TURN = 128  # items that an iteration takes before it thinks of letting the event loop run,
TURN_SECONDS = 0.00025  # and how long ago it must have done so
STACK_FOR_A_WAKE = 20  # calls within calls


def make_wake(sleepers: Sleepers, call_soon: CallSoon) -> Ring:
    """Return the function for the bell. It does not keep the receivers alive.

    If a closed event loop has left suspended tasks behind, they can be collected, and their
    ``finally`` blocks run, only if no thread that holds a portal holds them, too.
    """
    alive = weakref.ref(sleepers)

    def arrive() -> None:
        sleepers = alive()
        if sleepers is not None:
            sleepers.wake_arrived()

    def wake(mailbox: Mailbox) -> None:
        mailbox.wakes += 1  # nobody else has the bell now
        try:
            call_soon(arrive)
        except RecursionError:
            raise  # a RuntimeError as well, but it is the sender's
        except RuntimeError:
            mailbox.end(hub_gone)  # the loop is gone, and the hub with it

    return wake


class Sleepers:
    """The receivers of a hub that wait, in the order in which they are woken."""

    def __init__(self, mailbox: Mailbox, on_error: OnError | None) -> None:
        self.mailbox = mailbox
        self._on_error = on_error
        self._wake: Ring | None = None  # made when one sleeps for the first time
        self.open_receivers = 1  # the hub itself
        self._asleep: dict[Nap, tuple[Receiver[Any], Work | None]] = {}
        self._roused = 0  # those who were woken and have not run since
        self._armed = False  # is the wake in the bell, or on its way?

    def __len__(self) -> int:
        return len(self._asleep)

    async def sleep(self, receiver: Receiver[Any], work: Work | None = None) -> None:
        """Wait until there may be something for *receiver*. May end for nothing.

        With *work*, the wait goes on as long as that can be called in the place of an end.
        """
        mailbox = self.mailbox
        way_in = mailbox.way_in
        if way_in is None or mailbox.call_soon is None:
            raise not_open()
        if self._wake is None:
            self._wake = make_wake(self, mailbox.call_soon)
        # The wake may be called in this task (see ``_trio.Nap``). Without stack it would be lost.
        reach(STACK_FOR_A_WAKE)
        nap: Nap = way_in.make_nap()
        self._asleep[nap] = receiver, work
        try:
            self._rouse_soon()
            if nap in self._asleep:
                await nap
            else:
                await checkpoint()  # something came just before
        except BaseException:
            if self._asleep.pop(nap, None) is None:
                self._roused -= 1
            self._rouse_soon()  # pass the wake on; if nobody sleeps now, disarm
            raise
        self._roused -= 1
        if receiver._closed:  # pyright: ignore[reportPrivateUsage]  # of one room
            self._rouse_soon()  # it will not take the item that it may have been woken for
        if mailbox.ended:
            await checkpoint()  # if the end has cancelled this task as well, that comes first

    def nothing_for(self, receiver: Receiver[Any]) -> bool:
        """Is it certain that there is nothing to be received now, not even an end?"""
        mailbox = self.mailbox
        return bool(
            not mailbox.items
            and not mailbox.waiting
            and not mailbox.reports
            and mailbox.lanes
            and not receiver._closed  # pyright: ignore[reportPrivateUsage]  # of one room
        )

    def report_errors(self) -> None:
        """Tell what was reported. Whoever wants to leave in ``on_error`` leaves by a task.

        Raised here it would cost those their wake who are about to be woken; and in a wake it would
        end a whole trio run.
        """
        try:
            tell_reports(self.mailbox, self._on_error)
        except BaseException as exc:
            task_group = self.mailbox.task_group
            if task_group is None:
                raise
            self.mailbox.has_tasks = True
            try:
                self.mailbox.way_in.name_loop()  # in a wake no task is there to ask
                task_group.start_soon(_leave, exc)
            except RuntimeError:  # it has ended: we are called by the end of the hub
                raise exc from None

    def wake_arrived(self) -> None:
        """A sender has called the wake. Must not raise: it would end a whole trio run."""
        self._armed = False
        mailbox = self.mailbox
        if mailbox.reports:
            self.report_errors()
        asleep = self._asleep
        for nap, (receiver, work) in asleep.items():  # the first in the line
            if work is None:
                if len(asleep) == 1 and mailbox.limit:
                    # The most frequent case. One sleeps and something has come: nothing to count.
                    del asleep[nap]
                    self._roused += 1
                    nap.wake_now()
                    return
            elif not work():
                if nap in asleep:
                    self._take_up(nap).wake()
            elif len(asleep) == 1 and mailbox.limit and nap in asleep and self._wake is not None:
                # As frequent: all is done, and it sleeps on. First arm, then look.
                self._armed = True
                mailbox.arm(self._wake)
                if self.nothing_for(receiver):
                    return
            break
        first = self._rouse()
        if first is not None:
            first.wake_now()  # the last step: the task runs in here until it waits again

    def rouse_all(self, receiver: Receiver[Any] | None = None) -> None:
        """Wake everybody, or those who wait in *receiver*, because it was closed."""
        if not self._asleep:
            return
        for nap in list(self._asleep):
            sleeper, _ = self._asleep.get(nap, (None, None))
            if sleeper is not None and receiver in (None, sleeper):
                self._take_up(nap).wake()
        self._rouse_soon()

    def _take_up(self, nap: Nap) -> Nap:
        del self._asleep[nap]
        self._roused += 1
        return nap

    def _rouse_soon(self) -> None:
        first = self._rouse()
        if first is not None:
            first.wake()

    def _rouse(self) -> Nap | None:
        """Wake as many as there are items for; arm the bell if others go on sleeping.

        The first of them is returned, for the caller to wake. First arm, then look, again and again
        until nothing has come meanwhile: this is the receiver's half of the argument in
        ``_mailbox``.
        """
        mailbox = self.mailbox
        asleep = self._asleep
        first: Nap | None = None
        while True:
            if not mailbox.limit:
                mailbox.seat(len(asleep), self._roused)
            # "No senders" is read before the queue: what was sent before the end is seen.
            finished = not mailbox.lanes
            items = len(mailbox.items) - len(mailbox.husks) - self._roused
            while asleep and (items > 0 or finished):
                nap = self._take_up(next(iter(asleep)))
                if first is None:
                    first = nap
                else:
                    nap.wake()
                items -= 1
            if not asleep:
                if not mailbox.limit:
                    mailbox.seat(0)
                if self._armed and mailbox.disarm():
                    self._armed = False
                return first
            if self._armed or self._wake is None:
                if mailbox.reports:  # they may have come after the look of a wake that is over
                    self.report_errors()
                return first
            self._armed = True
            mailbox.arm(self._wake)
            if len(mailbox) <= self._roused and mailbox.lanes and not mailbox.reports:
                return first
            if mailbox.disarm():
                self._armed = False
                self.report_errors()
            else:
                return first  # a sender has just taken it: its wake is on its way


async def _leave(exc: BaseException) -> None:
    raise exc


class Receiver(ObjectReceiveStream[T_Item], Generic[T_Item]):
    """A receiving end of a hub: an ``anyio.abc.ObjectReceiveStream``.

    Use it in the hub's event loop only. Several receivers may wait at once; each item goes to one
    of them. Whatever way a waiting receiver is cancelled in, no item is lost.
    """

    _turn_began: float = 0.0

    def __init__(self, sleepers: Sleepers) -> None:
        self._line = [sleepers]
        self._mailbox = sleepers.mailbox
        self._closed = False
        # When so many items were received, an iteration looks up: see ``__anext__``.
        self._turn_ends: int = 0
        self._begin_turn()
        sleepers.open_receivers += 1

    @property
    def _sleepers(self) -> Sleepers:
        return self._line[0]

    def _begin_turn(self) -> None:
        if not self._closed:
            self._turn_ends = self._mailbox.received + TURN

    async def receive(self) -> T_Item:
        """Wait for an item and return it. Always a checkpoint.

        :raises anyio.EndOfStream: if all portals were closed and everything was received
        :raises anyio.ClosedResourceError: if this end was closed, or is closed meanwhile
        """
        await checkpoint()
        while True:
            try:
                return self.receive_nowait()
            except WouldBlock:
                await self._sleepers.sleep(self)

    def receive_nowait(self) -> T_Item:
        """Return an item if there is one. Never waits.

        :raises anyio.WouldBlock: if there is none
        :raises anyio.EndOfStream: if all portals were closed and everything was received
        :raises anyio.ClosedResourceError: if this end was closed
        """
        mailbox = self._mailbox
        item: T_Item
        if mailbox.plain and not self._closed:
            try:
                item = mailbox.items.popleft()
            except IndexError:
                pass
            else:
                received, item = mailbox.unfold(item)
                if received:
                    return item
        if self._closed or mailbox.ended:
            raise receiver_closed()
        # Read before the queue is: if the senders were closed by now, what they sent is in it.
        finished = not mailbox.lanes
        try:
            item = mailbox.take()
        except WouldBlock:
            self._sleepers.report_errors()
            if finished and not mailbox.items:
                raise no_more() from None
            raise
        return item

    async def receive_many(self, max_items: int | None = None) -> list[T_Item]:
        """Wait for an item, and return it with all others that are there. Always a checkpoint.

        :param max_items: how many at most; None for no limit
        :return: the items in their order, at least one
        :raises ValueError: if *max_items* is less than 1
        :raises anyio.EndOfStream: if all portals were closed and everything was received
        :raises anyio.ClosedResourceError: if this end was closed, or is closed meanwhile
        """
        check_max_items(max_items)
        await checkpoint()
        mailbox = self._mailbox
        while True:
            if self._closed or mailbox.ended:
                raise receiver_closed()
            finished = not mailbox.lanes
            batch: list[T_Item] = mailbox.take_many(max_items)
            if batch:
                return batch
            self._sleepers.report_errors()
            if finished and not mailbox.items:
                raise no_more()
            await self._sleepers.sleep(self)

    def __aiter__(self) -> Receiver[T_Item]:
        return self

    async def __anext__(self) -> T_Item:
        """As :meth:`receive`, but while there are items, a checkpoint only now and then.

        That is every 128 items, or 0.25 ms after the last one if that is later.
        """
        mailbox = self._mailbox
        item: T_Item
        while True:
            if mailbox.received < self._turn_ends:
                if mailbox.plain:
                    # ``Mailbox.unfold``, written out: the path of most items. Another thread may
                    # end the hub after we have looked; then this item was received just before.
                    # (``tagged`` is read after the item was taken: a turn is put after that was
                    # written.)
                    try:
                        item = mailbox.items.popleft()
                    except IndexError:
                        pass
                    else:
                        if not mailbox.tagged or type(item) is not Lane:
                            mailbox.received += 1
                            vacated = mailbox.vacated
                            if vacated is not None:
                                vacated.append(None)
                                if mailbox.waiting:
                                    mailbox.admit()
                            return item
                        received, item = mailbox.unfold(item)
                        if received:
                            return item
                        self._turn_ends -= 1  # a husk takes its time as well
                        continue
            elif not self._closed:
                self._sleepers.report_errors()
                if monotonic() - self._turn_began > TURN_SECONDS:
                    await checkpoint()
                    self._turn_began = monotonic()
                self._begin_turn()
                continue
            try:
                item = self.receive_nowait()
            except WouldBlock:
                await self._sleepers.sleep(self)
                self._turn_began = monotonic()
                self._begin_turn()
            except EndOfStream:
                raise StopAsyncIteration from None
            except ClosedResourceError:
                await checkpoint()  # as in ``receive``: a cancellation comes first
                raise
            else:
                return item

    # -- the end of the receiver -------------------------------------------------------------------

    def clone(self) -> Receiver[T_Item]:
        """Return another receiving end of the same hub, to be closed separately.

        :raises anyio.ClosedResourceError: if this end was closed
        """
        if self._closed:
            raise receiver_closed()
        return Receiver(self._sleepers)

    def close(self) -> None:
        """Receive nothing more here. Never waits; a second call does nothing.

        Tasks that wait in this end raise ``ClosedResourceError``. After the last end of a hub was
        closed nobody can receive: senders, waiting ones too, get ``BrokenResourceError``.
        """
        if self._closed:
            return
        self._closed = True
        self._turn_ends = 0  # so an iteration looks up, and finds that
        sleepers = self._sleepers
        sleepers.open_receivers -= 1
        sleepers.rouse_all(self)
        if not sleepers.open_receivers:
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
        if not self._closed and not self._mailbox.ended:
            warnings.warn(f"Unclosed {self!r}", ResourceWarning, stacklevel=1, source=self)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {'closed' if self._closed else 'open'}>"


def check_max_items(max_items: int | None) -> None:
    if max_items is None:
        return
    if not isinstance(max_items, int) or isinstance(max_items, bool):
        raise TypeError(f"max_items must be an integer or None, not {max_items!r}")
    if max_items < 1:
        raise ValueError(f"max_items must be at least 1, got {max_items}; None sets no limit")
