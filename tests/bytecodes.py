"""Stop a call before its *n*-th bytecode inside of the library, and do something else there."""

from __future__ import annotations

import dis
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from types import CodeType, FrameType
from typing import Any

import dss_anyio as dss

# These read and write nothing but the frame that runs them, and let go of nothing. (What may free
# an object is not among them: a finalizer could run there.)
OF_ITS_OWN = (
    *("LOAD_FAST", "LOAD_CONST", "LOAD_CLOSURE", "PUSH_NULL", "COPY", "SWAP", "DUP_TOP", "ROT_"),
    *("PRECALL", "KW_NAMES", "RESUME", "NOP", "NOT_TAKEN", "EXTENDED_ARG", "JUMP_", "SETUP_"),
    "POP_BLOCK",
)
# Nothing comes in before these, whatever a trace function can do there: they are not even executed,
# or only for who counts branches (3.14 and later). Where one begins a ``try``, or ends a condition
# in it, it is not in that ``try``.
NOBODY_THERE = {dis.opmap[name] for name in ("NOP", "NOT_TAKEN") if name in dis.opmap}


@cache
def shared(code: CodeType) -> set[int]:
    """Where *code* has bytecodes that may see, or be seen by, somebody else."""
    return {
        each.offset for each in dis.get_instructions(code) if not each.opname.startswith(OF_ITS_OWN)
    }


@contextmanager
def before_bytecode(
    at: int,
    intrude: Callable[[], object],
    only_shared: bool = False,
    inside_of: tuple[str, ...] = ("dss_anyio.",),
) -> Iterator[list[bool]]:
    """Call *intrude* before bytecode number *at* that this thread runs inside of the library.

    Yields a list that is not empty once that has happened. With *only_shared* it counts those only
    before which it makes a difference, if *intrude* does not raise. If it raises, all may differ,
    because it may be outside of a ``try`` or inside. *inside_of* names further modules.
    """
    left = at
    intruded: list[bool] = []

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if not frame.f_globals.get("__name__", "").startswith(inside_of):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and not intruded:
            if frame.f_code.co_code[frame.f_lasti] in NOBODY_THERE:
                return trace
            if only_shared and frame.f_lasti not in shared(frame.f_code):
                return trace
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


def run_interrupted(
    act: Callable[[], object],
    intrude: Callable[[], object],
    at: int,
    only_shared: bool = False,
    inside_of: tuple[str, ...] = ("dss_anyio.",),
) -> bool:
    """Call *act*, and *intrude* before its bytecode number *at*. False if there is no such one."""

    def apart() -> Iterator[object]:
        # If *intrude* raises before the bytecode that ends an ``except``, CPython leaves the error
        # of that block as the one that is being handled, and whatever the thread raises later has
        # it as its context. A generator keeps that state to itself.
        yield act()

    with before_bytecode(at, intrude, only_shared, inside_of) as intruded:
        for _ in apart():
            pass
    return bool(intruded)


# On CPython 3.12 the first trace of a process yields no opcodes.
run_interrupted(lambda: dss.open_polled_hub[int]().close(), int, 0)
