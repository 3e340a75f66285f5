"""A delivery through API 1.0, and its one last call.

Rule 1: each delivery ends with exactly one last call of one of its two functions:

* ``decode(hub, ...)`` that returns None: it has done everything;
* ``decode(None, ...)``: it will not be received, or ``decode(hub, ...)`` has raised;
* ``return_(...)``: it was received, and its asker waits. (Without ``return_`` the last call is the
  call of ``decode``, whatever it returns.)

Rule 2: a ``deliver`` that waits does not return while one of the two functions runs, because its
caller may free the data as soon as ``deliver`` has returned. Nor does ``unregister``, because its
caller may unload the library then.

Rule 3: the step that releases the askers, at the end of the hub, calls no function of a binding. A
released asker makes its last call itself, in its own thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final, Literal
from weakref import ref

from .._core.books import NOTHING
from .._core.mailbox import Mailbox
from .._core.question import Ending, Question
from .._ending.order import LEAVE_TIMEOUT
from .._hub.base import Face
from .._loops.flag import Flag
from .._loops.slices import acquire
from .._portal.portal import Portal, lane_of


class Utility:
    """A library that is registered with a hub: a binding knows it as its ``utilid``."""

    __slots__ = (
        "__weakref__",
        "_delivering",
        "_forget",
        "_hub",
        "_leaving",
        "_once",
        "_outstanding",
        "_running",
        "mailbox",
        "name",
        "portal",
    )

    def __init__(
        self,
        name: str,
        mailbox: Mailbox,
        hub: ref[Face[Any]],
    ) -> None:
        self.name: Final = name
        self.mailbox: Final = mailbox
        self.portal: Portal[Any] | None = None  # until it is settled in
        self._outstanding: dict[Delivery, None] = {}  # deliveries whose last call is yet to come
        self._delivering: dict[Delivery, int] = {}  # the thread that is in deliver() with it
        self._running: dict[Delivery, int] = {}  # the thread in which one of its functions runs
        self._leaving: dict[Flag, None] = {}  # set whenever a delivery has left
        self._hub = hub
        self._forget: Callable[[], object] | None = None
        self._once = [None]

    def settle_in(self, portal: Portal[Any], forget: Callable[[], object]) -> None:
        self._forget = forget
        self.portal = portal  # last: readers take it as the sign that all is set

    @property
    def lane(self) -> Any:
        assert self.portal is not None
        return lane_of(self.portal)

    @property
    def hub(self) -> Any:
        return self._hub()

    def wake_failures(self) -> int:
        return self.mailbox.books.counts["wake_failures"].value

    def report(self, exc: BaseException) -> None:
        self.mailbox.books.report(self.lane.source, exc)

    @property
    def unregistered(self) -> bool:
        return not self._once

    @property
    def registered(self) -> bool:
        return not self.unregistered and self.portal is not None and self.lane.refusal is None

    def unregister(self) -> bool:
        """End the registration. False if that was done before, or is being done."""
        try:
            self._once.pop()
        except IndexError:
            return False
        portal = self.portal
        if portal is None or self._forget is None:
            return False  # the hub ends while the library is being registered
        self._forget()
        self.mailbox.registry.release(self.lane.source)
        portal.abort()
        self._wait_until_left()
        return True

    # -- the deliveries under way: from any thread -------------------------------------------------

    def enter(self, delivery: Delivery) -> None:
        self._delivering[delivery] = threading.get_ident()
        self._outstanding[delivery] = None

    def run(self, delivery: Delivery, func: Callable[..., Any], *args: Any) -> Any:
        """Call *func*. If it calls ``unregister``, that does not wait for *delivery* to leave."""
        self._running[delivery] = threading.get_ident()
        try:
            return func(*args)
        finally:
            self._running.pop(delivery, None)

    def delivered(self, delivery: Delivery) -> None:
        self._delivering.pop(delivery, None)

    def leave(self, delivery: Delivery) -> None:
        self._outstanding.pop(delivery, None)
        for left in list(self._leaving):
            left.set()

    def _wait_until_left(self) -> None:
        """Block until all deliveries but this thread's own have left, at most LEAVE_TIMEOUT."""
        left = Flag()
        self._leaving[left] = None
        try:
            self._look_until_left(left)
        finally:
            self._leaving.pop(left, None)

    def _look_until_left(self, left: Flag) -> None:
        deadline = time.monotonic() + LEAVE_TIMEOUT
        while True:  # in a function of its own: see ``_stop_newest_first`` in ``_ending/order``
            left.clear()  # first clear, then look: a delivery that leaves after the look sets it
            if all(map(self._is_mine, self._outstanding.copy())):
                return
            if not left.wait(max(0.0, deadline - time.monotonic())):
                return

    def _is_mine(self, delivery: Delivery) -> bool:
        """Must this thread go on before *delivery* can leave? (We may be in a signal handler.)"""
        me = threading.get_ident()
        at = self._running.get(delivery), self._delivering.get(delivery)
        # If no thread has it, and it is no longer queued, the hub's thread has it.
        return me in at or (at == (None, None) and self.mailbox.home.is_here())

    # -- for the mailbox ---------------------------------------------------------------------------

    def open(self, item: Any) -> Any:
        """``decode`` of the source: in the hub's thread, when *item* is received."""
        return item.open() if isinstance(item, Delivery) else item  # or sent through the portal

    def hand_back(self, item: Any) -> None:
        """``on_undelivered`` of the source: *item* will not be received."""
        if isinstance(item, Delivery):
            item.cancel()

    def __repr__(self) -> str:
        return f"<utilid of {self.name!r}>"


