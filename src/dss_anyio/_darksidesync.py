"""API 1.0: a hub in the shape of DarkSideSync 1.0, for bindings that were written for that.

What a binding delivers is an item of a registered source, or a request if it gave a function for
the answer. So everything that a hub promises holds for it; what is here is the bookkeeping of the
functions that the binding has given along.

Rule 1: what was delivered ends with exactly one last call of one of its two functions:

* ``decode(hub, ...)`` that returns None: it has done everything;
* ``decode(None, ...)``: nobody will receive it, or ``decode(hub, ...)`` has raised;
* ``return_(...)``: it was received, and its asker waits. (Without ``return_`` the last call is
  that of ``decode``, whatever it returns.)

Rule 2: a ``deliver`` that waits does not return while one of the two runs, because the caller may
free what it has delivered as soon as it has returned. Nor does ``unregister``, because the caller
may unload the library then.

Rule 3: no function of a binding is called where the hub ends. An asker that was released makes its
last call itself, in its own thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final, Literal
from weakref import WeakMethod, ref

from anyio import BrokenResourceError, ClosedResourceError

from ._ending import LEAVE_TIMEOUT
from ._errors import portal_aborted, portal_closed, would_deadlock
from ._lane import Source
from ._mailbox import NOTHING, Mailbox
from ._portal import Portal
from ._request import Ending, Question
from ._waiting import SLICE

_CLOSED = (portal_closed, portal_aborted)


class DarkSideSync:
    """What ``hub.api("1.0")`` returns. It does not hold the hub. See :class:`dss_anyio.Api1`."""

    version: str = "DSS API 1v0"

    DSS_SUCCESS: int = -100
    DSS_ERR_UDP_SEND_FAILED: int = -99
    DSS_ERR_INVALID_UTILID: int = -101
    DSS_ERR_NOT_STARTED: int = -102
    DSS_ERR_NO_CANCEL_PROVIDED: int = -103
    DSS_ERR_OUT_OF_MEMORY: int = -104
    DSS_ERR_NO_DECODE_PROVIDED: int = -105
    DSS_ERR_NO_GLOBALS: int = -106
    DSS_ERR_UNKNOWN_LIB: int = -107
    DSS_ERR_ALREADY_REGISTERED: int = -108

    def __init__(
        self,
        mailbox: Mailbox,
        hub: ref[Any],
        register: WeakMethod[Callable[..., tuple[Portal[Any], Source]]],
        wake_failures: WeakMethod[Callable[[], int]],
    ) -> None:
        self._mailbox = mailbox
        self._hub = hub
        self._register = register
        self._wake_failures = wake_failures
        self._utilities: dict[object, Utility] = {}  # the registered ones, by libid

    def register(
        self, libid: object, cancel: Callable[[Any], object] | None
    ) -> tuple[object | None, int]:
        if not callable(cancel):
            return None, self.DSS_ERR_NO_CANCEL_PROVIDED
        known, _ = self.getutilid(libid)
        if known is not None:
            return known, self.DSS_ERR_ALREADY_REGISTERED
        register = self._register()
        if register is None or self._mailbox.refusal is not None:
            return None, self.DSS_ERR_NOT_STARTED
        name = libid if isinstance(libid, str) else repr(libid)
        utility = Utility(name, self._mailbox, self._hub, self._wake_failures)
        try:
            portal, source = register(
                name, partial(cancel, utility), utility.open, utility.hand_back
            )
        except ValueError:  # its name is that of another source
            return self.getutilid(libid)[0], self.DSS_ERR_ALREADY_REGISTERED
        except (BrokenResourceError, ClosedResourceError):
            return None, self.DSS_ERR_NOT_STARTED
        except MemoryError:
            return None, self.DSS_ERR_OUT_OF_MEMORY
        utility.settle_in(portal, source, partial(self._forget, libid, utility))
        self._utilities[libid] = utility
        return utility, self.DSS_SUCCESS

    def getutilid(self, libid: object) -> tuple[object | None, int]:
        if self._mailbox.refusal is not None:
            return None, self.DSS_ERR_NOT_STARTED
        utility = self._utilities.get(libid)
        if utility is None or not utility.registered:
            return None, self.DSS_ERR_UNKNOWN_LIB
        return utility, self.DSS_SUCCESS

    def deliver(
        self,
        utilid: object,
        decode: Callable[[Any, Any, Any], Any] | None,
        return_: Callable[[Any, Any, Any, bool, Any], object] | None = None,
        data: Any = None,
    ) -> int:
        if return_ is not None and not callable(return_):
            raise TypeError(f"return_ must be callable or None, not {return_!r}")
        portal = utilid.portal if isinstance(utilid, Utility) else None
        if not isinstance(utilid, Utility) or portal is None:
            return self.DSS_ERR_INVALID_UTILID
        if not callable(decode):
            return self.DSS_ERR_NO_DECODE_PROVIDED
        refused = self._refused(utilid)
        if refused is not None:
            return refused
        failures = utilid.wake_failures()
        if return_ is not None:
            return self._deliver_and_wait(utilid, Asked(utilid, decode, return_, data), failures)
        delivery = Delivery(utilid, decode, data)
        utilid.enter(delivery)
        try:
            if not portal.offer(delivery):
                utilid.leave(delivery)
                refused = self._refused(utilid)
                return self.DSS_ERR_OUT_OF_MEMORY if refused is None else refused
        finally:
            utilid.delivered(delivery)
        # ``unregister`` writes that it was called, then takes back what it finds. If it has not
        # found this, we read here that it was called.
        if utilid.unregistered:
            portal.abort()
        return self._delivered(utilid, failures)

    def unregister(self, utilid: object) -> int:
        if not isinstance(utilid, Utility) or not utilid.unregister():
            return self.DSS_ERR_INVALID_UTILID
        return self.DSS_SUCCESS

    def __repr__(self) -> str:
        return f"<{self.version}: {len(self._utilities)} registered>"

    def _forget(self, libid: object, utility: Utility) -> None:
        if self._utilities.get(libid) is utility:  # else it was registered anew meanwhile
            del self._utilities[libid]

    # -- what deliver is made of -------------------------------------------------------------------

    def _deliver_and_wait(self, utility: Utility, asked: Asked, failures: int) -> int:
        mailbox = utility.mailbox
        lane = utility.lane
        if mailbox.is_at_home():
            raise would_deadlock("deliver")
        question = Question(lane, "deliver", asked.wake, None, mailbox.counts)
        asked.question = question
        utility.enter(asked)
        try:
            return self._wait(utility, asked, question, failures)
        finally:
            asked.question = None  # which refers to it
            utility.leave(asked)
            utility.delivered(asked)
            mailbox.leave(question)

    def _wait(self, utility: Utility, asked: Asked, question: Question, failures: int) -> int:
        taken = True
        try:
            try:
                utility.mailbox.ask(question, asked)
            except (BrokenResourceError, ClosedResourceError):
                taken = False
                refused = self._refused(utility)
                return self.DSS_ERR_NOT_STARTED if refused is None else refused
            code = self._delivered(utility, failures)
            asked.wait()
        except BaseException:
            if not question.settle("abandoned"):
                asked.wait()  # the last call is under way in another thread
            raise
        finally:
            if taken and question.given_up:
                asked.cancel()
        return code

    def _delivered(self, utility: Utility, failures: int) -> int:
        if utility.wake_failures() != failures:
            return self.DSS_ERR_UDP_SEND_FAILED
        return self.DSS_SUCCESS

    def _refused(self, utility: Utility) -> int | None:
        """Why nothing can be delivered, or None if it can."""
        refusal = utility.lane.refusal
        if utility.unregistered or refusal in _CLOSED:
            return self.DSS_ERR_INVALID_UTILID
        return None if refusal is None else self.DSS_ERR_NOT_STARTED


class Utility:
    """A library that is registered with a hub: what a binding is given as its ``utilid``."""

    __slots__ = (
        "__weakref__",
        "_delivering",
        "_forget",
        "_hub",
        "_leaving",
        "_once",
        "_outstanding",
        "_running",
        "_wake_failures",
        "mailbox",
        "name",
        "portal",
        "source",
    )

    def __init__(
        self,
        name: str,
        mailbox: Mailbox,
        hub: ref[Any],
        wake_failures: WeakMethod[Callable[[], int]],
    ) -> None:
        self.name: Final = name
        self.mailbox: Final = mailbox
        self.portal: Portal[Any] | None = None  # until it is settled in
        self.source: Source | None = None
        self._outstanding: dict[Delivery, None] = {}  # what has its last call before it
        self._delivering: dict[Delivery, int] = {}  # which thread is in deliver() with it,
        self._running: dict[Delivery, int] = {}  # and in which one of its functions runs
        self._leaving: dict[threading.Event, None] = {}  # who wants to know that one has left
        self._hub = hub
        self._wake_failures = wake_failures
        self._forget: Callable[[], object] | None = None
        self._once = [None]

    def settle_in(self, portal: Portal[Any], source: Source, forget: Callable[[], object]) -> None:
        self.source = source
        self._forget = forget
        self.portal = portal  # the last, it says that it is done

    @property
    def lane(self) -> Any:
        assert self.portal is not None
        return self.portal._lane  # pyright: ignore[reportPrivateUsage]  # of one room

    @property
    def hub(self) -> Any:
        return self._hub()

    def wake_failures(self) -> int:
        count = self._wake_failures()
        return 0 if count is None else count()

    @property
    def unregistered(self) -> bool:
        return not self._once

    @property
    def registered(self) -> bool:
        return not self.unregistered and self.portal is not None and self.lane.refusal is None

    def unregister(self) -> bool:
        """End it. False if that was done before, or is being done."""
        try:
            self._once.pop()
        except IndexError:
            return False
        portal, source = self.portal, self.source
        if portal is None or source is None or self._forget is None:
            return False  # the hub ends while it is being registered
        self._forget()
        self.mailbox.release(source)
        portal.abort()
        self._wait_until_left()
        return True

    # -- what is under way: from any thread --------------------------------------------------------

    def enter(self, delivery: Delivery) -> None:
        self._delivering[delivery] = threading.get_ident()
        self._outstanding[delivery] = None

    def run(self, delivery: Delivery, func: Callable[..., Any], *args: Any) -> Any:
        """Call *func*. If it unregisters us, that does not wait for the end of *delivery*."""
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
        """Block until all have left but what this thread is at, for at most LEAVE_TIMEOUT."""
        deadline = time.monotonic() + LEAVE_TIMEOUT
        left = threading.Event()
        self._leaving[left] = None
        try:
            while True:
                left.clear()  # first clear, then look: who leaves after the look sets it again
                if all(map(self._is_mine, self._outstanding.copy())):
                    return
                if not left.wait(deadline - time.monotonic()):
                    return
        finally:
            self._leaving.pop(left, None)

    def _is_mine(self, delivery: Delivery) -> bool:
        """Does this thread have to go on for *delivery* to leave? We may be in a signal handler."""
        me = threading.get_ident()
        at = self._running.get(delivery), self._delivering.get(delivery)
        # With nobody and no longer queued, it is in the hands of the hub's thread.
        return me in at or (at == (None, None) and self.mailbox.is_at_home())

    # -- for the mailbox ---------------------------------------------------------------------------

    def open(self, item: Any) -> Any:
        """``decode`` of the source: in the hub's thread, when *item* is received."""
        return item.open() if isinstance(item, Delivery) else item  # or sent by somebody else

    def hand_back(self, item: Any) -> None:
        """``on_undelivered`` of the source: nobody will receive *item*."""
        if isinstance(item, Delivery):
            item.cancel()

    def __repr__(self) -> str:
        return f"<utilid of {self.name!r}>"


