"""What the library says when something cannot be done.

The classes are anyio's, because their meaning is: ``WouldBlock`` full, ``ClosedResourceError`` this
end was closed, ``BrokenResourceError`` the other end is gone. What is ours is the wording: each
message names the hub, the source and the remedy. A :data:`Refusal` is kept where a thread finds it
(on its lane) and makes a new exception for each thread that runs into it, so that no two threads
share a traceback.
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

# Makes the error of one who wants to send through a lane that is closed. Which function it is, is
# the reason.
Refusal: TypeAlias = "Callable[[Lane], Exception]"


class _Raise:
    """The type of ``RAISE``."""

    def __repr__(self) -> str:
        return "RAISE"


RAISE: Final = _Raise()  # a default that is none: raise instead


class NoReplyError(Exception):
    """A request ended without an answer: it was forgotten or dropped, or its handler cancelled."""


def twin(exc: BaseException) -> BaseException:
    """Another one like *exc*, for a second thread to have.

    Raising an exception changes it (traceback, context). If two threads do that, or one reads it
    meanwhile, each has something of the other one's, and CPython 3.13 crashes without the GIL. (The
    links of a traceback are only read.) If the class cannot be copied, or makes something else of
    its copy, both threads get the same object.
    """
    try:
        other = copy(exc)
        if type(other) is not type(exc):
            return exc
        other.__cause__, other.__context__ = exc.__cause__, exc.__context__
        other.__suppress_context__ = exc.__suppress_context__
        other.__traceback__ = exc.__traceback__
    except BaseException:  # how the user's class is copied is code of the user's
        return exc
    return other


class NotCopied:
    """The base of what threads share: copy, deepcopy and pickle refuse it.

    A copy would have a destructor as well, and end what the original still uses.
    """

    __slots__ = ()

    def __reduce_ex__(self, protocol: SupportsIndex, /) -> NoReturn:  # which all three call
        kind = type(self).__name__
        raise TypeError(
            f"a {kind} cannot be copied or pickled: it belongs to the threads and the loop of one "
            f"process; hand on the {kind} itself"
        )


def note(exc: BaseException, text: str) -> None:
    """Add *text* to what is shown of the user's exception *exc*, where CPython can (3.11)."""
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
    """*exc* without that with which event loops cancel tasks and generators; None if it is that.

    None of it may leave its loop. All other exceptions may, also those that are no ``Exception``:
    of pytest's ``fail`` and ``skip``, of a panic in Rust.
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


# -- Who it is about -------------------------------------------------------------------------------
#
# A message is made when it is raised, so all that it needs is looked up then.


def title(books: Books) -> str:
    """What messages call the hub whose *books* these are: ``hub 'audio'``, or ``hub-3``.

    The latter is what ``hub.name`` is if it was given none, so ``repr`` and ``top`` show it, too.
    """
    try:
        hub = books.hub
    except AttributeError:
        return "the hub"  # a mailbox without one
    return f"hub-{hub}" if type(hub) is int else f"hub {hub!r}"


def name_of(books: Books) -> str:
    """What ``hub.name`` is."""
    hub = books.hub
    return hub if isinstance(hub, str) else f"hub-{hub}"


def hub_of(lane: Lane) -> str:
    return title(lane.places.books)


def named(source: str | None, books: Books) -> str:
    """A source and its hub, or the hub alone: for what has come through its own portal."""
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
            "what sends, or leave the block later"
        )
    goes_back = lane.items is not None and lane.source.on_undelivered is not None
    queued = "what it had queued goes to on_undelivered; " if goes_back else ""
    return ClosedResourceError(
        f"this portal of {who(lane)} was aborted; {queued}send through another one (hub.portal, "
        "hub.register(), a clone made before)"
    )


def senders_closed(lane: Lane) -> ClosedResourceError:
    return ClosedResourceError(
        f"{hub_of(lane)} takes nothing new{_from(lane)}, because hub.close_senders() was called; "
        "stop what sends, or call that later"
    )


def is_graceful(refusal: Refusal) -> bool:
    """Is nothing new accepted, but what was accepted before still received and answered?"""
    return refusal in (portal_closed, senders_closed)


def hub_gone(lane: Lane) -> BrokenResourceError:
    return BrokenResourceError(
        f"{hub_of(lane)} has ended, and takes nothing{_from(lane)} any more; stop what uses it, or "
        "open a new hub"
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
            f"{limit} items of {who(lane)} are queued already; use send() to wait, offer() to be "
            "told, or register it with overflow='drop_oldest' or 'drop_newest'"
        )
    return WouldBlock(
        f"{no_room}{hub} holds {limit} items already; use send() to wait, offer() to be told, "
        "or open the hub with overflow='drop_oldest' or 'drop_newest'"
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
    """*why* completes the sentence, or is the exception by which the request's block was left."""
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
    "deliver": "deliver without a return function, or call what handles the data",
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


# -- Receiving, and the hub itself. Who raises these has a mailbox, and no lane --------------------


def receiver_closed(mailbox: Mailbox) -> ClosedResourceError:
    """Why a receiving end has nothing more to give: it was closed, or the hub has ended."""
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
        f"{hub} has ended, so nothing is received here any more; start what receives in "
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
    """Why nothing can be received; or be called, for one who has a *lane*."""
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
