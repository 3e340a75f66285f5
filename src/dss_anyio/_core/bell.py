"""The bell: how a sleeping receiver is woken.

Invariants: no wake is lost; at most one is on its way; after the end, everything that is put calls
the last function.

A receiver that is about to sleep *arms* the bell: it puts a function into it that wakes it. It then
takes a step on the line that changes nothing, and looks at the line once more. A sender puts its
item into the line, in one step, and then looks into the bell. If a function is there, the sender
takes it out and calls it.

Why no wake is lost: the receiver's step and the sender's step are both on the line, so one of them
is first. If it is the receiver's, the function was in the bell even before; the sender, which looks
after its own step, finds it. If it is the sender's, the receiver finds the item and does not sleep.
Some callers announce an event that is not in the line: an error, the end of the stream. They write
it down and then call ``ring``, which takes a step on the bell itself, as the receiver does when it
arms the bell. It is the same argument, with the bell in the place of the line.

Why there is never more than one: ``dict.pop`` gives the function to one sender. All others find an
empty dict until the receiver is awake and arms the bell again; ``if armed`` takes them 4 ns. (Why a
dict and no lock: see "Why the flag is a dict" in ``docs/design.md``.)

The end uses the same place. The last function (``close``) hands back every item that is put after
the end. If a receiver arms the bell after that, it replaces the last function, so ``arm`` calls it
at once, and it puts itself back.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any, TypeAlias

from .steps import OUT_OF_MEANS

# The function in the bell. It gets the bell as its argument, so it need not refer to the bell.
Ring: TypeAlias = Callable[["Bell"], object]


class Bell:
    """A place for one function, which one thread at a time may call. See the head of this file."""

    __slots__ = ("_entries", "_ring", "armed", "last", "wakes")

    def __init__(self, entries: deque[Any]) -> None:
        self._entries = entries
        self._ring: Ring | None = None  # the function that was armed last
        self.last: Ring | None = None  # the function of the end
        self.armed: dict[None, Ring] = {}  # the place. Senders look into it
        # The function counts. Only one thread has the function at a time, except after
        # ``ring_anyway``: then a wake may go uncounted.
        self.wakes: int = 0

    def arm(self, ring: Ring) -> None:
        """Have *ring* called by the next thread that puts an entry. In the receiving thread.

        The caller looks at the line after this.
        """
        self._ring = ring
        self.armed[None] = ring
        self._entries.rotate(0)  # the step on the line, between arming and looking
        if self.last is not None:
            # Another thread has ended the hub meanwhile, and we took its function's place.
            self.last(self)

    def disarm(self) -> bool:
        """Take the function out again. False if a sender has it, and calls it or has called it."""
        found = self.armed.pop(None, None) is not None
        if self.last is not None:
            self.last(self)  # as in ``arm``: we may have taken out the last function
        return found

    def ring(self) -> None:
        """Wake the receiver if it sleeps. From any thread, at any bytecode; never waits."""
        try:
            ring = self.armed.pop(None, None)
            if ring is not None:
                # No other thread has it now, so it must not get lost. We put it back without a
                # call: if the stack is at its end, that call would fail as well.
                try:
                    ring(self)
                except OUT_OF_MEANS:
                    self.armed[None] = ring  # the next sender tries again
        except BaseException:
            self.ring_anyway()
            raise

    def ring_anyway(self) -> None:
        """Ring although a signal handler has raised in the middle of ringing.

        We cannot tell whether the function was taken out, or called. Call it and leave it armed: a
        spurious wake is harmless.
        """
        ring = self._ring
        if ring is not None:
            self.armed.setdefault(None, ring)(self)

    def close(self, last: Ring) -> None:
        """From now on each thread that puts an entry calls *last*, which stays armed. Idempotent.

        The caller looks at the line after this. A thread that puts an entry after that look finds
        *last*. So every entry that is ever put is seen by the one or the other.
        """
        self.last = last
        self.armed[None] = last
        self._ring = None
        self._entries.rotate(0)  # as in ``arm``

    def forget(self) -> None:
        """In a forked child: the receiver that armed the bell exists in the parent only."""
        self.armed.clear()
