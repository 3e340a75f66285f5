"""Stop a call before its *n*-th bytecode inside of the library, and do something else there."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import dss_anyio as dss


@contextmanager
def before_bytecode(at: int, intrude: Callable[[], object]) -> Iterator[list[bool]]:
    """Call *intrude* before bytecode number *at* that this thread runs inside of the library.

    Yields a list that is not empty once that has happened.
    """
    left = at
    intruded: list[bool] = []

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if not frame.f_globals.get("__name__", "").startswith("dss_anyio."):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and not intruded:
            if not left:
                intruded.append(True)
                sys.settrace(None)
                intrude()
            left -= 1
        return trace

    before = sys.gettrace()
    gc.disable()  # or an earlier hub's end would be traced, wherever a collection hits
    sys.settrace(trace)
    try:
        yield intruded
    finally:
        sys.settrace(before)
        gc.enable()


def run_interrupted(act: Callable[[], object], intrude: Callable[[], object], at: int) -> bool:
    """Call *act*, and *intrude* before its bytecode number *at*. False if there is no such one."""
    with before_bytecode(at, intrude) as intruded:
        act()
    return bool(intruded)


# On CPython 3.12 the first trace of a process yields no opcodes.
run_interrupted(lambda: dss.open_polled_hub[int]().close(), int, 0)
