"""How many items may wait, and what becomes of one for which there is no room."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Literal, NamedTuple, TypeAlias, get_args

Overflow: TypeAlias = Literal["block", "drop_oldest", "drop_newest"]
OVERFLOWS: tuple[Overflow, ...] = get_args(Overflow)

_MOST_PLACES = 1 << 24
FEW_PLACES, MANY_PLACES = 16, 4096  # with more than few and at most many, few are made at first


class Bounds(NamedTuple):
    places: int | None  # to be made at first; None if there is no limit
    later: int  # to be made when these are in use: see ``Mailbox._more_room``
    blocks: bool  # does a sender wait for room, or is something dropped?
    replaces: bool  # is it the oldest item that is dropped?
    # Does an item that leaves the queue give its place back by itself? Not with limit 0, where a
    # place is a receiver that waits (``Mailbox.seat``); not with "drop_oldest", where an entry
    # keeps its place until ``Mailbox._move`` or ``_overflow`` takes both.
    returns_places: bool


def find_bounds(limit: float, overflow: Overflow) -> Bounds:
    """Return what follows from the two.

    :raises ValueError: if *limit* is negative, not whole or too large, or *overflow* is unknown
    """
    if limit != math.inf and not (isinstance(limit, int) and not isinstance(limit, bool)):
        raise ValueError(f"max_buffer_size must be an integer or math.inf, not {limit!r}")
    if limit < 0:
        raise ValueError(f"max_buffer_size must not be negative, got {limit}")
    if _MOST_PLACES < limit < math.inf:
        raise ValueError(
            f"max_buffer_size must be at most {_MOST_PLACES}, because 8 bytes are reserved for "
            f"each place, got {limit}; math.inf sets no limit"
        )
    if overflow not in OVERFLOWS:
        raise ValueError(f"overflow must be one of {OVERFLOWS}, not {overflow!r}")
    places = None if limit == math.inf else int(limit)
    later = 0
    if places is not None and overflow == "block" and FEW_PLACES < places <= MANY_PLACES:
        places, later = FEW_PLACES, places - FEW_PLACES
    finite = 0 < limit < math.inf
    replaces = finite and overflow == "drop_oldest"
    return Bounds(
        places=places,
        later=later,
        blocks=overflow == "block",
        replaces=replaces,
        returns_places=finite and not replaces,
    )


# Programs open many hubs of few kinds. By type, because True is no number of places, and 1 is. It
# raises TypeError if one of the two has no hash.
known_bounds = lru_cache(maxsize=64, typed=True)(find_bounds)
