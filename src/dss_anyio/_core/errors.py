"""The exceptions that the library raises, and their messages.

The classes are anyio's, because their meanings fit. ``WouldBlock``: full; ``ClosedResourceError``:
this end was closed; ``BrokenResourceError``: the other end is gone. Only the messages are our own:
each names the hub, the source and the remedy. A :data:`Refusal` stands on a lane, where each thread
that wants to send reads it. It makes a new exception for each of these threads, so that no two
threads share a traceback.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from copy import copy
from typing import TYPE_CHECKING, Any, Final, NoReturn, SupportsIndex, TypeAlias, cast

from anyio import BrokenResourceError, ClosedResourceError, EndOfStream, WouldBlock

if TYPE_CHECKING:
    from .books import Books
    from .mailbox import Mailbox
    from .source import Lane

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

# Makes the exception for a thread that wants to send through a closed lane. There is one function
# for each reason why a lane is closed, so the function itself tells the reason.
Refusal: TypeAlias = "Callable[[Lane], Exception]"


class _Raise:
    """The type of ``RAISE``."""

    def __repr__(self) -> str:
        return "RAISE"


RAISE: Final = _Raise()  # stands for "there is no default: raise"


class NoReplyError(Exception):
    """A request ended without an answer: it was forgotten or dropped, or its handler cancelled."""


def twin(exc: BaseException) -> BaseException:
    """Return a copy of *exc*, for a second thread.

    Raising an exception changes it (traceback, context). If two threads raise the same one, or one
    thread reads it while the other raises it, each sees parts that belong to the other. CPython
    3.13 without the GIL crashes then. (The links of a traceback are only read.) If the class cannot
    be copied, or its copy has another class, both threads get the same object.
    """
    try:
        other = copy(exc)
        if type(other) is not type(exc):
            return exc
        other.__cause__, other.__context__ = exc.__cause__, exc.__context__
        other.__suppress_context__ = exc.__suppress_context__
        other.__traceback__ = exc.__traceback__
    except BaseException:  # copying runs code of the user's class
        return exc
    return other


class NotCopied:
    """The base of the objects that threads share: copy, deepcopy and pickle refuse them.

    A copy would have the destructor as well, and would end what the original still uses.
    """

    __slots__ = ()

    def __reduce_ex__(self, protocol: SupportsIndex, /) -> NoReturn:  # all three call this
        kind = type(self).__name__
        raise TypeError(
            f"a {kind} cannot be copied or pickled: it belongs to the threads and the loop of one "
            f"process; hand on the {kind} itself"
        )


def note(exc: BaseException, text: str) -> None:
    """Add *text* as a note to the user's exception *exc*, if CPython can do that (from 3.11)."""
    add_note = getattr(exc, "add_note", None)
    try:
        if add_note is not None:
            add_note(text)
    except BaseException:  # its class may have a method of that name
        pass


