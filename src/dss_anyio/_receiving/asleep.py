"""The sleeping receivers, in the order in which they are woken.

A dict, so that one of many leaves in one step, wherever it stands: thousands of tasks may be
cancelled together. But a dict keeps gaps where entries were removed, and to find its first entry it
looks at all gaps before that. If many entries are taken one by one from the front, that takes
quadratic time. So:

* The first of many comes from a copy of the order, a deque. It may name sleepers that have left;
  they are passed over. A new copy is made when no sleeper of the last one is left. So each sleeper
  is copied once, and passed over once.
* When there are more gaps than twice the number of sleepers, the dict is made anew. So a look at
  the whole dict (to copy it, or to find the first of a few) takes about as many steps as it has
  entries. The removals have paid for making it anew.

All of this runs in the hub's event loop, except for ``len``, which any thread may call.
"""

from __future__ import annotations

from collections import deque
from typing import Final, TypeVar

FEW: Final = 16  # with at most so many sleepers, gaps do not matter

K = TypeVar("K")
V = TypeVar("V")


class Asleep(dict[K, V]):
    """See the head of this file."""

    # Defaults of the class: most hubs never have many sleepers.
    _gaps: int = 0  # gaps that ``remove`` has made; others come only with few sleepers
    _order: deque[K] | None = None

    def first(self) -> K:
        """Return the one that has slept longest. The caller knows that there is one."""
        if len(self) <= FEW:
            return next(iter(self))
        order = self._order
        if order is None:
            order = self._order = deque()
        while True:
            while order:
                if order[0] in self:
                    return order[0]
                order.popleft()
            order.extend(self)

    def first_item(self) -> list[tuple[K, V]]:
        """The same with its value; an empty list if none sleeps."""
        if not self:
            return []
        first = self.first()
        return [(first, self[first])]

    def remove(self, key: K) -> bool:
        """Remove *key*. False if it was not there."""
        if self.pop(key, None) is None:
            return False
        self._gaps += 1
        if self._gaps > FEW + 2 * len(self):
            there = list(self.items())
            self.clear()
            self.update(there)
            self._gaps = 0
            self._order = None  # let go of sleepers that have left
        return True
