"""A number that is raised by one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:

    class Ticks:  # a subclass of the real one would be called "count[int]"
        def __next__(self) -> int: ...
else:
    from itertools import count as Ticks  # noqa: N812  # used as a class, as above


class Counter(Ticks):
    """A number that any thread may raise by one, at any bytecode, and any thread may read.

    ``n += 1`` is a read and a write with room for a signal handler between them. ``next()`` of an
    ``itertools.count`` is one step; its ``repr``, ``Counter(5)``, is the only look at it that takes
    nothing out and is not deprecated.
    """

    __slots__ = ()

    if TYPE_CHECKING:

        def add_one(self) -> int: ...
    else:
        add_one = Ticks.__next__

    @property
    def value(self) -> int:
        return int(repr(self)[len("Counter(") : -1])


class Counters(dict[str, Counter]):
    """A counter for each name, from its first use on."""

    __slots__ = ()

    def __missing__(self, name: str) -> Counter:
        return self.setdefault(name, Counter())  # whoever comes second gets the first one's
