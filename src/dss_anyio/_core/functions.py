"""Check a function that the user passes: can it be called in the place where we call it?

Most of these functions are called where no code can await: in a library's thread, or between two
items. A coroutine function would return a coroutine there that no task runs. Nothing would happen,
apart from a RuntimeWarning at some later time. So we refuse such a function when it is passed.
"""

from __future__ import annotations

from functools import partial
from inspect import isasyncgenfunction, iscoroutinefunction, isfunction, ismethod
from typing import Any


def check_plain(what: str, func: object) -> None:
    """Raise TypeError if *func*, the parameter *what*, is neither a plain function nor None."""
    if func is None:
        return
    if not callable(func):
        raise TypeError(f"{what} must be callable or None, not {func!r}")
    if is_async(func):
        raise TypeError(
            f"{what} must be a plain function, not the coroutine function {func!r}: it is called "
            "where nothing can be awaited"
        )


def is_async(func: Any) -> bool:
    """Does a call of *func* return a coroutine or an asynchronous generator, as far as we can see?

    Looks through partials, bound methods, and objects whose ``__call__`` is such a function.
    """
    while True:
        if isinstance(func, partial):
            func = func.func
        elif ismethod(func):
            func = func.__func__
        elif iscoroutinefunction(func) or isasyncgenfunction(func):
            return True
        else:
            kind: type[Any] = type(func)  # pyright: ignore[reportUnknownVariableType]
            if isfunction(func) or not isfunction(getattr(kind, "__call__", None)):  # noqa: B004  # how it is called, not whether
                return False
            func = kind.__call__
