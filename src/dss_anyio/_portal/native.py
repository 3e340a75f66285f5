"""Native senders: the queue in C that belongs to a portal, as the program sees it."""

from __future__ import annotations

import math
from typing import Any, final

from .._core.errors import NotCopied, not_open, who
from .._core.inlet import Inlet, Unpack
from .._core.mailbox import Mailbox
from .._core.policies import OVERFLOWS, Overflow, overflow_of
from .._core.source import Lane
from .._native import the_extension

MOST_ITEMS, MOST_BYTES, USUAL = 1 << 24, 1 << 20, 1024


@final
class NativeSender(NotCopied):
    """What ``portal.native_sender()`` returns. You need not keep it: it ends with its portal."""

    def __init__(self, inlet: Inlet, limit: int, item_size: int) -> None:
        self._inlet = inlet
        self._limit = limit
        self._item_size = item_size

    @property
    def address(self) -> int:
        """The address of the ``dss_sender``, for ctypes, cffi and numba. Valid for ever."""
        return self._inlet.ring.address

    @property
    def capsule(self) -> Any:
        """The same in a ``PyCapsule`` named ``DSS_SENDER_CAPSULE``, for extension modules."""
        return self._inlet.ring.capsule

    @property
    def max_buffer_size(self) -> int:
        """How many items may wait in it."""
        return self._limit

    @property
    def item_size(self) -> int:
        """How many bytes an item may have that is copied."""
        return self._item_size

    def __len__(self) -> int:
        """How many items wait in it. From any thread."""
        return self._inlet.ring.count()

    def __bool__(self) -> bool:
        return True  # an empty one is a sender still

    def __repr__(self) -> str:
        lane = self._inlet.lane
        state = "open" if lane.refusal is None else "closed"
        return f"<NativeSender of {who(lane)}: {state}, {len(self)} of {self._limit} queued>"


def open_native(
    mailbox: Mailbox,
    lane: Lane,
    max_buffer_size: int | None,
    item_size: int,
    overflow: Overflow | None,
    unpack: Unpack | None = None,
) -> NativeSender:
    """See ``ForC.native_sender``. *unpack* makes the items of what is in the queue."""
    extension = the_extension()
    check_bound(max_buffer_size, overflow)
    limit = usual_limit(lane, USUAL) if max_buffer_size is None else max_buffer_size
    _check_whole("item_size", item_size, MOST_BYTES)
    policy = _POLICIES[overflow_of(lane.places) if overflow is None else overflow]
    if lane.refusal is not None:
        raise lane.refusal(lane)
    hub = mailbox.home.hub()
    if hub is None:
        raise not_open(mailbox, lane)
    inlets = hub._inlets(extension.Bell)  # of ``Docks``: not for users
    ring = extension.Ring(inlets.bell, limit, item_size, policy)
    home = mailbox.home.thread
    number = getattr(home, "native_id" if extension.NATIVE_IDS else "ident", None)
    if number is not None:
        inlets.bell.set_home(number)
    inlet = inlets.add(lane, ring, unpack, mailbox.line)
    return NativeSender(inlet, limit, item_size)


def check_bound(max_buffer_size: int | None, overflow: Overflow | None) -> None:
    """Raises ValueError if a queue for C cannot have that bound, or that policy."""
    if max_buffer_size == math.inf:
        raise ValueError("max_buffer_size must be a number: a queue for C is bounded")
    if max_buffer_size is not None:
        _check_whole("max_buffer_size", max_buffer_size, MOST_ITEMS)
    if overflow is not None and overflow not in OVERFLOWS:
        raise ValueError(f"overflow must be one of {OVERFLOWS}, not {overflow!r}")


def usual_limit(lane: Lane, most: int) -> int:
    """As many places as *lane* has, but at most *most*."""
    return max(1, int(min(lane.places.limit, most)))


# As ``_native/ring.h`` has them.
_POLICIES: dict[Overflow, int] = {"block": 0, "drop_newest": 1, "drop_oldest": 2}


def _check_whole(what: str, value: object, most: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise ValueError(f"{what} must be an integer, not {value!r}")
    if not 1 <= value <= most:
        raise ValueError(f"{what} must be from 1 to {most}, got {value}")