def ends_the_program(exc: BaseException) -> bool:
    """Is *exc*, or an exception in this group, meant for the program and not for one caller?"""
    if isinstance(exc, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", exc)
        return any(map(ends_the_program, group.exceptions))
    return isinstance(exc, (KeyboardInterrupt, SystemExit))


def without_a_loops_own(exc: BaseException) -> BaseException | None:
    """Return *exc* without the exceptions by which event loops cancel; None if no others are left.

    An event loop cancels tasks and generators with them, and they must not leave it. All other
    exceptions may, also those that are no ``Exception``: those of pytest's ``fail`` and ``skip``,
    or of a panic in Rust.
    """
    if isinstance(exc, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", exc)
        return group.split(is_a_loops_own)[1]
    return None if is_a_loops_own(exc) else exc


def is_a_loops_own(exc: BaseException) -> bool:
    if isinstance(exc, (asyncio.CancelledError, GeneratorExit)):
        return True
    trio: Any = sys.modules.get("trio")
    return trio is not None and isinstance(exc, trio.Cancelled)


# -- The hub and the source in a message -----------------------------------------------------------
#
# A message is made when its exception is raised, so everything in it is looked up then.


def title(books: Books) -> str:
    """The name in messages of the hub that has these *books*: ``hub 'audio'``, or ``hub-3``.

    The latter is ``hub.name`` of a hub that was opened without a name, so ``repr`` and ``top`` show
    it, too.
    """
    try:
        hub = books.hub
    except AttributeError:
        return "the hub"  # a mailbox without a hub
    return f"hub-{hub}" if type(hub) is int else f"hub {hub!r}"


def name_of(books: Books) -> str:
    """The value of ``hub.name``."""
    hub = books.hub
    return hub if isinstance(hub, str) else f"hub-{hub}"


def hub_of(lane: Lane) -> str:
    return title(lane.places.books)


def named(source: str | None, books: Books) -> str:
    """A source and its hub; if *source* is None (the hub's own portal), the hub alone."""
    return title(books) if source is None else f"source {source!r} in {title(books)}"


def who(lane: Lane) -> str:
    return named(lane.source.name, lane.places.books)


def _from(lane: Lane) -> str:
    name = lane.source.name
    return "" if name is None else f" from source {name!r}"


# -- Why a portal accepts nothing any more ---------------------------------------------------------


def portal_closed(lane: Lane) -> ClosedResourceError:
    return ClosedResourceError(
        f"this portal of {who(lane)} was closed; send through another one (hub.portal, "
        "hub.register(), a clone made before)"
    )


def portal_aborted(lane: Lane) -> ClosedResourceError:
    if lane.source.retired == "block":
        return ClosedResourceError(
            f"{who(lane)} has ended, because its open_source() block was left; let its stop end "
            "the threads that send, or leave the block later"
        )
    goes_back = lane.items is not None and lane.source.on_undelivered is not None
    queued = "its queued items go to on_undelivered; " if goes_back else ""
    return ClosedResourceError(
        f"this portal of {who(lane)} was aborted; {queued}send through another one (hub.portal, "
        "hub.register(), a clone made before)"
    )


def senders_closed(lane: Lane) -> ClosedResourceError:
    return ClosedResourceError(
        f"{hub_of(lane)} takes nothing new{_from(lane)}, because hub.close_senders() was called; "
        "stop the threads that send, or call it later"
    )


def is_graceful(refusal: Refusal) -> bool:
    """Does *refusal* let the items and requests that were accepted before be received still?"""
    return refusal in (portal_closed, senders_closed)


def hub_gone(lane: Lane) -> BrokenResourceError:
    return BrokenResourceError(
        f"{hub_of(lane)} has ended, and takes nothing{_from(lane)} any more; stop the threads that "
        "use it, or open a new hub"
    )


def other_process(lane: Lane) -> BrokenResourceError:
    return BrokenResourceError(
        f"{hub_of(lane)} belongs to the process that opened it, this one was forked, and it takes "
        f"nothing{_from(lane)} here; open a new hub in this process"
    )


# -- Sending and asking ----------------------------------------------------------------------------


def no_room(lane: Lane) -> WouldBlock:
    hub, limit, name = hub_of(lane), lane.places.limit, lane.source.name
    no_room = "" if name is None else f"no room for source {name!r}: "
    if limit == 0:
        its = "its" if lane.source.max_buffer_size is None else "the source's own"
        return WouldBlock(
            f"{no_room}nobody is waiting to receive in {hub}, and {its} max_buffer_size is 0; use "
            "send() to wait"
        )
    if lane.source.max_buffer_size is not None:
        return WouldBlock(
            f"{limit} items of {who(lane)} are queued already; use send() to wait, or offer(), "
            "which returns False, or register it with overflow='drop_oldest' or 'drop_newest'"
        )
    return WouldBlock(
        f"{no_room}{hub} holds {limit} items already; use send() to wait, or offer(), which "
        "returns False, or open the hub with overflow='drop_oldest' or 'drop_newest'"
    )


def no_room_in_time(lane: Lane, timeout: float | None) -> TimeoutError:
    its = "another" if lane.source.max_buffer_size is not None else "an"
    return TimeoutError(
        f"no room within {timeout} s in {hub_of(lane)} for {its} item{_from(lane)}; it was not "
        "accepted"
    )


def no_answer_in_time(lane: Lane, call: str, timeout: float | None) -> TimeoutError:
    return TimeoutError(f"no answer within {timeout} s to {call}() of {who(lane)}; it was given up")


def no_reply(lane: Lane, call: str, why: object) -> NoReplyError:
    """*why* completes the sentence, or is the exception that has left the request's block."""
    if not isinstance(why, BaseException):
        return NoReplyError(f"{call}() of {who(lane)} {why}")
    error = NoReplyError(
        f"{call}() of {who(lane)} got no reply: the block of the request was left with "
        f"{type(why).__name__}"
    )
    error.__cause__ = why
    return error


def would_deadlock(lane: Lane, call: str, in_a_loop: bool) -> RuntimeError:
    instead = ({} if in_a_loop else _INSTEAD_WITHOUT_A_LOOP).get(call) or _INSTEAD[call]
    return RuntimeError(
        f"{call}() would block the very thread it waits for ({who(lane)}); there, {instead}"
    )


_INSTEAD = {
    "send": "use 'await portal.asend(item)', or offer() or send_nowait(), which do not wait",
    "request": "use 'await portal.arequest(item)', or request_soon(), which does not wait",
    "deliver": "deliver without a return function, or call the function that handles the data",
    "call": "call the function itself, or use start_task_soon(), which does not wait",
    "start_task": "use 'await hub.task_group.start(func)'",
    "take": "use take_nowait()",
}
_INSTEAD_WITHOUT_A_LOOP = {
    "send": "use offer() or send_nowait(), which do not wait",
    "request": "use request_soon(), which does not wait, and poll",
}
for _instead in (_INSTEAD, _INSTEAD_WITHOUT_A_LOOP):
    _instead["send_many"] = _instead["send"]
_INSTEAD["call_within"] = _INSTEAD["call"]


# -- Receiving, and the hub itself. The callers have a mailbox, and no lane ------------------------


def receiver_closed(mailbox: Mailbox) -> ClosedResourceError:
    """For a receiving end that has nothing more to give: it was closed, or the hub has ended."""
    hub = title(mailbox.books)
    if mailbox.refusal is other_process:
        return ClosedResourceError(
            f"{hub} belongs to the process that opened it, and this one was forked; open a new hub "
            "in this process"
        )
    if not mailbox.ended:
        return ClosedResourceError(
            f"this receiving end of {hub} was closed; receive from another one (a "
            "clone made before)"
        )
    if mailbox.home.is_polled:
        return ClosedResourceError(f"{hub} was closed; poll it before that, or open a new hub")
    return ClosedResourceError(
        f"{hub} has ended, so nothing is received here any more; start the receiving task in "
        "hub.task_group, which ends with the hub, or call hub.close_senders() and wait until "
        "everything was received before you leave the hub's block"
    )


def nothing_there(mailbox: Mailbox) -> WouldBlock:
    return WouldBlock(f"nothing waits in {title(mailbox.books)}; use receive() to wait")


def no_more(mailbox: Mailbox) -> EndOfStream:
    return EndOfStream(
        f"every portal of {title(mailbox.books)} was closed and everything was received"
    )


def received_elsewhere(mailbox: Mailbox) -> RuntimeError:
    thread = mailbox.home.thread
    where = "" if thread is None else f" in thread {thread.name!r}"
    return RuntimeError(
        f"{title(mailbox.books)} can be received from in its own event loop only{where}; here, "
        "use hub.portal.call(hub.receive), or 'await hub.portal.call_async(hub.receive)' if this "
        "is an event loop, too"
    )


def opened_before(mailbox: Mailbox) -> RuntimeError:
    return RuntimeError(
        f"{title(mailbox.books)} was opened before, and can be opened once only; call "
        "open_hub() again"
    )


def not_open(mailbox: Mailbox, lane: Lane | None = None) -> RuntimeError:
    """For receiving from a hub that is not open; with a *lane*, for a call through that lane."""
    hub = title(mailbox.books)
    call = "" if lane is None else f", so nothing{_from(lane)} can be called"
    if mailbox.ended:
        return RuntimeError(f"{hub} is not open any more{call}; open a new one")
    return RuntimeError(f"{hub} is not open yet{call}; use 'async with dss.open_hub() as hub:'")


def no_event_loop(lane: Lane) -> RuntimeError:
    return RuntimeError(
        f"{hub_of(lane)} is polled and has no event loop, so a call{_from(lane)} can be of a plain "
        "function only; for a coroutine function, open a hub with open_hub() or start_hub()"
    )
