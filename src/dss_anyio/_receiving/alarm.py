"""How a polled hub wakes a thread that waits for it, and what it calls when it is polled."""

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
    """The function in the bell: wakes a thread that waits, in whatever way. Does not hold the hub.

    A poll arms the bell in any state, also if a sender is just calling this: the thread that a
    datagram has woken may poll before its sender has come back from sending it, and nobody else
    would arm the bell again. So between two polls there is one datagram; a second one only if a
    poll that nobody was told to make meets a sender in here. It means no more than the first.
    """

    doorbell: Doorbell | None = None  # for fileno(); see ``open_doorbell``

    def __init__(self, failures: Counter) -> None:
        self.neighbour: Notifier | None = None  # for wake_address
        self.inlets: Inlets | None = None  # then there is a doorbell, which they ring as well
        self._closed = False
        self._failures = failures
        self._news = Flag()  # set: it was called, and nobody has looked since

    def __call__(self, bell: Bell) -> None:
        bell.wakes += 1  # nobody else has this function now
        rung = [self.ring(listener) for listener in (self.doorbell, self.neighbour)]
        if not all(rung):
            bell.arm(self)  # somebody was not woken: the next item tries again
        self._news.set()

    def ring(self, listener: Doorbell | Notifier | None) -> bool:
        if listener is None or listener.ring():
            return True
        self._failures.add_one()
        return False

    def open_doorbell(self) -> Doorbell:
        """Return the doorbell, which is made at the first call. From any thread.

        Two threads may make one each; both get the one that was entered first, which everybody
        rings and waits at. We enter it, and *then* read whether we were closed; ``close`` writes
        that, and *then* looks for a doorbell. So it is closed by the one or the other.

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
        # Even then it may have been called before there was a doorbell; nobody has armed it since.
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
        """Have the *bell* of inlets, which nobody else knows yet, ring here as well.

        From any thread. It rings with copies of the descriptors that we ring with.

        :raises OSError: if there is no descriptor left
        """
        bell.connect(DOORBELL, self.open_doorbell().rung_from())
        if self.neighbour is not None:
            bell.connect(NEIGHBOUR, self.neighbour.fileno())

    def connect_neighbour(self) -> None:
        """Have the bell of the inlets ring there, if there are any. In the hub's own thread.

        Whoever sets the neighbour writes it, and *then* looks for inlets. Whoever docks these has
        entered them, and *then* looks for a neighbour, to have us called. So one of the two comes
        after both.

        :raises OSError: if there is no descriptor left
        """
        if self.inlets is not None:
            neighbour = self.neighbour
            self.inlets.bell.connect(NEIGHBOUR, -1 if neighbour is None else neighbour.fileno())

    def connect_neighbour_again(self) -> None:
        """The same for who docks in another thread, and has connected it once. In a ``poll()``."""
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
        """Call what has come by now. In the hub's thread. Raises Ctrl-C, if that strikes there."""
        for _ in range(len(self._calls)):
            try:
                func = self._calls.popleft()
            except IndexError:
                return  # a nested loop has polled in one of the calls
            func()

    def forget(self) -> None:
        """In a forked child: those who have called wait in the parent."""
        self._calls.clear()
