"""The registry: the open lanes, the registered sources, and the end of the stream.

Invariants: a lane that refuses never accepts again; the stream has ended when no lane is open any
more, and only then.

A thread that opens a lane enters it, and *then* reads whether all lanes are refused. A thread that
refuses all lanes writes that, and *then* copies the open lanes. Both act on the list of lanes in
one step, so no lane stays open by accident. It is the same for the lanes of one source that ends.

The hub and the source keep a lane as long as it may hold items or waiters. Afterwards, as long as
another object refers to the lane, ``queued`` still looks at it. For a sender may have read that the
lane is open, and was held up since: it may put an item even now.
"""

from __future__ import annotations

import threading
from collections import deque
from weakref import ref

from .bell import Bell
from .errors import Refusal, portal_aborted
from .inside import Inside
from .places import Places
from .source import UNREGISTERED, Lane, Source
from .steps import do_all

_FEW = 16  # lanes that are kept before ``_tidy`` looks which of them can go


class Registry:
    """The lanes and the sources of one hub."""

    __slots__ = (
        "_bell",
        "_forgotten",
        "_inside",
        "_tidy_at",
        "ended",
        "lanes",
        "open_lanes",
        "refusal",
        "sources",
        "stopping",
    )

    def __init__(self, bell: Bell, inside: Inside, root: Lane) -> None:
        self._bell = bell
        self._inside = inside
        self.refusal: Refusal | None = None  # why all lanes are refused
        self.ended: bool = False  # True once nothing is received any more
        self.open_lanes: dict[Lane, bool] = {root: True}
        self.lanes: dict[
            Lane, None
        ] = {}  # all lanes that may hold items, but for the one of the hub's own portal
        self._tidy_at = _FEW
        self._forgotten: dict[ref[Lane], None] = {}
        self.sources: dict[str, Source] = {}  # the registered ones, oldest first
        self.stopping: dict[Source, threading.Event] = {}  # sources that end alone, right now

    # -- lanes -------------------------------------------------------------------------------------

    def open_lane(self, source: Source, places: Places) -> Lane:
        """Open a lane. It is closed at once if the hub has ended, or its senders were closed."""
        lane = self.keep_lane(source, places)
        if source is not UNREGISTERED:
            source.lanes[lane] = None
        self.open_lanes[lane] = True
        if self.refusal is not None:
            self.refuse(lane, self.refusal)
        return lane

    def keep_lane(self, source: Source, places: Places) -> Lane:
        """Make a lane that is not open. Its items are received or handed back as those of others.

        It keeps neither the source registered nor the stream from its end, and only the end of the
        source refuses it. So a thread that sends through it looks at an open lane first.
        """
        lane = Lane(source, {} if places.tickets else deque(), places)
        if len(self.lanes) >= self._tidy_at:
            self._tidy()
        self.lanes[lane] = None
        if source is not UNREGISTERED:
            source.kept[lane] = None
        return lane

    def _tidy(self) -> None:
        """Forget lanes that are closed and empty. This looks at all lanes, so it is done rarely."""
        forgotten = self._forgotten

        def is_gone(known: ref[Lane]) -> None:
            forgotten.pop(known, None)

        for lane in list(self.lanes):
            if lane.refusal is not None and not lane.items and not lane.inside:
                forgotten[ref(lane, is_gone)] = None  # in this order: see ``queued``
                self.lanes.pop(lane, None)
                lane.source.kept.pop(lane, None)
        self._tidy_at = 2 * len(self.lanes) + _FEW

    def bound_of(self, name: str) -> float | None:
        """Return the source's own bound, if *name* is registered and has one. From any thread."""
        source = self.sources.get(name)
        return None if source is None else source.max_buffer_size

    def queued(self) -> dict[str | None, int]:
        """How many items of each source wait to be received, by name. From any thread.

        A lane with an item in it is in one of two lists. ``_tidy`` enters it in the second list
        before it takes it out of the first. We copy the first list first, so we find the lane. If
        its item is put only now, the sender refers to the lane, and afterwards the item's turn
        does. (Under None are the clones of the hub's own portal. The items of that portal itself
        are not counted here.)
        """
        lanes = self.lanes.copy()  # in one step; a lane that is in both lists has one entry here
        for known in list(self._forgotten):
            lane = known()
            if lane is not None:
                lanes[lane] = None
        counts: dict[str | None, int] = {}
        for lane in lanes:
            if lane.items:
                counts[lane.source.name] = counts.get(lane.source.name, 0) + len(lane.items)
        return counts

    def lanes_of(self, source: Source) -> list[Lane]:
        """The lanes of *source* that may hold items or waiters, closed lanes included."""
        return list(source.kept)

    def close_lane(self, lane: Lane, refusal: Refusal) -> None:
        """Send nothing more through *lane*, and release its waiters. Idempotent.

        If it was the last lane of its source, the source is no longer registered.
        """
        source = lane.source
        try:
            self.refuse(lane, refusal)
        finally:
            source.lanes.pop(lane, None)
            if (
                source.name is not None
                and not source.lanes
                and not self.ended
                and source.retire("portal")
            ):
                self.sources.pop(source.name, None)
                source.portal = None
                # A clone that is made just now enters its lane before it reads ``retired``. So we
                # find its lane here, or it reads that the source is retired.
                for other in list(source.lanes):
                    self.refuse(other, refusal)

    def refuse(self, lane: Lane, refusal: Refusal) -> None:
        if lane.refusal is None:
            lane.refusal = refusal
        try:
            self._inside.refuse(lane, refusal)
        finally:  # a callback of an asker's future may have raised; that stops nothing
            # Take the lane out last: the end of the hub looks into ``open_lanes``, and completes
            # a refusal that Ctrl-C has cut short.
            if self.open_lanes.pop(lane, False) and not self.open_lanes:
                self._bell.ring()  # the receiver has to see the end of the stream

    # -- the end -----------------------------------------------------------------------------------

    def refuse_all(self, refusal: Refusal) -> None:
        """Refuse all lanes, and release all waiters. Idempotent."""
        if not self.ended:
            self.refusal = refusal
        do_all(lambda lane: self.refuse(lane, refusal), list(self.open_lanes))

    def release(self, source: Source) -> None:
        """End *source* alone: close its portals, and release the waiters in them.

        An asker may wait for its answer after its portal was closed, so it is not enough to look
        at the open lanes.
        """
        do_all(lambda lane: self.close_lane(lane, portal_aborted), self.lanes_of(source))

    def end(self, refusal: Refusal) -> None:
        """As ``refuse_all``, and nothing is received any more. Idempotent."""
        if not self.ended:
            self.refusal = refusal
            self.ended = True
        # ``refuse`` for all lanes at once; and for the askers that wait for an answer after their
        # portal was closed.
        for lane in [*self.open_lanes]:
            if lane.refusal is None:
                lane.refusal = refusal
        try:
            self._inside.refuse(None, refusal)
        finally:
            if self.open_lanes:
                # A lane that is being opened just now reads ``refusal``, and refuses itself.
                self.open_lanes.clear()
                self._bell.ring()
