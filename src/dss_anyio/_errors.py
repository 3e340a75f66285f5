"""What the library says when something cannot be done.

The classes are anyio's, because their meaning is: ``WouldBlock`` full, ``ClosedResourceError`` this
end was closed, ``BrokenResourceError`` the other end is gone. What is ours is the wording: each
message names the remedy. A :data:`Refusal` is kept where a thread finds it (on its lane) and makes
a new exception for each thread that runs into it, so that no two threads share a traceback.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from anyio import BrokenResourceError, ClosedResourceError, EndOfStream, WouldBlock

Refusal: TypeAlias = Callable[[], Exception]


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
    return RuntimeError(
        f"{call}() would block the very thread that has to make room; there, use "
        "'await portal.asend(item)', or offer() or send_nowait(), which do not wait"
    )
