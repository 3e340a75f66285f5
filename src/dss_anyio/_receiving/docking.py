"""How the inlets of a hub get to its event loop: their descriptor is watched there."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from .._core.inlets import Inlets
from .sleepers import Sleepers


def dock(sleepers: Sleepers, inlets: Inlets) -> None:
    """Have the event loop wake the receivers when something has come by *inlets*.

    From any thread, also twice; never waits. What is put before the loop watches is found then.
    """
    mailbox = sleepers.mailbox
    way_in, call_soon = mailbox.home.way_in, mailbox.home.call_soon
    assert way_in is not None
    assert call_soon is not None
    bell, fd = inlets.bell, inlets.fd
    arrived = make_arrival(sleepers, inlets)

    def begin() -> None:
        """In the event loop. Must not raise: it would end a whole trio run."""
        if inlets.docked:
            return  # another call has come first; one comes after the other, never in its middle
        if mailbox.ended:
            bell.close()
            return
        try:
            inlets.watch = way_in.watch(fd, arrived, bell.close).stop
        except Exception as exc:  # a loop that cannot watch descriptors
            mailbox.books.report(mailbox.root.source, exc)
            bell.close()
            inlets.docked = True
            return
        # Lent once more: the hub may have been swept since it was lent for what is in its rings,
        # and what has just begun was not there to be ended then.
        mailbox.lend(inlets)
        inlets.docked = True
        inlets.arm()
        arrived()

    # In the loop's own thread as well: a signal handler may have interrupted one who docks.
    call_soon(begin)


def make_arrival(sleepers: Sleepers, inlets: Inlets) -> Callable[[], None]:
    """Return what the event loop calls. As ``make_wake``, it does not keep the receivers alive."""
    alive = weakref.ref(sleepers)

    def arrived() -> None:
        inlets.rung = True
        sleepers = alive()
        try:
            if sleepers is not None:
                sleepers.came_by_inlet()
        finally:
            inlets.clear_descriptor()  # if nobody has armed; who does so later looks then
            # After the clear: who gives up rings, whether or not the flag is armed. Last, because
            # threads wait for what has come.
            inlets.tell_gone()

    return arrived
