"""API 1.0: a hub in the shape of DarkSideSync 1.0, for bindings that were written for that.

A binding delivers an item of a registered source; with a function for the answer, it makes a
request. So all promises of a hub hold for it. This file only keeps the books of the functions that
the binding passes with each delivery (see ``delivering``).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from weakref import ref

from anyio import BrokenResourceError, ClosedResourceError

from .._core.errors import NotCopied, portal_aborted, portal_closed, would_deadlock
from .._core.question import Question
from .._hub.base import Face, mailbox_of
from .._portal.portal import Portal
from .delivering import Asked, Delivery, Utility

_CLOSED = (portal_closed, portal_aborted)


class DarkSideSync(NotCopied):
    """The result of ``hub.api("1.0")``. It does not hold the hub. See :class:`dss_anyio.Api1`."""

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

    def __init__(self, hub: Face[Any]) -> None:
        self._mailbox = mailbox_of(hub)
        self._hub = ref(hub)
        self._utilities: dict[object, Utility] = {}  # the registered ones, by libid

    def register(
        self, libid: object, cancel: Callable[[Any], object] | None
    ) -> tuple[object | None, int]:
        if not callable(cancel):
            return None, self.DSS_ERR_NO_CANCEL_PROVIDED
        known, _ = self.getutilid(libid)
        if known is not None:
            return known, self.DSS_ERR_ALREADY_REGISTERED
        hub = self._hub()
        if hub is None or self._mailbox.refusal is not None:
            return None, self.DSS_ERR_NOT_STARTED
        name = libid if isinstance(libid, str) else repr(libid)
        utility = Utility(name, self._mailbox, self._hub)
        try:
            portal: Portal[Any] = hub.register(
                name,
                stop=partial(cancel, utility),
                decode=utility.open,
                on_undelivered=utility.hand_back,
            )
        except ValueError:  # its name is that of another source
            return self.getutilid(libid)[0], self.DSS_ERR_ALREADY_REGISTERED
        except (BrokenResourceError, ClosedResourceError):
            return None, self.DSS_ERR_NOT_STARTED
        except MemoryError:
            return None, self.DSS_ERR_OUT_OF_MEMORY
        utility.settle_in(portal, partial(self._forget, libid, utility))
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
        # ``unregister`` writes that it was called, and *then* takes back the deliveries that it
        # finds. If it has not found this one, we read here that it was called.
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

    # -- the parts of deliver ----------------------------------------------------------------------

    def _deliver_and_wait(self, utility: Utility, asked: Asked, failures: int) -> int:
        mailbox = utility.mailbox
        lane = utility.lane
        if mailbox.home.is_here():
            raise would_deadlock(lane, "deliver", in_a_loop=True)
        question = Question(lane, "deliver", asked.wake, None, lane.source.account)
        asked.question = question
        utility.enter(asked)
        try:
            return self._wait(utility, asked, question, failures)
        finally:
            asked.question = None  # break the reference cycle
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