class Delivery:
    """A delivery without an asker. The mailbox either opens it or hands it back, once."""

    __slots__ = ("_data", "_decode", "_utility")

    def __init__(
        self, utility: Utility, decode: Callable[[Any, Any, Any], Any], data: object
    ) -> None:
        self._utility = utility
        self._decode = decode
        self._data = data

    def open(self) -> Any:
        utility = self._utility
        item = utility.run(self, self._decode, utility.hub, self._data, utility)
        utility.leave(self)  # not if ``decode`` has raised: then ``cancel`` is called
        return NOTHING if item is None else item

    def cancel(self) -> None:
        utility = self._utility
        try:
            utility.run(self, self._decode, None, self._data, utility)
        finally:
            utility.leave(self)


class Asked(Delivery):
    """A delivery whose asker waits.

    Its question is settled once. A thread that answers it, or forgets its token, makes the last
    call in :meth:`wake`. If the question was released or abandoned, the asker makes the last call,
    in :meth:`cancel`. Only then may the hub's thread be about to decode it: ``dict.setdefault``
    decides whether the hub's thread still decodes it. If so, the asker waits until that has ended.
    """

    __slots__ = ("_begun", "_ending", "_last_calls", "_opened", "_return", "_woken", "question")

    def __init__(
        self,
        utility: Utility,
        decode: Callable[[Any, Any, Any], Any],
        return_: Callable[[Any, Any, Any, bool, Any], object],
        data: object,
    ) -> None:
        super().__init__(utility, decode, data)
        self._return = return_
        self.question: Question | None = None
        self._begun: dict[None, Literal["opened", "cancelled"]] = {}
        # The function of the last call.
        self._ending: Literal["decode", "return", "nothing"] = "decode"
        self._last_calls = [None]
        self._opened = Gate()
        self._woken = Gate()

    def open(self) -> Any:
        return self._utility.run(self, self._open)

    def _open(self) -> Any:
        if self._begun.setdefault(None, "opened") == "cancelled":
            return NOTHING  # its asker makes the last call
        utility = self._utility
        try:
            item = self._decode(utility.hub, self._data, utility)
            self._ending = "nothing" if item is None else "return"
        finally:
            self._opened.open()
        return NOTHING if item is None else item

    def wake(self) -> None:
        """Make the last call, because its question was settled; then let the asker go on."""
        question = self.question
        if question is None or question.outcome is None:
            return
        ending, value = question.outcome
        if not question.given_up:
            self._call_last(self._utility.hub, ending, value)
        self._woken.open()

    def wait(self) -> None:
        self._woken.wait()

    def cancel(self) -> None:
        """Make the last call, in the asker's thread, which waits no longer."""
        if self._begun.setdefault(None, "cancelled") == "opened":
            self._opened.wait()
        self._call_last(None, "released", None)

    def _call_last(self, hub: Any, ending: Ending, value: Any) -> None:
        try:
            self._last_calls.pop()
        except IndexError:
            return  # it was made before, and Ctrl-C has struck in it
        utility = self._utility
        try:
            if self._ending == "decode":
                utility.run(self, self._decode, None, self._data, utility)
            elif self._ending == "return":
                garbage = ending in ("refused", "unanswered")
                answer = value if ending == "answered" else None
                utility.run(self, self._return, hub, self._data, utility, garbage, answer)
                if ending == "refused":
                    utility.report(value)  # ``return_`` does not get the exception
        except BaseException as exc:
            utility.report(exc)
            if isinstance(exc, (KeyboardInterrupt, SystemExit)):
                raise


class Gate:
    """Closed until a thread opens it, for good. One thread waits in front of it.

    A lock that is taken twice, as in ``Portal.send``. The flag lets a thread wait a second time, if
    Ctrl-C has interrupted it when it had just taken the lock.
    """

    __slots__ = ("_lock", "_open")

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()
        self._open = False

    def open(self) -> None:
        self._open = True
        try:
            self._lock.release()
        except RuntimeError:
            pass  # open already

    def wait(self) -> None:
        if not self._open:
            acquire(self._lock, None, lambda: self._open)