class Delivery:
    """Data that nobody waits for. The mailbox opens it or hands it back, one of them, once."""

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
        utility.leave(self)  # not if it has raised: then it is cancelled
        return NOTHING if item is None else item

    def cancel(self) -> None:
        utility = self._utility
        try:
            utility.run(self, self._decode, None, self._data, utility)
        finally:
            utility.leave(self)


class Asked(Delivery):
    """Data that was delivered by somebody who waits now.

    Its question is settled once. Who settles it with an answer, or by forgetting its token, makes
    the last call in :meth:`wake`. If the question was released or abandoned, the asker makes it, in
    :meth:`cancel`. Only then may the hub's thread be about to decode it: ``dict.setdefault``
    decides whether it still does, and if so the asker waits until it has.
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
        self._ending: Literal["decode", "return", "nothing"] = "decode"  # what is called last
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
        """Its question was settled: the last call, and then the asker may go on."""
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
        """The last call, in the asker's thread, after it has ceased to wait."""
        if self._begun.setdefault(None, "cancelled") == "opened":
            self._opened.wait()
        self._call_last(None, "released", None)

    def _call_last(self, hub: Any, ending: Ending, value: Any) -> None:
        try:
            self._last_calls.pop()
        except IndexError:
            return  # Ctrl-C has struck in it
        utility = self._utility
        try:
            if self._ending == "decode":
                utility.run(self, self._decode, None, self._data, utility)
            elif self._ending == "return":
                garbage = ending in ("refused", "unanswered")
                answer = value if ending == "answered" else None
                utility.run(self, self._return, hub, self._data, utility, garbage, answer)
                if ending == "refused":
                    utility.mailbox.report(utility.name, value)  # else nobody would hear of it
        except BaseException as exc:
            utility.mailbox.report(utility.name, exc)
            if isinstance(exc, (KeyboardInterrupt, SystemExit)):
                raise


class Gate:
    """Closed until somebody opens it, for good. One thread waits in front of it.

    A lock that is taken twice, as in ``Portal.send``; the flag is for the one who is struck by
    Ctrl-C when it has just taken it, and waits again.
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
        while not self._open:
            self._lock.acquire(timeout=SLICE)
