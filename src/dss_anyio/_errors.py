"""What the library says when something cannot be done.

The classes are anyio's, because their meaning is: ``WouldBlock`` full, ``ClosedResourceError`` this
end was closed, ``BrokenResourceError`` the other end is gone. What is ours is the wording: each
message names the remedy. A :data:`Refusal` is kept where a thread finds it (on its lane) and makes
a new exception for each thread that runs into it, so that no two threads share a traceback.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Final, TypeAlias

from anyio import BrokenResourceError, ClosedResourceError, EndOfStream, WouldBlock

Refusal: TypeAlias = Callable[[], Exception]


class _Raise:
    """The type of ``RAISE``."""

    def __repr__(self) -> str:
        return "RAISE"


RAISE: Final = _Raise()  # a default that is none: raise instead


class NoReplyError(Exception):
    """The request ended without an answer: it was thrown away, or its handler has ended."""


def twin(exc: BaseException) -> BaseException:
    """Another one like *exc*, for a second thread to have.

    Who raises an exception writes where it came by into it. If two threads do that, or one looks
    meanwhile, each has something of the other one's, and CPython 3.13 crashes without the GIL. (The
    links of a traceback are only read.) One whose class cannot be copied is what both get.
    """
    try:
        other = copy(exc)
    except Exception:
        return exc
    other.__cause__, other.__context__ = exc.__cause__, exc.__context__
    other.__suppress_context__ = exc.__suppress_context__
    return other.with_traceback(exc.__traceback__)


def portal_closed() -> ClosedResourceError:
    return ClosedResourceError(
        "this portal was closed; send through another one (hub.portal, hub.register(), a clone)"
    )


def portal_aborted() -> ClosedResourceError:
    return ClosedResourceError(
        "this portal was aborted; what it had queued went back to on_undelivered"
    )


def senders_closed() -> ClosedResourceError:
    return ClosedResourceError(
        "hub.close_senders() was called: the hub takes nothing new; stop the library that sends"
    )


def is_graceful(refusal: Refusal) -> bool:
    """Is nothing new accepted, but what was accepted before still received and answered?"""
    return refusal in (portal_closed, senders_closed)


def hub_gone() -> BrokenResourceError:
    return BrokenResourceError(
        "the hub has ended, nobody will receive this; stop what sends, or open a new hub"
    )


def other_process() -> BrokenResourceError:
    return BrokenResourceError(
        "the hub belongs to the process that opened it, this one was forked; open a new hub here"
    )


def receiver_closed() -> ClosedResourceError:
    return ClosedResourceError("this end of the hub was closed; receive from a clone made before")


def no_room(limit: float) -> WouldBlock:
    if limit == 0:
        return WouldBlock(
            "nobody is waiting to receive and max_buffer_size is 0; use send() to wait"
        )
    return WouldBlock(
        f"the hub holds {limit} items already; use send() to wait, offer() to be told, "
        "or open the hub with overflow='drop_oldest' or 'drop_newest'"
    )


def nothing_there() -> WouldBlock:
    return WouldBlock("nothing has been sent; use receive() to wait")


def no_more() -> EndOfStream:
    return EndOfStream("every portal was closed and everything was received")


def would_deadlock(call: str) -> RuntimeError:
    return RuntimeError(f"{call}() would block the very thread it waits for; {_INSTEAD[call]}")


_INSTEAD = {
    "send": "there, use 'await portal.asend(item)', or offer() or send_nowait(), which do not wait",
    "request": "there, use 'await portal.arequest(item)', or request_soon(), which does not wait",
    "deliver": "there, deliver without a return function, or call what handles the data",
    "call": "there, call the function itself, or use start_task_soon(), which does not wait",
    "start_task": "there, use 'await hub.task_group.start(func)'",
    "take": "there, use take_nowait()",
}
_INSTEAD["send_many"] = _INSTEAD["send"]


def not_open() -> RuntimeError:
    return RuntimeError("the hub is not open; use 'async with dss.open_hub() as hub:'")


def no_event_loop() -> RuntimeError:
    return RuntimeError(
        "a polled hub has no event loop, so it can call a plain function only; "
        "for a coroutine function, open a hub with open_hub() or start_hub()"
    )
