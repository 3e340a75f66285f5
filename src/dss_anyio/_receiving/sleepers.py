"""The sleeping receivers of a hub, and how they are woken.

All of this runs in the hub's event loop, except for the function that ``make_wake`` returns: a
sender finds that function in the bell, and calls it.

Guarantees:

* A receiver is woken for an item, but is not handed the item. If a receiver was woken and is
  cancelled, the wake goes to the next receiver that sleeps.
* The bell is armed only while a receiver sleeps, and only if no wake is on its way.
* ``on_error`` gets errors in turns, and between two turns the event loop runs once.
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

# Work that a wake does when it arrives, instead of waking a task for it. It returns False if the
# task is needed all the same. It must not raise.
Work: TypeAlias = Callable[[], bool]

STACK_FOR_A_WAKE = 20  # nested calls


class End:
    """One receiving end of a hub, as far as its sleep is concerned."""

    closed: bool = False
    naps: dict[Nap, None] | None = None  # of its tasks that sleep, or were woken just now


def make_wake(sleepers: Sleepers, call_soon: CallSoon) -> Ring:
    """Return the function for the bell. It does not keep the receivers alive.

    A closed event loop may leave suspended tasks behind. The collector can destroy them, which runs
    their ``finally`` blocks, only if no portal that a thread holds leads to them.
    """
    alive = weakref.ref(sleepers)
    mailbox = weakref.ref(sleepers.mailbox)  # a sender that rings holds it

    def arrive() -> None:
        sleepers = alive()
        if sleepers is not None:
            sleepers.wake_arrived()

    def wake(bell: Bell) -> None:
        bell.wakes += 1  # no other thread has this function now
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
    _wake: Ring | None = None  # made when a receiver sleeps for the first time
    _roused = 0  # how many receivers were woken and have not run since
    _armed = False  # is the wake in the bell, or on its way?
    _telling = False  # is the next turn of telling errors on its way?

    def __init__(self, mailbox: Mailbox, on_error: OnError | None) -> None:
        self.mailbox = mailbox
        self._on_error = on_error
        self._asleep: Asleep[Nap, tuple[End, Work | None]] = Asleep()

    def __len__(self) -> int:
        return len(self._asleep)

    def check_here(self, end: End) -> None:
        """Raise if this is not the hub's event loop: a task that sleeps here would not be woken.

        Not if *end* is closed, or the hub has ended: then the caller raises the error of that.
        """
        mailbox = self.mailbox
        way_in = mailbox.home.way_in
        if way_in is None or way_in.is_here() or end.closed or mailbox.ended:
            return
        raise received_elsewhere(mailbox)

    async def sleep(self, end: End, work: Work | None = None) -> None:
        """Wait until there may be an item, or an event, for *end*. The wake may be spurious.

        With *work*, a wake calls that instead of ending the wait, for as long as it returns True.
        """
        mailbox = self.mailbox
        home = mailbox.home
        if home.way_in is None or home.call_soon is None:
            raise not_open(mailbox)
        if self._wake is None:
            self._wake = make_wake(self, home.call_soon)
        # The wake may be called in this task (``Nap`` in ``_loops/on_trio``). If there were no
        # stack for it, it would be lost.
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
                await checkpoint()  # an item or an event came just before
        except BaseException:
            if not self._asleep.remove(nap):
                self._roused -= 1
            self._rouse_soon()  # pass the wake on; if no receiver sleeps now, disarm
            raise
        finally:
            del naps[nap]
        self._roused -= 1
        if end.closed:
            self._rouse_soon()  # this task will not take the item for which it was woken
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
        """Tell one turn of the reported errors; the event loop calls us again for the rest.

        An exception of ``on_error`` that is to end the hub is raised in a task. Raised here, it
        would keep other tasks from being woken; and in a wake it would end a trio run.
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
                home.way_in.name_loop()  # in a wake there is no task from which anyio could tell
                task_group.start_soon(_leave, exc)
            except RuntimeError:  # the task group has ended: the end of the hub calls us
                raise exc from None
        call_soon = self.mailbox.home.call_soon
        if more and not self._telling and call_soon is not None:
            self._telling = True
            try:
                call_soon(make_next_turn(self))
            except RuntimeError:
                self._telling = False  # the loop is gone; or no stack is left: the next turn tells

    def next_turn(self) -> None:
        """Tell the next turn. Must not raise. After the hub has ended, its end tells the rest."""
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
                    # The most frequent case. One receiver sleeps and an entry has come, so we need
                    # not count.
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
                # As frequent: all items are handled, and it sleeps on. First arm, then look.
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
        """Wake for the inlets: their descriptor was readable. In the event loop.

        This does for a sender in C what a sender in Python does by itself: it looks into the bell,
        and calls the wake.
        """
        mailbox = self.mailbox
        armed = mailbox.bell.armed
        wake = armed.pop(None, None)
        if wake is None:
            if not self._armed or mailbox.inlets is None:
                return  # no receiver sleeps
            # A sender in Python has the wake, and calls it. Or it puts the wake back, if it has no
            # stack or memory for the call (see ``Bell.ring``). Then the next sender has to try
            # again, also one in C. Senders in C ring only if their flag is up: so first put the
            # flag up, then look into the bell once more. If the wake was put back before that look,
            # we find it; if it is put back later, the next sender in C rings.
            mailbox.inlets.arm()
            wake = armed.pop(None, None)
            if wake is None:
                return  # the wake is on its way
        if wake is self._wake:
            mailbox.bell.wakes += 1
            self.wake_arrived()
        else:
            wake(mailbox.bell)  # the hub has ended

    def rouse_all(self, end: End | None = None) -> None:
        """Wake all sleeping tasks; with *end*, which was closed, only those that wait in it."""
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
        """Wake as many receivers as there are items for; arm the bell if others go on sleeping.

        The first of them is returned, for the caller to wake. First arm, then look, again and again
        until no entry has come meanwhile: this is the receiver's half of the argument in
        ``_core/bell``.
        """
        mailbox = self.mailbox
        meeting = mailbox.meeting
        asleep = self._asleep
        first: Nap | None = None
        while True:
            if not meeting.limit:
                meeting.seat(len(asleep), self._roused)
            # "No senders" is read before the queue: so items sent before the end are seen.
            finished = not mailbox.registry.open_lanes
            # Entries, not items: a husk costs a spurious wake, but the number is always right.
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
            # No receiver is woken for an error. Items that come while we tell find the bell armed.
            if mailbox.reports:
                self.report_errors()
            if mailbox.entries() <= self._roused and mailbox.registry.open_lanes:
                return first
            if not mailbox.bell.disarm():
                return first  # a sender has just taken it: its wake is on its way
            self._armed = False


def make_next_turn(sleepers: Sleepers) -> Callable[[], None]:
    """Return the function that the event loop calls for the next turn. It keeps nothing alive."""
    alive = weakref.ref(sleepers)

    def next_turn() -> None:
        sleepers = alive()
        if sleepers is not None:
            sleepers.next_turn()

    return next_turn


async def _leave(exc: BaseException) -> None:
    raise exc
