"""The receivers of a hub that sleep, and who wakes them.

All of this runs in the hub's event loop, except for the function that ``make_wake`` returns: a
sender finds that in the bell.

Guarantees:

* A receiver is woken for an item, it is not given one. If it was woken and is cancelled, the wake
  goes to the next one that sleeps.
* The bell is armed only while somebody sleeps, and only if no wake is on its way.
* Errors are told in turns, and between two turns the event loop runs once.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TypeAlias

from anyio.lowlevel import checkpoint

from .._core.bell import Bell, Ring
from .._core.errors import hub_gone, not_open, received_elsewhere
from .._core.mailbox import Mailbox
from .._core.reports import OnError
from .._core.steps import reach
from .._loops.way import CallSoon, Nap
from .asleep import FEW, Asleep

# Work that is done in a wake that has just arrived, instead of waking a task for it. It returns
# False if the task is needed all the same. It must not raise.
Work: TypeAlias = Callable[[], bool]

STACK_FOR_A_WAKE = 20  # calls within calls


class End:
    """One receiving end of a hub, as far as its sleep is concerned."""

    closed: bool = False
    naps: dict[Nap, None] | None = None  # of those who sleep in it, or were woken just now


def make_wake(sleepers: Sleepers, call_soon: CallSoon) -> Ring:
    """Return the function for the bell. It does not keep the receivers alive.

    If a closed event loop has left suspended tasks behind, they can be collected, and their
    ``finally`` blocks run, only if no thread that holds a portal holds them, too.
    """
    alive = weakref.ref(sleepers)
    mailbox = weakref.ref(sleepers.mailbox)  # a sender that rings holds it

    def arrive() -> None:
        sleepers = alive()
        if sleepers is not None:
            sleepers.wake_arrived()

    def wake(bell: Bell) -> None:
        bell.wakes += 1  # nobody else has this function now
        try:
            call_soon(arrive)
        except RecursionError:
            raise  # a RuntimeError as well, but it is the sender's
        except RuntimeError:
            hub = mailbox()
            if hub is not None:
                hub.end(hub_gone)  # the loop is gone, and the hub with it

    return wake


class Sleepers:
    """The receivers of a hub that wait, in the order in which they are woken."""

    open_ends = 0
    _wake: Ring | None = None  # made when one sleeps for the first time
    _roused = 0  # those who were woken and have not run since
    _armed = False  # is the wake in the bell, or on its way?
    _telling = False  # is the next turn of telling errors on its way?

    def __init__(self, mailbox: Mailbox, on_error: OnError | None) -> None:
        self.mailbox = mailbox
        self._on_error = on_error
        self._asleep: Asleep[Nap, tuple[End, Work | None]] = Asleep()

    def __len__(self) -> int:
        return len(self._asleep)

    def check_here(self, end: End) -> None:
        """Raise if this is not the hub's event loop: who sleeps here would not be woken.

        An end that is closed is left to say so.
        """
        mailbox = self.mailbox
        way_in = mailbox.home.way_in
        if way_in is None or way_in.is_here() or end.closed or mailbox.ended:
            return
        raise received_elsewhere(mailbox)

    async def sleep(self, end: End, work: Work | None = None) -> None:
        """Wait until there may be something for *end*. May end for nothing.

        With *work*, the wait goes on as long as that can be called in the place of an end.
        """
        mailbox = self.mailbox
        home = mailbox.home
        if home.way_in is None or home.call_soon is None:
            raise not_open(mailbox)
        if self._wake is None:
            self._wake = make_wake(self, home.call_soon)
        # The wake may be called in this task (``Nap`` in ``_loops/on_trio``). Without stack for it,
        # it would be lost.
        reach(STACK_FOR_A_WAKE)
        nap: Nap = home.way_in.make_nap()
        self._asleep[nap] = end, work
        naps = end.naps
        if naps is None:
            naps = end.naps = {}
        naps[nap] = None
        try:
            self._rouse_soon()
            if nap in self._asleep:
                await nap
            else:
                await checkpoint()  # something came just before
        except BaseException:
            if not self._asleep.remove(nap):
                self._roused -= 1
            self._rouse_soon()  # pass the wake on; if nobody sleeps now, disarm
            raise
        finally:
            del naps[nap]
        self._roused -= 1
        if end.closed:
            self._rouse_soon()  # it will not take the item that it may have been woken for
        if mailbox.ended:
            await checkpoint()  # if the end has cancelled this task as well, that comes first

    def nothing_for(self, end: End) -> bool:
        """Is it certain that *end* has nothing to receive now, not even the end of the stream?"""
        mailbox = self.mailbox
        return bool(
            not mailbox.entries()
            and not mailbox.meeting.waiting
            and not mailbox.reports
            and mailbox.registry.open_lanes
            and not end.closed
        )

    def report_errors(self) -> None:
        """Tell a turn of what was reported; the event loop calls us again for the rest.

        An exception of ``on_error`` that is to end the hub is raised in a task. Raised here, it
        would cost other tasks the wake that they are about to get; and in a wake it would end a
        trio run.
        """
        if self._telling or not self.mailbox.reports:
            return
        try:
            more = self.mailbox.reports.tell(self._on_error, self.mailbox.books)
        except BaseException as exc:
            more = True
            home = self.mailbox.home
            task_group = home.task_group()
            if task_group is None or home.way_in is None:
                raise
            home.has_tasks = True
            try:
                home.way_in.name_loop()  # in a wake no task is there to ask
                task_group.start_soon(_leave, exc)
            except RuntimeError:  # it has ended: we are called by the end of the hub
                raise exc from None
        call_soon = self.mailbox.home.call_soon
        if more and not self._telling and call_soon is not None:
            self._telling = True
            try:
                call_soon(make_next_turn(self))
            except RuntimeError:
                self._telling = False  # the loop is gone; or there is no stack: told with the next

    def next_turn(self) -> None:
        """Must not raise, as ``wake_arrived``. After the hub was ended, its end tells the rest."""
        self._telling = False
        if not self.mailbox.ended:
            self.report_errors()

    def wake_arrived(self) -> None:
        """A sender has called the wake. Must not raise: it would end a whole trio run."""
        self._armed = False
        mailbox = self.mailbox
        if mailbox.reports and not mailbox.ended:
            self.report_errors()
        asleep = self._asleep
        # The first in the line. (With a few, ``items`` finds it at once.)
        for nap, (end, work) in asleep.items() if len(asleep) < FEW else asleep.first_item():
            if work is None:
                if len(asleep) == 1 and mailbox.meeting.limit:
                    # The most frequent case. One sleeps and something has come: nothing to count.
                    del asleep[nap]
                    self._roused += 1
                    nap.wake_now()
                    return
            elif not work():
                if nap in asleep:
                    self._take_up(nap).wake()
            elif (
                len(asleep) == 1
                and mailbox.meeting.limit
                and nap in asleep
                and self._wake is not None
            ):
                # As frequent: all is done, and it sleeps on. First arm, then look.
                self._armed = True
                mailbox.bell.arm(self._wake)
                if mailbox.inlets is not None:
                    mailbox.inlets.arm()
                if self.nothing_for(end):
                    return
            break
        first = self._rouse()
        if first is not None:
            first.wake_now()  # the last step: the task runs in here until it waits again

    def came_by_inlet(self) -> None:
        """The descriptor of an inlet was readable. In the event loop.

        This is a sender's look into the bell, and the wake that it would have called.
        """
        mailbox = self.mailbox
        armed = mailbox.bell.armed
        wake = armed.pop(None, None)
        if wake is None:
            if not self._armed or mailbox.inlets is None:
                return  # nobody sleeps
            # A sender in Python has it, and calls it; or puts it back, if it has no means to (see
            # ``Bell.ring``), and then the next sender is to try again, one in C as well. Those ring
            # only if their flag is up: first put it up, then look once more. If it was put back
            # before that look, we find it; if after it, the next one in C rings.
            mailbox.inlets.arm()
            wake = armed.pop(None, None)
            if wake is None:
                return  # it is on its way
        if wake is self._wake:
            mailbox.bell.wakes += 1
            self.wake_arrived()
        else:
            wake(mailbox.bell)  # the hub has ended

    def rouse_all(self, end: End | None = None) -> None:
        """Wake everybody, or those who wait in *end*, because that was closed."""
        if not self._asleep:
            return
        for nap in list(self._asleep if end is None else end.naps or ()):
            if nap in self._asleep:
                self._take_up(nap).wake()
        self._rouse_soon()

    def _take_up(self, nap: Nap) -> Nap:
        self._asleep.remove(nap)
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
        ``_core/bell``.
        """
        mailbox = self.mailbox
        meeting = mailbox.meeting
        asleep = self._asleep
        first: Nap | None = None
        while True:
            if not meeting.limit:
                meeting.seat(len(asleep), self._roused)
            # "No senders" is read before the queue: what was sent before the end is seen.
            finished = not mailbox.registry.open_lanes
            # Entries, not items: a husk costs a spurious wake, and nobody can be wrong about it.
            entries = mailbox.entries() - self._roused
            while asleep and (entries > 0 or finished):
                nap = self._take_up(asleep.first())
                if first is None:
                    first = nap
                else:
                    nap.wake()
                entries -= 1
            if not asleep:
                if not meeting.limit:
                    meeting.seat(0)
                if self._armed and mailbox.bell.disarm():
                    self._armed = False
                return first
            if self._armed or self._wake is None:
                if mailbox.reports:  # perhaps since the look of a wake that is over
                    self.report_errors()
                return first
            self._armed = True
            mailbox.bell.arm(self._wake)
            if mailbox.inlets is not None:
                mailbox.inlets.arm()
            # Nobody is woken for an error. What comes while we tell finds the bell armed.
            if mailbox.reports:
                self.report_errors()
            if mailbox.entries() <= self._roused and mailbox.registry.open_lanes:
                return first
            if not mailbox.bell.disarm():
                return first  # a sender has just taken it: its wake is on its way
            self._armed = False


def make_next_turn(sleepers: Sleepers) -> Callable[[], None]:
    """Return what the event loop calls for the next turn; as ``make_wake``, it holds nothing."""
    alive = weakref.ref(sleepers)

    def next_turn() -> None:
        sleepers = alive()
        if sleepers is not None:
            sleepers.next_turn()

    return next_turn


async def _leave(exc: BaseException) -> None:
    raise exc
