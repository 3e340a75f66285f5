"""How a polled hub wakes a waiting thread, and which functions it calls when it is polled."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from .._core.bell import Bell
from .._core.inlet import Bell as InC
from .._core.inlets import Inlets
from .._core.steps import Counter
from .._loops.datagram import Doorbell, Notifier
from .._loops.flag import Flag

DOORBELL, NEIGHBOUR = 0, 1  # the places for descriptors in a bell in C


class Alarm:
    """The function in the bell: wakes a thread that waits, in each of the ways. Holds no hub.

    A poll arms the bell in any state, also if a sender is just calling this. The thread that a
    datagram has woken may poll before its sender has returned from sending the datagram, and no
    other thread would arm the bell again. So between two polls there is one datagram. There is a
    second one only if a poll without a wake meets a sender in here; it does no harm.
    """

    doorbell: Doorbell | None = None  # for fileno(); see ``open_doorbell``

    def __init__(self, failures: Counter) -> None:
        self.neighbour: Notifier | None = None  # for wake_address
        self.inlets: Inlets | None = None  # if there are any, they ring the doorbell as well
        self._closed = False
        self._failures = failures
        self._news = Flag()  # set: the alarm was called, and no thread has looked since

    def __call__(self, bell: Bell) -> None:
        bell.wakes += 1  # no other thread has this function now
        rung = [self.ring(listener) for listener in (self.doorbell, self.neighbour)]
        if not all(rung):
            bell.arm(self)  # one of them was not rung: the next item tries again
        self._news.set()

    def ring(self, listener: Doorbell | Notifier | None) -> bool:
        if listener is None or listener.ring():
            return True
        self._failures.add_one()
        return False

    def open_doorbell(self) -> Doorbell:
        """Return the doorbell, which is made at the first call. From any thread.

        Two threads may make one each. Both get the doorbell that was entered first, and all threads
        use that. We enter it, and *then* read ``_closed``. ``close`` writes ``_closed``, and *then*
        looks for a doorbell. So one of the two closes it.

        :raises OSError: if no socket can be made
        """
        if self.doorbell is None:
            made = Doorbell()
            if self.__dict__.setdefault("doorbell", made) is not made:
                made.close()
            if self._closed:
                self.close()
        assert self.doorbell is not None
        return self.doorbell

    def wait(self, timeout: float | None) -> bool:
        """Wait for news and leave it there. False if there was none within *timeout* seconds."""
        doorbell = None if self.inlets is None else self.doorbell
        # Even with a doorbell, look at the flag: the alarm may have been called before there was a
        # doorbell, and was not armed since.
        if self._news.wait(timeout if doorbell is None else 0):
            self._news.set()
            return True
        return doorbell is not None and doorbell.wait(timeout)

    def reset(self, bell: Bell) -> None:
        """Forget the news and arm the bell. The caller looks at the queue afterwards."""
        self._news.clear()
        if self.doorbell is not None:
            self.doorbell.drain()
        bell.arm(self)
        if self.inlets is not None:
            self.inlets.arm()
            self.inlets.tell_gone()

    def connect(self, bell: InC) -> None:
        """Have the *bell* of inlets, which no other thread knows yet, ring here as well.

        From any thread. The bell rings with copies of our descriptors.

        :raises OSError: if there is no descriptor left
        """
        bell.connect(DOORBELL, self.open_doorbell().rung_from())
        if self.neighbour is not None:
            bell.connect(NEIGHBOUR, self.neighbour.fileno())

    def connect_neighbour(self) -> None:
        """Have the bell of the inlets, if there are any, ring the neighbour. In the hub's thread.

        The thread that sets the neighbour writes it, and *then* looks for inlets. The thread that
        docks inlets enters them, and *then* looks for a neighbour, to have this function called. So
        at least one of the two calls comes after both writes.

        :raises OSError: if there is no descriptor left
        """
        if self.inlets is not None:
            neighbour = self.neighbour
            self.inlets.bell.connect(NEIGHBOUR, -1 if neighbour is None else neighbour.fileno())

    def connect_neighbour_again(self) -> None:
        """The same, called in a ``poll()`` for inlets that were docked in another thread."""
        try:
            self.connect_neighbour()
        except OSError:
            self._failures.add_one()

    def close(self) -> None:
        self._closed = True  # first this, then look for a doorbell
        if self.inlets is not None:
            self.inlets.bell.close()
        for listener in (self.doorbell, self.neighbour):
            if listener is not None:
                listener.close()


class Agenda:
    """Functions that other threads have called, for the next ``poll()``."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell
        self._calls: deque[Callable[[], Any]] = deque()

    def __len__(self) -> int:
        return len(self._calls)

    def call_soon(self, func: Callable[[], Any]) -> None:
        """From any thread, at any bytecode; never waits."""
        self._calls.append(func)  # before the bell, as an item
        self._bell.ring()

    def run(self) -> None:
        """Run the calls that have come by now. In the hub's thread. Raises Ctrl-C in a call."""
        for _ in range(len(self._calls)):
            try:
                func = self._calls.popleft()
            except IndexError:
                return  # a nested loop has polled in one of the calls
            func()

    def forget(self) -> None:
        """In a forked child: the callers wait in the parent."""
        self._calls.clear()
