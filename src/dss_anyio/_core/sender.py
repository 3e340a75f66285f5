"""The closures that put an item: ``send``, ``send_nowait``, ``offer`` and send callbacks.

Each does what ``Places.put`` does, with everything in cells of its own. On the usual path it calls
no other function of this library: such a call would be half of the price of an item. The argument
is the same, step by step: first a place, then the item, then the look into the bell.

The function in ``bell.armed`` is the receiver's wake. ``_receiving/sleepers`` arms it for a hub in
an event loop (``make_wake``), ``_receiving/alarm`` for a polled hub (``Alarm``); after the end,
``Mailbox.sweep`` puts its own function there.

The body stands here twice, once for our own methods and once for callbacks. A library may call with
any arguments, and a function that accepts any keyword takes a quarter longer for each call; our own
methods need not pay that.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

from .errors import RAISE
from .mailbox import Mailbox
from .source import Lane
from .steps import OUT_OF_MEANS

ABSENT: Final[Any] = object()  # stands for an argument that was not given


def make_sender(
    mailbox: Mailbox,
    lane: Lane,
    otherwise: Callable[[Mailbox, Lane, Any, Any, float | None], Any],
    accepted: object = None,
    failed: object = RAISE,
) -> Callable[..., Any]:
    """Return a function that puts an item through *lane*, and returns *accepted*.

    If the lane is closed, if there is no place, or if there are other arguments, the function calls
    *otherwise* and returns its result. After an error before the item was accepted (out of memory,
    or of stack) it returns *failed*.
    """
    # Few cells: each of them takes time when a sender is made, and again when it is destroyed.
    own, free = lane.items, lane.places.free
    if type(own) is dict:
        return _make_slow_sender(mailbox, lane, otherwise, accepted, failed)
    append, armed = mailbox.line.entries.append, mailbox.bell.armed
    take_place = None if free is None else free.pop

    # CPython 3.11 and later have a quick way to call a function, unless it has parameters for
    # keywords only: then each call takes 50 ns longer. So *timeout* is not one of these, and
    # *misplaced* gets an argument that the caller passes by position.
    def send(item: Any, misplaced: Any = ABSENT, timeout: float | None = None) -> Any:
        if timeout is not None or misplaced is not ABSENT:
            return otherwise(mailbox, lane, item, misplaced, timeout)
        try:
            if lane.refusal is not None:
                return otherwise(mailbox, lane, item, ABSENT, None)
            if take_place is not None:
                try:
                    take_place()
                except IndexError:
                    return otherwise(mailbox, lane, item, ABSENT, None)
            try:
                if own is None:  # see ``Line.put``
                    append(item)
                else:
                    own.append(item)
                    try:
                        append(lane)
                    except MemoryError:
                        mailbox.line.take_out(own, item)
                        raise
                if armed:  # see ``Bell.ring``
                    ring = armed.pop(None, None)
                    if ring is not None:
                        try:
                            ring(mailbox.bell)
                        except OUT_OF_MEANS:
                            armed[None] = ring
            except BaseException as exc:
                lane.places.mishap(lane, exc)
                raise
        except Exception:
            if failed is RAISE:
                raise
            return failed
        return accepted

    return send


def _make_slow_sender(
    mailbox: Mailbox,
    lane: Lane,
    otherwise: Callable[[Mailbox, Lane, Any, Any, float | None], Any],
    accepted: object,
    failed: object,
) -> Callable[..., Any]:
    """The same for a lane whose items need tickets: see ``policies.DropOldest``. No item waits."""
    put = lane.places.put

    def send(item: Any, misplaced: Any = ABSENT, timeout: float | None = None) -> Any:
        if timeout is not None or misplaced is not ABSENT or lane.refusal is not None:
            return otherwise(mailbox, lane, item, misplaced, timeout)
        try:
            put(lane, item)
        except Exception:
            if failed is RAISE:
                raise
            return failed
        return accepted

    return send


class _Seldom(NamedTuple):
    """The objects that a callback needs only in rare cases."""

    mailbox: Mailbox
    pack: Callable[[tuple[Any, ...], dict[str, Any]], Any]
    otherwise: Callable[[Any], object]
    failed: Callable[[BaseException], object]


def make_callback(
    mailbox: Mailbox,
    lane: Lane,
    pack: Callable[[tuple[Any, ...], dict[str, Any]], Any],
    otherwise: Callable[[Any], object],
    failed: Callable[[BaseException], object],
    returns: object = None,
) -> Callable[..., Any]:
    """Return a function for a library: it puts an item through *lane*, and returns *returns*.

    The function never raises. Its one argument is the item. Without an argument, the item is an
    empty tuple; from several, *pack* makes the item. *otherwise* gets the item if there is no
    place, *failed* gets each exception. If the lane is closed, the call is counted as late.
    """
    own, free = lane.items, lane.places.free
    append, armed = mailbox.line.entries.append, mailbox.bell.armed
    take_place = None if free is None else free.pop
    # Few cells: each of them takes a nanosecond of each call. So rarely used objects share one.
    seldom = _Seldom(mailbox, pack, otherwise, failed)
    mailbox.books.counts["late"]  # make it now: a late call may have no stack for that

    def callback(item: Any = (), *more: Any, **named: Any) -> Any:
        if lane.refusal is not None:
            seldom.mailbox.books.counts["late"].add_one()
            return returns
        try:
            if more or named:
                item = seldom.pack((item, *more), named)
            if take_place is not None:
                try:
                    take_place()
                except IndexError:
                    seldom.otherwise(item)
                    return returns
            try:
                if own is None:
                    append(item)
                else:
                    own.append(item)
                    try:
                        append(lane)
                    except MemoryError:
                        seldom.mailbox.line.take_out(own, item)
                        raise
                if armed:
                    ring = armed.pop(None, None)
                    if ring is not None:
                        try:
                            ring(seldom.mailbox.bell)
                        except OUT_OF_MEANS:
                            armed[None] = ring
            except BaseException as exc:
                lane.places.mishap(lane, exc)
                raise
        except BaseException as exc:
            seldom.failed(exc)
        return returns

    return callback
