"""Functions of the user's, as they are given to us: is it one that can be called where we call it?

Most of them are called where nothing can be awaited: in a library's thread, or between two items. A
coroutine function would return a coroutine there that nobody runs, and nothing would happen, with
no more than a RuntimeWarning at some later time. So it is refused when it is given to us.
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
    """Does a call of *func* return a coroutine, or an asynchronous generator, for all we can see?

    Through partials, bound methods, and objects whose ``__call__`` is such a function.
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
