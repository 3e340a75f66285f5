"""The waiters inside calls that wait, and how all of them get out.

Invariant: a waiter that has entered is woken when its portal or its hub is closed.

A waiter enters, and *then* reads whether its lane refuses. A thread that closes a lane writes the
refusal, and *then* copies the list of waiters. Both act on the list in one step: if
the waiter's is first, the closer finds it in the list; if not, the waiter reads the refusal.

There are two lists, and a waiter enters both before it reads. One is the hub's. The other is the
lane's, so that one lane of many is closed without a look at the waiters in all the others.
"""

from __future__ import annotations

import threading
import time

from .._loops.flag import Flag
from .errors import Refusal
from .source import Lane, Source
from .steps import do_all
from .waiter import Waiter

# The calls that block their thread, by the name that ``blocked()`` shows.
WAITS_IN_A_LOCK = {
    *("send", "send_many", "request", "call", "call_within", "start_task", "feed.take", "deliver")
}


class Inside:
    """All waiters inside the portals of one hub."""

    __slots__ = ("_leaving", "waiters")

    def __init__(self) -> None:
        self.waiters: dict[Waiter, None] = {}
        self._leaving: dict[Flag, None] = {}  # set whenever a waiter has left

    def enter(self, waiter: Waiter) -> Refusal | None:
        """Enter *waiter*. Returns why its lane refuses, if it does: then *waiter* must not wait.

        The caller calls ``leave`` in a ``finally``.
        """
        lane = waiter.lane
        self.waiters[waiter] = None
        lane.inside[waiter] = None
        return lane.refusal

    def leave(self, waiter: Waiter) -> None:
        """Take out *waiter*, whatever its outcome. In its own thread or task. Idempotent."""
        waiter.lane.inside.pop(waiter, None)
        self.waiters.pop(waiter, None)
        if self._leaving:
            for left in list(self._leaving):
                left.set()

    def refuse(self, lane: Lane | None, refusal: Refusal) -> None:
        """End the waits of all waiters in *lane*; in all lanes, if *lane* is None.

        From any thread; never waits. The caller has written the refusal of these lanes. If a
        callback of an asker's future raises, all waiters are released first; then it is raised.
        """
        waiters = [*(self.waiters if lane is None else lane.inside)]
        if waiters:
            do_all(lambda waiter: waiter.refuse(refusal), waiters)

    def wait_until_left(self, source: Source | None, timeout: float) -> None:
        """Block until no waiter is inside a portal of *source*, at most *timeout* seconds.

        None means all portals of the hub. Calls of this very thread do not count: a signal handler
        may close the hub that it interrupts.
        """
        if not self.waiters:
            return
        left = Flag()
        self._leaving[left] = None
        try:
            self._look_until_left(source, timeout, left)
        finally:
            self._leaving.pop(left, None)

    def _look_until_left(self, source: Source | None, timeout: float, left: Flag) -> None:
        me = threading.get_ident()
        deadline = time.monotonic() + timeout
        # In a function of its own: see ``_stop_newest_first`` in ``_ending/order``.
        while there := [each for each in self._those_in(source) if each.thread != me]:
            for waiter in there:  # wait for each by itself, so that many take linear time
                left.clear()  # first clear, then look: a waiter that leaves after the look sets it
                while waiter in self.waiters:
                    if not left.wait(max(0.0, deadline - time.monotonic())):
                        return

    def _those_in(self, source: Source | None) -> list[Waiter]:
        if source is None:
            return list(self.waiters)
        return [waiter for lane in list(source.kept) for waiter in list(lane.inside)]

    def forget(self) -> list[Waiter]:
        """In a forked child: forget all waiters, and return those of the child's only thread.

        That thread may have forked in a signal handler while it was blocked in a call. (The event
        loop of a waiting task is the parent's.)
        """
        mine = [
            each
            for each in self.waiters
            if each.thread == threading.get_ident() and each.call in WAITS_IN_A_LOCK
        ]
        for each in self.waiters:
            each.lane.inside.clear()
        self.waiters.clear()
        return mine
