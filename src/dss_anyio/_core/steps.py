"""The steps: the atomic operations that the whole core is built on.

A step is atomic: no other thread, no signal handler and no finalizer sees it half done. No sender
and no receiver takes a lock here; every argument is about the order of steps.

These are steps (the assumptions):

* One call of a method of ``deque``, ``dict`` or ``list`` that runs no Python code on the way. With
  the GIL, because nothing else runs meanwhile; without it, because the method holds the object's
  own mutex (PEP 703, "Container Thread-Safety"). All steps on one object have an order, and what a
  thread wrote before its step is visible to every thread whose step on that object comes later. A
  plain read (an attribute, a truth test) has no such power; it is used only after such a step.
* ``next()`` of an ``itertools.count`` (without the GIL as well, since CPython 3.13).

Each step that removes one object returns it, so no destructor runs inside of it. (``clear``, and to
overwrite an entry, do run destructors; they stand only where that does no harm.) ``n += 1`` is no
step: it reads, and then it writes.

A signal handler may *raise* between two bytecodes of this library (Ctrl-C in the main thread). Then
the item or the place that the interrupted code has just taken may be lost. No thread waits for it
beyond the end of the hub.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, Generic, TypeVar

if TYPE_CHECKING:

    class Ticks:  # a subclass of the real one would be called "count[int]"
        def __next__(self) -> int: ...
else:
    from itertools import count as Ticks  # noqa: N812  # used as a class, as above

T = TypeVar("T")

# Items, and errors to report, are handled in turns. A turn is measured by their number and by the
# time that they take. Between two turns the event loop runs, or a poll ends.
TURN: Final = 128
IN_TURN: Final = 16  # items of the line, then as many of the inlets, while both have some
TURN_SECONDS: Final = 0.00025

# How many nested calls the stack must have room for before an operation that must not stop
# half-way. In this order: put an item; put the item of a waiting sender, and wake that sender; put
# an item and drop another one.
A_LITTLE_STACK, STACK_TO_ADMIT, ENOUGH_STACK = 3, 8, 12
OUT_OF_MEANS: Final = (MemoryError, RecursionError)


def reach(depth: int) -> None:
    """Raise RecursionError if the stack has no room for *depth* nested calls. Changes nothing.

    >>> reach(3)
    """
    if depth > 3:
        reach(depth - 1)
    else:
        _three()


def _three() -> None:
    _two()


def _two() -> None:
    one_call()


def one_call() -> None:
    """Do nothing; or raise RecursionError now, if there is no stack for one call."""


def do_all(func: Callable[[T], object], values: Iterable[T]) -> None:
    """Call *func* with each of *values*, even if a call raises; then raise the first exception.

    For work that must reach every value, and may run the user's code on the way: the callback of a
    future may raise SystemExit.
    """
    struck: BaseException | None = None
    for value in values:
        try:
            func(value)
        except BaseException as exc:
            struck = exc if struck is None else struck
    if struck is not None:
        try:
            raise struck
        finally:
            del struck  # it refers to this frame


class Once(dict[None, T], Generic[T]):
    """A decision that is made once: the first value counts, and stays.

    ``dict.setdefault`` decides and remembers in the same step, so of two threads that decide
    differently one learns that it was second.
    """

    __slots__ = ()

    def decide(self, value: T) -> bool:
        """Decide on *value* if nothing was decided before. Return whether *value* is the decision.

        From any thread; never waits.
        """
        return self.setdefault(None, value) is value

    @property
    def decision(self) -> T | None:
        """The value that was decided on; None before that."""
        return self.get(None)


class Counter(Ticks):
    """A number that any thread may raise by one, at any bytecode, and any thread may read.

    ``next()`` of an ``itertools.count`` is one step. Its ``repr``, ``Counter(5)``, is the only way
    to read it that neither advances it nor is deprecated.
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
    """A counter for each name, made when that name is first used."""

    __slots__ = ()

    def value_of(self, name: str) -> int:
        """The count under *name*. Unlike ``self[name].value``, this makes no counter."""
        counter = self.get(name)
        return 0 if counter is None else counter.value

    def __missing__(self, name: str) -> Counter:
        return self.setdefault(name, Counter())  # two threads that make one get the same
