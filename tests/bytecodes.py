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
    *("PRECALL", "KW_NAMES", "RESUME", "NOP", "EXTENDED_ARG", "JUMP_", "SETUP_", "POP_BLOCK"),
)
NOP = dis.opmap["NOP"]


@cache
def shared(code: CodeType) -> set[int]:
    """Where *code* has bytecodes that may see, or be seen by, somebody else."""
    return {
        each.offset for each in dis.get_instructions(code) if not each.opname.startswith(OF_ITS_OWN)
    }


@contextmanager
def before_bytecode(
    at: int, intrude: Callable[[], object], only_shared: bool = False
) -> Iterator[list[bool]]:
    """Call *intrude* before bytecode number *at* that this thread runs inside of the library.

    Yields a list that is not empty once that has happened. With *only_shared* it counts those only
    before which it makes a difference, if *intrude* does not raise. If it raises, all may differ,
    because it may be outside of a ``try`` or inside.
    """
    left = at
    intruded: list[bool] = []

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal left
        if not frame.f_globals.get("__name__", "").startswith("dss_anyio."):
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and not intruded:
            if frame.f_code.co_code[frame.f_lasti] == NOP:
                return trace  # nothing comes in there; and where it begins a "try", it is not in it
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
    act: Callable[[], object], intrude: Callable[[], object], at: int, only_shared: bool = False
) -> bool:
    """Call *act*, and *intrude* before its bytecode number *at*. False if there is no such one."""
    with before_bytecode(at, intrude, only_shared) as intruded:
        act()
    return bool(intruded)


# On CPython 3.12 the first trace of a process yields no opcodes.
run_interrupted(lambda: dss.open_polled_hub[int]().close(), int, 0)
