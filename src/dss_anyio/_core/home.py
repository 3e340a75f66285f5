"""Where a hub lives: its thread, and its event loop if it has one. Set when the hub is opened."""

from __future__ import annotations

import threading
from collections.abc import Callable
from threading import get_ident
from typing import Any

from .._loops.way import CallSoon, WayIn


class Home:
    """The thread that receives, and how to have a function called there.

    Portals hold this object, and it holds the hub weakly. So a hub that only portals lead to is
    garbage although threads wait in it, and its destructor releases them.
    """

    # Defaults of the class: most hubs live and end with most of them.
    # A weak reference. Otherwise portals would keep alive what a closed loop has left behind.
    hub: Callable[[], Any] = staticmethod(lambda: None)
    thread: threading.Thread | None = None
    ident: int | None = None  # of that thread
    way_in: WayIn | None = None  # into the event loop; None for a polled hub
    loop: int | None = None  # identifies an event loop that can be closed under the hub
    call_soon: CallSoon | None = None  # None until the hub is opened
    # Calls plain functions as if in a task; made when it is first used.
    surround: Callable[..., Any] | None = None
    has_tasks: bool = False  # may there be tasks in the hub's task group?
    # The coroutines in the event loop for which threads wait: see ``_ending/errand``.
    errands: dict[Any, None] | None = None
    loop_is_over: bool = False  # nothing runs in it any more: it was closed, or its thread has left

    def come_home(self) -> None:
        """Make this thread the receiving thread."""
        self.thread = threading.current_thread()
        self.ident = get_ident()

    def enter_errand(self, errand: Any) -> bool:
        """Enter *errand*, to be given up when the loop is over. Return whether it is over already.

        From any thread. We enter the errand, and *then* read ``loop_is_over``. ``end_errands``
        writes that, and *then* copies the errands. So it finds the errand, or we read True.
        """
        if self.errands is None:
            self.__dict__.setdefault("errands", {})
        assert self.errands is not None
        self.errands[errand] = None
        return self.loop_is_over

    def end_errands(self) -> None:
        """Give up all errands: the event loop runs no more. From any thread; never waits."""
        self.loop_is_over = True
        for errand in list(self.errands or ()):
            errand.give_up()

    @property
    def is_polled(self) -> bool:
        """Does the hub have no event loop?"""
        return self.way_in is None and self.call_soon is not None

    def is_here(self) -> bool:
        """Is this the thread that receives? Idents are reused, so it has to be alive as well."""
        return get_ident() == self.ident and self.thread is not None and self.thread.is_alive()

    def task_group(self) -> Any:
        """The hub's, while it is open in an event loop; else None. In the hub's thread."""
        hub = self.hub()
        return None if hub is None else hub._task_group  # of ``Face``: not for users
