"""The receiving face without an event loop: for ``select()``, GUIs, games, a plain while loop."""

from __future__ import annotations

import threading
import time
from types import TracebackType
from typing import Generic

from ._bounds import Overflow
from ._counter import Counter
from ._datagram import Address, Doorbell, Notifier, check_address
from ._ending import end_sources, unwatch
from ._errors import hub_gone, no_more, other_process, receiver_closed
from ._face import Face, OnError, T_Item, tell_reports
from ._mailbox import Mailbox
from ._receiver import check_max_items
from ._waiting import acquire, check_timeout


class Alarm:
    """The function in the bell: wakes whoever waits, in whatever it waits. Does not hold the hub.

    A poll arms the bell whatever state it finds, also if a sender is just calling this: whoever is
    told by a datagram may poll before its sender has come back from sending it, and nobody else
    would arm the bell again. So between two polls there is one datagram; a second one only if a
    poll that nobody was told to make meets a sender in here. It means no more than the first.
    """

    def __init__(self) -> None:
        self.doorbell: Doorbell | None = None  # for fileno()
        self.neighbour: Notifier | None = None  # for wake_address
        self.failures = Counter()
        self._news = threading.Lock()  # free: it was called, and nobody has looked since
        self._news.acquire()

    def __call__(self, mailbox: Mailbox) -> None:
        mailbox.wakes += 1  # nobody else has the bell now
        rung = [self.ring(listener) for listener in (self.doorbell, self.neighbour)]
        if not all(rung) and not mailbox.ended:
            mailbox.arm(self)  # somebody was not woken: the next item tries again
        self._leave_news()

    def ring(self, listener: Doorbell | Notifier | None) -> bool:
        if listener is None or listener.ring():
            return True
        self.failures.add_one()
        return False

    def wait(self, timeout: float | None) -> bool:
        """Wait for news and leave it there. False if there was none within *timeout* seconds."""
        if not acquire(self._news, timeout):
            return False
        self._leave_news()
        return True

    def _leave_news(self) -> None:
        try:
            self._news.release()
        except RuntimeError:
            pass  # there was news already

    def reset(self, mailbox: Mailbox) -> None:
        """Forget the news and arm the bell. The caller looks at the queue afterwards."""
        self._news.acquire(blocking=False)
        if self.doorbell is not None:
            self.doorbell.drain()
        mailbox.arm(self)

    def close(self) -> None:
        for listener in (self.doorbell, self.neighbour):
            if listener is not None:
                listener.close()


