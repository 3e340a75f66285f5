"""Those who sleep, in the order in which they are woken.

A dict, so that one of many leaves at once, wherever it stands: thousands of tasks may be cancelled
together. But a dict keeps gaps where entries were removed, and to find its first entry it looks at
all gaps before that. If each of many is taken as the first, that is quadratic. So:

* The first of a crowd comes from a copy of the order, a deque. It may name some that have left;
  they are passed over. A new copy is made when nobody of the last one is left. So each is copied
  once, and passed over once.
* When there are more gaps than twice those who sleep, the dict is made anew. So each look at the
  whole of it (a copy, or the first of a few) takes as many steps as entries are there, and a
  removal pays for what that takes.

All of this is in the hub's event loop, except for ``len``, which may be asked by any thread.
"""

from __future__ import annotations

from collections import deque
from typing import Final, TypeVar

FEW: Final = 16  # those whose gaps do not matter

K = TypeVar("K")
V = TypeVar("V")


class Asleep(dict[K, V]):
    """See the head of this file."""

    # Defaults of the class: most hubs never have a crowd.
    _gaps: int = 0  # those of ``remove``; with a few, others do not matter
    _order: deque[K] | None = None

    def first(self) -> K:
        """Return the one who has slept longest. There is one."""
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
        """The same with its value; an empty list if nobody sleeps."""
        if not self:
            return []
        first = self.first()
        return [(first, self[first])]

    def remove(self, key: K) -> bool:
        """*key* sleeps no longer. False if it did not."""
        if self.pop(key, None) is None:
            return False
        self._gaps += 1
        if self._gaps > FEW + 2 * len(self):
            there = list(self.items())
            self.clear()
            self.update(there)
            self._gaps = 0
            self._order = None  # let go of those who have left
        return True
