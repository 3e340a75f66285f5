"""The receiving face without an event loop: for ``select()``, GUIs, games, a plain while loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import Any, Generic, TypeVar

from .._core.errors import no_more, other_process, receiver_closed
from .._core.functions import is_async
from .._core.inlets import Inlets
from .._core.policies import Overflow
from .._core.reports import OnError, tell
from .._ending.order import Trouble, end_sources, leaving, release_all, together
from .._ending.ways_out import unwatch
from .._loops.datagram import Address, Doorbell, Notifier, SocketAddress, check_address
from .._loops.slices import check_timeout
from .._receiving.alarm import Agenda, Alarm
from .._receiving.receiver import check_max_items
from .._receiving.serve import Handler, handle
from .base import Face
from .typed import T_Item, T_Received

T_Taken = TypeVar("T_Taken", list[Any], int)


class PolledHub(Face[T_Item], Generic[T_Item, T_Received]):
    """A hub that is polled. ``with dss.open_polled_hub() as hub`` opens it and ends it.

    It is open from the start, so a program without a suitable ``with`` block calls :meth:`close`.
    The thread that polls is the hub's own. The end is that of :class:`Hub`, except that it blocks
    this thread while the sources' ``stop`` functions run. The types are those of :class:`Hub`, too.

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
        wake_address: SocketAddress | None = None,
        on_error: OnError | None = None,
    ) -> None:
        if wake_address is not None:
            check_address(wake_address)  # before anything is opened
        super().__init__(max_buffer_size, overflow, name, on_error)
        self._waiters = 0
        self._alarm = Alarm(self._mailbox.books.counts["wake_failures"])
        self._agenda = Agenda(self._mailbox.bell)
        self.wake_address = wake_address
        self._mailbox.home.call_soon = self._agenda.call_soon
        self._alarm.reset(self._mailbox.bell)
        self._enter_thread()

    # -- receiving ---------------------------------------------------------------------------------

    def poll(self, max_items: int | None = None) -> list[T_Received]:
        """Return the items that are there, perhaps none, in their order.

        In one thread at a time, which becomes the hub's own thread. Never blocks.

        First it runs the functions that other threads have called (``portal.call``). A
        :class:`Request` among the items is answered by its ``reply``, now or later. The wake is
        cleared: afterwards :meth:`fileno` is readable again as soon as there is something to poll.
        If *max_items* has left items, it is readable at once.

        :param max_items: how many at most; None for no limit
        :raises ValueError: if *max_items* is less than 1
        :raises anyio.EndOfStream: if all portals were closed and everything was received
        :raises anyio.ClosedResourceError: if the hub was closed
        """
        return self._poll(max_items, self._mailbox.take_many)

    def dispatch(self, handler: Handler[T_Item], max_items: int | None = None) -> int:
        """Call *handler* with each of the items that are there; return how many.

        Call it in the place of :meth:`poll`, in the same thread. Never waits, unless *handler*
        does. It has the same effect on the wake and on calls.

        For a request, the return value of *handler* is the answer, and its exception is raised in
        the call that asked. For a plain item, the return value is ignored, and the exception goes
        to ``on_error``, with the name of the item's source. *handler* runs in this thread. Items
        that come meanwhile are for the next call; so are items that are left if Ctrl-C ends this.

        :param handler: a plain function, called with one argument: the item, sent or asked
        :param max_items: how many items at most; None for all that are there now
        :raises TypeError: if *handler* is not callable, or is a coroutine function: a polled hub
            has no event loop to run it in
        :raises ValueError: if *max_items* is less than 1
        :raises anyio.EndOfStream: if all portals were closed and everything was received
        :raises anyio.ClosedResourceError: if the hub was closed
        """
        if not callable(handler):
            raise TypeError(f"handler must be callable, not {handler!r}")
        if is_async(handler):
            raise TypeError(
                f"handler must be a plain function, not the coroutine function {handler!r}: a "
                "polled hub has no event loop to run it in. Give a plain function, or open the hub "
                "with open_hub() or start_hub() and use hub.serve(handler)"
            )
        return self._poll(max_items, partial(self._handle_many, handler))

    def _handle_many(self, handler: Handler[T_Item], most: int | None) -> int:
        # Take one item at a time, after the one before was handled. So no other item is lost if the
        # handler raises SystemExit, or Ctrl-C strikes in it.
        mailbox = self._mailbox
        mailbox.books.raise_interrupt()
        there = len(mailbox) + len(mailbox.meeting.waiting)
        handled = 0
        for _ in range(there if most is None else min(there, most)):
            taken = None if mailbox.ended else mailbox.take_with_source()
            if taken is None:  # taken back meanwhile, or decoding failed; or *handler* closed us
                break
            handle(*taken, handler, partial(tell, self._on_error, books=mailbox.books))
            handled += 1
        return handled

    def _poll(self, max_items: int | None, take: Callable[[int | None], T_Taken]) -> T_Taken:
        """The common part of ``poll`` and ``dispatch``; *take* takes or handles the items."""
        check_max_items(max_items)
        mailbox = self._mailbox
        if mailbox.ended:
            raise receiver_closed(mailbox)
        mailbox.home.come_home()
        try:
            # Before the queue: a sender that puts an item after that look finds the bell armed.
            self._alarm.reset(mailbox.bell)
            more_to_tell = mailbox.reports.tell(self._on_error, mailbox.books)
            self._agenda.run()
            # Read before the line: so items that were sent before the end are seen.
            finished = not mailbox.registry.open_lanes
            taken = take(max_items)
        except BaseException:  # raised by a function that was called, decode or on_error
            mailbox.bell.ring()  # the items left are for the next poll
            raise
        if more_to_tell or self._has_news:
            mailbox.bell.ring()  # items that are left, and the end, stay readable
        if finished and not taken and not mailbox.entries():
            raise receiver_closed(mailbox) if mailbox.ended else no_more(mailbox)
        return taken

    def wait(self, timeout: float | None = None) -> bool:
        """Block until there is something to poll; return whether there is.

        In one thread at a time, which becomes the hub's own thread. For a loop that has nothing
        else to wait for. True also if :meth:`poll` is going to raise ``EndOfStream``.

        :param timeout: for how many seconds at most; None for as long as it takes
        :raises anyio.ClosedResourceError: if the hub was closed, or is closed meanwhile
        """
        timeout = check_timeout(timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        mailbox = self._mailbox
        mailbox.home.come_home()
        self._waiters = 1
        try:
            return self._wait_for_news(deadline)
        finally:
            self._waiters = 0
            mailbox.meeting.seat(0)

    @property
    def _has_news(self) -> bool:
        """Is there something for a ``poll()``? The end of the stream counts, too."""
        mailbox = self._mailbox
        return bool(
            len(mailbox)
            or self._agenda
            or not mailbox.registry.open_lanes
            or mailbox.books.interrupt is not None
        )

    def _wait_for_news(self, deadline: float | None) -> bool:
        # In a function of its own, or CPython 3.14 leaves a jump of this loop out of the ``try``:
        # see ``_stop_newest_first``.
        mailbox = self._mailbox
        while True:
            mailbox.meeting.seat(1)
            if mailbox.ended:
                raise receiver_closed(mailbox)
            if self._has_news:
                return True
            left = None if deadline is None else max(0.0, deadline - time.monotonic())
            if not self._alarm.wait(left):
                return self._has_news
            if not self._has_news:  # the news was an error to report, or an item taken back
                self._alarm.reset(mailbox.bell)
                if mailbox.reports.tell(self._on_error, mailbox.books):
                    mailbox.bell.ring()  # the next turn is for the next round
                if left == 0.0:
                    return self._has_news

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
            raise receiver_closed(self._mailbox)
        self._open_doorbell()
        return self._alarm.open_doorbell().fileno()

    def _open_doorbell(self) -> None:
        if self._alarm.doorbell is None:
            self._catch_up(self._alarm.open_doorbell())

    @property
    def wake_address(self) -> Address | None:
        """The address of a UDP socket that gets a datagram when there is something to poll.

        ``(host, port)`` on loopback, or None. (DarkSideSync's *setport*.) Set it at any time, in
        the hub's own thread. It may be the result of ``getsockname()`` of that socket, with four
        parts for IPv6. If there is something to poll, the new address gets a datagram at once.

        The woken thread must drain the socket *before* :meth:`poll`. In the other order, a datagram
        that comes in between is thrown away, and its item waits until another item comes.

        At most one datagram is under way between two polls. If it cannot be sent, it is tried again
        from a fresh socket, then counted in ``statistics().wake_failures``. The item stays
        accepted, and the next item tries again.

        :raises ValueError: if it is set to an address that is not on loopback, or a port that
            cannot be
        :raises TypeError: if it is set to anything else than such a tuple or None
        :raises OSError: if no socket can be made
        """
        neighbour = self._alarm.neighbour
        return None if neighbour is None else neighbour.address

    @wake_address.setter
    def wake_address(self, address: SocketAddress | None) -> None:
        if self._mailbox.ended:
            raise receiver_closed(self._mailbox)
        old = self._alarm.neighbour
        self._alarm.neighbour = None if address is None else Notifier(check_address(address))
        self._alarm.connect_neighbour()
        if old is not None:
            old.close()
        self._catch_up(self._alarm.neighbour)

    def _catch_up(self, listener: Doorbell | Notifier | None) -> None:
        """Ring *listener*, which is there now, for items that were sent before it was there.

        If there are none, the thread that was woken last may have found nothing either (its item
        was taken back). Then the bell is not armed before the next ``poll()``. So we arm it, and
        *then* look once more.
        """
        mailbox = self._mailbox
        if not (self._has_news or mailbox.reports):
            mailbox.bell.arm(self._alarm)
        if self._has_news or mailbox.reports:
            self._alarm.ring(listener)

    def _connect(self, bell: Any) -> int:
        self._open_doorbell()
        self._alarm.connect(bell)
        return -1  # only the program watches the doorbell, and it gets that from ``fileno()``

    def _dock(self, inlets: Inlets) -> None:
        alarm = self._alarm
        alarm.inlets = inlets
        # The neighbour may have been replaced since the bell was connected.
        if self._mailbox.home.is_here():
            alarm.connect_neighbour()
        elif alarm.neighbour is not None:
            self._agenda.call_soon(alarm.connect_neighbour_again)
        self._mailbox.bell.ring()  # a thread in wait() wakes, and then waits at the doorbell
        inlets.docked = True

    # -- the end -----------------------------------------------------------------------------------

    def close(self) -> None:
        """End the hub. A second call does nothing.

        From any thread, except for a thread that a ``stop`` function waits for. Blocks until the
        ``stop`` functions have run, each for at most its ``stop_timeout``.

        :raises ExceptionGroup: the exceptions of the ``stop`` functions
        """
        outcome = self._end(None)
        if outcome is not None:
            raise outcome

    def _end(self, first: BaseException | None) -> BaseException | None:
        """End the hub; return the exception to raise then, which is *first* if there is no other.

        If a callback of the user raises meanwhile, or Ctrl-C strikes, the end is completed first. A
        second Ctrl-C leaves at once, for example because a library does not stop.
        """
        mailbox = self._mailbox
        forked = mailbox.refusal is other_process
        struck = release_all(mailbox)
        self._left_open = False
        mailbox.bell.ring()  # for a thread that is in wait()
        errors: list[Trouble] = []
        if not forked:
            try:
                end_sources(mailbox, errors=errors)
            except BaseException as exc:
                struck = exc if struck is None else struck
                end_sources(mailbox, errors=errors)
        self._alarm.close()
        unwatch(mailbox.home.hub, None)
        left = mailbox.reports.tell_all(self._on_error, mailbox.books)
        struck = left if struck is None else struck
        if struck is not None:
            return leaving(mailbox, self._on_error, struck, first, errors)
        return together(mailbox, self._on_error, first, errors) if errors else first

    def __enter__(self) -> PolledHub[T_Item, T_Received]:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        outcome = self._end(exc_val)
        if outcome is not None and outcome is not exc_val:
            raise outcome

    # -- the methods that Face needs ---------------------------------------------------------------

    def _open_receivers(self) -> int:
        return 0 if self._mailbox.ended else 1

    def _waiting_receivers(self) -> int:
        return self._waiters


open_polled_hub = PolledHub  # as ``open_hub``
