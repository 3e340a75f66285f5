"""The slow path of the quick senders (``_core/sender``), which is also their readable form.

A quick sender calls these functions if its portal is closed, if there is no place, or if it was
called with other arguments. *misplaced* is an argument that the caller has passed by position.
"""

from __future__ import annotations

from .._core.errors import no_room
from .._core.mailbox import Mailbox
from .._core.sender import ABSENT
from .._core.source import Lane
from .._loops.slices import check_timeout
from .waiting import wait_for_place


def put(
    mailbox: Mailbox, lane: Lane, item: object, misplaced: object, timeout: float | None
) -> None:
    if misplaced is not ABSENT:
        raise TypeError(f"send() takes one item; did you mean timeout={misplaced!r}?")
    if timeout is not None:
        timeout = check_timeout(timeout)
    if lane.refusal is not None:
        raise lane.refusal(lane)
    if not lane.places.put(lane, item):
        wait_for_place(mailbox, lane, item, "send", timeout)


def put_nowait(_: Mailbox, lane: Lane, item: object, *more: object) -> None:
    _check_alone("send_nowait", more)
    if lane.refusal is not None:
        raise lane.refusal(lane)
    if not lane.places.put(lane, item):
        raise no_room(lane)


def offer(_: Mailbox, lane: Lane, item: object, *more: object) -> bool:
    _check_alone("offer", more)
    if lane.refusal is not None:
        return False
    try:
        return lane.places.put(lane, item)
    except Exception:  # out of memory, or out of stack: in both cases before it was accepted
        return False


def _check_alone(call: str, more: tuple[object, ...]) -> None:
    if more != (ABSENT, None):
        raise TypeError(f"{call}() takes one item and does not wait; use send() with a timeout")
