"""A source, and the lane of each of its portals.

Invariants: a registration ends once; a lane never changes its source.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from .errors import Refusal
from .steps import Counters, Once

if TYPE_CHECKING:
    from .places import Places
    from .waiter import Waiter

# Why a registration ends: its last portal was closed, its block was left, or its hub ends.
Retirer: TypeAlias = Literal["portal", "block", "hub"]


class Account(Counters):
    """The fates of the items and requests of all sources that have had one name in a hub.

    It belongs to the name, not to a registration. So no count is moved or added up when a source
    ends or its name is registered again. If a thread counts an item of a source that ends
    meanwhile, it counts it here, before the end and after it. Kept until the hub is gone.
    """

    __slots__ = ("received",)

    def __init__(self) -> None:
        self.received: int = 0  # written in the receiving thread only


class Source:
    """One library's registration: its hooks. Its counts are those of its name."""

    __slots__ = (
        "_retired",
        "_stop",
        "account",
        "decode",
        "ended",
        "kept",
        "lanes",
        "max_buffer_size",
        "name",
        "on_undelivered",
        "portal",
        "stop_timeout",
    )

    def __init__(
        self,
        name: str | None,
        decode: Callable[[Any], Any] | None = None,
        on_undelivered: Callable[[Any], object] | None = None,
        stop_timeout: float = 10.0,
    ) -> None:
        self.name: str | None = name
        self.stop_timeout: float = stop_timeout  # seconds for its ``stop``
        self.decode: Callable[[Any], Any] | None = decode
        self.on_undelivered: Callable[[Any], object] | None = on_undelivered
        self.lanes: dict[Lane, None] = {}  # those of its open portals
        # The lanes that may hold items or waiters: see ``Registry``. (Not for UNREGISTERED.)
        self.kept: dict[Lane, None] = {}
        self.max_buffer_size: float | None = None  # None: it shares the hub's places
        self.portal: Any = None  # the portal that register() returned
        self.account: Account = Account()  # replaced by its name's account at registration
        self.ended: bool = False  # set just before the thread that ends it takes its ``stop``
        self._stop: list[Callable[[], object]] = []  # at most one
        self._retired: Once[list[Retirer]] = Once()

    def set_stop(self, stop: Callable[[], object]) -> None:
        self._stop.append(stop)

    def take_stop(self) -> Callable[[], object] | None:
        """Return the function that stops the library, to the first caller; None to all others."""
        try:
            return self._stop.pop()
        except IndexError:
            return None

    def retire(self, by: Retirer) -> bool:
        """End the registration. True for the first caller only. From any thread."""
        return self._retired.decide([by])

    @property
    def retired(self) -> Retirer | None:
        """Why the registration has ended; None while the source is registered."""
        decision = self._retired.decision
        return None if decision is None else decision[0]


class Lane:
    """The path of one portal into the hub.

    The hub's own portal puts its items into the line as they are: its lane has no ``items``. Every
    other portal keeps its items in its lane. For each item it puts *the lane* into the line: that
    is the item's turn. So the queued items of one portal can be taken back at once, from any
    thread, while the order of acceptance remains that of one line.

    Where the policy is "drop_oldest", ``items`` is a dict that maps tickets to items: see ``line``.
    This holds for the hub's own portal, too.
    """

    __slots__ = ("__weakref__", "inside", "items", "places", "refusal", "source")

    def __init__(
        self, source: Source, items: deque[Any] | dict[Any, Any] | None, places: Places
    ) -> None:
        self.source: Source = source
        self.items: Any = items
        self.places: Places = places  # may be shared with other lanes
        self.refusal: Refusal | None = None  # why this portal accepts nothing any more
        self.inside: dict[Waiter, None] = {}  # the waiters inside calls of this portal


class Root(Lane):
    """The lane of a hub's own portal: its queued items are received, even if it is aborted."""

    __slots__ = ()


# The source of each hub's own portal and its clones. One for all hubs: its account is never read.
UNREGISTERED: Final = Source(None)
