"""A source, and the lane of each of its portals.

Invariants: a registration ends once; a lane belongs to one source for good.
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

# What ends a registration: its last portal was closed, its block was left, or its hub ends.
Retirer: TypeAlias = Literal["portal", "block", "hub"]


class Account(Counters):
    """What became of the items and the requests of all sources that have had one name in a hub.

    It belongs to the name, not to a registration, so nothing is moved or added up when a source
    ends or its name is registered again: whoever counts something of a source that ends meanwhile,
    in whichever thread, counts it here, before and afterwards. It is kept until the hub is gone.
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
        # Those that may hold items, or somebody who waits: see ``Registry``. (Not of UNREGISTERED.)
        self.kept: dict[Lane, None] = {}
        self.max_buffer_size: float | None = None  # None: it shares the hub's places
        self.portal: Any = None  # what register() returned
        self.account: Account = Account()  # that of its name, before it is registered
        self.ended: bool = False  # set just before the thread that ends it takes its ``stop``
        self._stop: list[Callable[[], object]] = []  # at most one
        self._retired: Once[list[Retirer]] = Once()

    def set_stop(self, stop: Callable[[], object]) -> None:
        self._stop.append(stop)

    def take_stop(self) -> Callable[[], object] | None:
        """Return the function that tells the library to stop; to the first caller only."""
        try:
            return self._stop.pop()
        except IndexError:
            return None

    def retire(self, by: Retirer) -> bool:
        """End the registration. True for the first caller, in whichever thread."""
        return self._retired.decide([by])

    @property
    def retired(self) -> Retirer | None:
        """What has ended the registration; None while it is registered."""
        decision = self._retired.decision
        return None if decision is None else decision[0]


class Lane:
    """The way of one portal into the hub.

    The hub's own portal puts its items into the line as they are: its lane has no ``items``. Every
    other portal keeps its items in its lane, and for each of them puts *the lane* into the line:
    that is the item's turn. So what one portal has queued can be taken back at once, from any
    thread, while the order of acceptance remains that of one line.

    Where the policy is "drop_oldest", ``items`` is a dict, from the tickets of the items: see
    ``line``. Also for the hub's own portal.
    """

    __slots__ = ("__weakref__", "inside", "items", "places", "refusal", "source")

    def __init__(
        self, source: Source, items: deque[Any] | dict[Any, Any] | None, places: Places
    ) -> None:
        self.source: Source = source
        self.items: Any = items
        self.places: Places = places  # may be shared with other lanes
        self.refusal: Refusal | None = None  # why this portal accepts nothing any more
        self.inside: dict[Waiter, None] = {}  # who waits inside a call of this portal


class Root(Lane):
    """The way of a hub's own portal: what it has queued is received, even if it is aborted."""

    __slots__ = ()


# What a hub's own portal and its clones belong to. One for all hubs: nobody reads its account.
UNREGISTERED: Final = Source(None)
