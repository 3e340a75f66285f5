"""Docking: how the event loop of a hub comes to watch the descriptor of the hub's inlets."""

from __future__ import annotations

import weakref
from collections.abc import Callable

from .._core.inlets import Inlets
from .sleepers import Sleepers


def dock(sleepers: Sleepers, inlets: Inlets) -> None:
    """Have the event loop wake the receivers when an entry has come through *inlets*.

    From any thread, also twice; never waits. Entries that are put before the loop watches are found
    when it begins to watch.
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
            return  # another call was first; two such calls never overlap
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
        # Lend the inlets once more. The hub may have been swept since they were lent the first time
        # (for the items in the rings). That sweep could not end the watch that has just begun.
        mailbox.lend(inlets)
        inlets.docked = True
        inlets.arm()
        arrived()

    # Soon, also in the loop's own thread: a signal handler may have interrupted another docking.
    call_soon(begin)


def make_arrival(sleepers: Sleepers, inlets: Inlets) -> Callable[[], None]:
    """Return the function that the event loop calls. It does not keep the receivers alive."""
    alive = weakref.ref(sleepers)

    def arrived() -> None:
        inlets.rung = True
        sleepers = alive()
        try:
            if sleepers is not None:
                sleepers.came_by_inlet()
        finally:
            inlets.clear_descriptor()  # unless a receiver has armed; one that arms later looks then
            # After the clear: an asker that gives up rings whether or not the flag is armed. Last,
            # because threads wait for the items that have come.
            inlets.tell_gone()

    return arrived