class PolledHub(Face[T_Item], Generic[T_Item]):
    """A hub that is polled. ``with dss.open_polled_hub() as hub`` opens it and ends it.

    It is open from the start, so a program without a suitable ``with`` block calls :meth:`close`.
    The thread that polls is the hub's own. The end is that of :class:`Hub`, except that it blocks
    this thread while the sources' ``cancel`` callbacks run.

    :param max_buffer_size: how many items may wait to be polled; ``math.inf`` for any number;
        0 for a rendezvous: an item is accepted in :meth:`poll` or during :meth:`wait`
    :param overflow: as for :func:`open_hub`, and so are *name* and *on_error*
    :param wake_address: see :attr:`wake_address`
    :raises OSError: if *wake_address* was given and no socket can be made
    """

    def __init__(
        self,
        max_buffer_size: float = 1024,
        *,
        overflow: Overflow = "block",
        name: str | None = None,
        wake_address: Address | None = None,
        on_error: OnError | None = None,
    ) -> None:
        if wake_address is not None:
            wake_address = check_address(wake_address)
        super().__init__(max_buffer_size, overflow, name, on_error)
        self._waiters = 0
        self._alarm = Alarm()
        self.wake_address = wake_address
        self._mailbox.call_soon = self._mailbox.call_at_poll
        self._alarm.reset(self._mailbox)
        self._enter_thread()

    # -- receiving ---------------------------------------------------------------------------------

    def poll(self, max_items: int | None = None) -> list[T_Item]:
        """Return the items that are there, perhaps none, in their order. Never blocks.

        First runs what other threads have called (``portal.call``). A :class:`Request` among the
        items is answered by its ``reply``, now or later.

        In one thread at a time: it becomes the hub's own thread. Clears the wake: afterwards
        :meth:`fileno` is readable again as soon as there is something to poll, at once if
        *max_items* has left something.

        :param max_items: how many at most; None for no limit
        :raises ValueError: if *max_items* is less than 1
        :raises anyio.EndOfStream: if all portals were closed and everything was received
        :raises anyio.ClosedResourceError: if the hub was closed
        """
        check_max_items(max_items)
        mailbox = self._mailbox
        if mailbox.ended:
            raise receiver_closed()
        mailbox.come_home()
        try:
            # Before the queue: whoever puts an item after that look finds the bell armed.
            self._alarm.reset(mailbox)
            tell_reports(mailbox, self._on_error)
            mailbox.run_calls()
            finished = not mailbox.lanes  # before the queue: what was sent before the end is seen
            batch: list[T_Item] = mailbox.take_many(max_items)
        except BaseException:  # raised by a function that was called, decode or on_error
            mailbox.notify()  # what is left is for the next poll
            raise
        if mailbox.has_news:
            mailbox.notify()  # what is left, and the end, stay readable
        if finished and not batch and not mailbox.items:
            raise receiver_closed() if mailbox.ended else no_more()
        return batch

    def wait(self, timeout: float | None = None) -> bool:
        """Block until there is something to poll; return whether there is.

        For a loop that has nothing else to wait for. In the hub's own thread. True also if
        :meth:`poll` is going to raise ``EndOfStream``.

        :param timeout: for how many seconds at most; None for as long as it takes
        :raises anyio.ClosedResourceError: if the hub was closed, or is closed meanwhile
        """
        timeout = check_timeout(timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        mailbox = self._mailbox
        mailbox.come_home()
        self._waiters = 1
        try:
            while True:
                mailbox.seat(1)
                if mailbox.ended:
                    raise receiver_closed()
                if mailbox.has_news:
                    return True
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                if not self._alarm.wait(left):
                    return mailbox.has_news
                if not mailbox.has_news:  # it was an error to report, or was taken back
                    self._alarm.reset(mailbox)
                    tell_reports(mailbox, self._on_error)
        finally:
            self._waiters = 0
            mailbox.seat(0)

    # -- being woken -------------------------------------------------------------------------------

    def fileno(self) -> int:
        """Return the descriptor of a socket that is readable while there is something to poll.

        For ``select()``, ``selectors``, Tk's ``createfilehandler``, Qt's ``QSocketNotifier``. Do
        not read from it: :meth:`poll` does. The socket is made at the first call, in the hub's own
        thread, and closed with the hub.

        :raises OSError: if no socket can be made
        :raises anyio.ClosedResourceError: if the hub was closed
        """
        if self._mailbox.ended:
            raise receiver_closed()
        if self._alarm.doorbell is None:
            self._alarm.doorbell = Doorbell()
            self._catch_up(self._alarm.doorbell)
        return self._alarm.doorbell.fileno()

    @property
    def wake_address(self) -> Address | None:
        """The UDP socket of somebody else that gets a datagram when there is something to poll.

        ``(host, port)`` on loopback, or None. (DarkSideSync's *setport*.) May be set at any time,
        in the hub's own thread; if something waits to be polled, the new address is told at once.
        At most one datagram is under way between two polls. One that cannot be sent is tried again
        from a fresh socket, then counted in ``statistics().wake_failures``; its item stays
        accepted, and the next one tries again.

        :raises ValueError: if it is set to an address that is not on loopback, or a port that
            cannot be
        :raises TypeError: if it is set to anything but a tuple of a string and an integer, or None
        :raises OSError: if no socket can be made
        """
        neighbour = self._alarm.neighbour
        return None if neighbour is None else neighbour.address

    @wake_address.setter
    def wake_address(self, address: Address | None) -> None:
        if self._mailbox.ended:
            raise receiver_closed()
        old = self._alarm.neighbour
        self._alarm.neighbour = None if address is None else Notifier(check_address(address))
        if old is not None:
            old.close()
        self._catch_up(self._alarm.neighbour)

    def _catch_up(self, listener: Doorbell | Notifier | None) -> None:
        """Ring for what was sent before *listener* was there to be rung. It is there by now."""
        if self._mailbox.has_news:
            self._alarm.ring(listener)

    # -- the end -----------------------------------------------------------------------------------

    def close(self) -> None:
        """End the hub. A second call does nothing.

        In any thread but one that a ``cancel`` callback waits for. Blocks until the callbacks have
        run, each for at most 10 seconds.

        :raises ExceptionGroup: what the callbacks have raised
        """
        errors = self._end()
        if errors:
            raise self._together(None, errors)

    def _end(self) -> list[BaseException]:
        mailbox = self._mailbox
        forked = mailbox.refusal is other_process
        mailbox.end(hub_gone)
        self._left_open = False
        mailbox.notify()  # whoever is in wait()
        errors = [] if forked else end_sources(mailbox)
        self._alarm.close()
        unwatch(mailbox.hub, None)
        tell_reports(mailbox, self._on_error)
        return errors

    def __enter__(self) -> PolledHub[T_Item]:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        errors = self._end()
        if errors:
            outcome = self._together(exc_val, errors)
            if outcome is not exc_val:
                raise outcome

    # -- what Face asks for ------------------------------------------------------------------------

    def _open_receivers(self) -> int:
        return 0 if self._mailbox.ended else 1

    def _waiting_receivers(self) -> int:
        return self._waiters

    def _wake_failures(self) -> int:
        return self._alarm.failures.value


open_polled_hub = PolledHub  # as ``open_hub``
