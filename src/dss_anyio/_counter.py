"""A number that is raised by one."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count


class Counter:
    """A number that any thread may raise by one, at any bytecode, and any thread may read.

    ``n += 1`` is a read and a write with room for a signal handler between them. ``next()`` of an
    ``itertools.count`` is one step; its ``repr``, ``count(5)``, is the only look at it that takes
    nothing out and is not deprecated.
    """

    __slots__ = ("_ticks", "add_one")

    def __init__(self) -> None:
        self._ticks = count()
        self.add_one: Callable[[], int] = self._ticks.__next__

    @property
    def value(self) -> int:
        return int(repr(self._ticks)[len("count(") : -1])
