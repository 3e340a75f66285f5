"""CPython 3.12 to 3.14 leave some jumps out of the ``try`` around them; none of ours matters.

Where a condition jumps back to the head of a loop, that jump is missing in the exception table
(python/cpython#130279, #108214). A signal is looked for at just that jump. If its handler raises,
no ``finally`` of the same function runs. So a loop on which a ``finally`` depends stands in a
function of its own: what a call raises is always seen by the caller's ``finally``.
"""

from __future__ import annotations

import dis
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

import dss_anyio as dss

# What is left, with the reason why no state of ours depends on it.
HARMLESS = {
    "ShortWay.listen": "trio keeps Ctrl-C away from it",
    "serve": "the task group of a coroutine: what trio or asyncio make of Ctrl-C anywhere in it",
    "serve.<locals>.work": "``serve`` raises it then, as it would have a little later",
}


def codes_in(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            yield from codes_in(const)


def jumps_out_of_a_try(code: types.CodeType) -> Iterator[int | None]:
    """Yield the lines of the loops whose jump back is not in the ``try`` or ``with`` around."""
    bytecodes = [each for each in dis.get_instructions(code) if each.opname != "EXTENDED_ARG"]
    named = {each.offset: each.opname for each in bytecodes}
    table = dis._parse_exception_table(code)  # type: ignore[attr-defined]

    def caught_at(offset: int) -> int | None:
        return next((each.target for each in table if each.start <= offset < each.end), None)

    for index, jump in enumerate(bytecodes):
        if jump.opname != "JUMP_BACKWARD" or jump.positions is None or not jump.positions.lineno:
            continue
        before = index - 1
        while bytecodes[before].opname.startswith(("NOT_TAKEN", "NOP", "POP_JUMP_", "TO_BOOL")):
            before -= 1
        expected = caught_at(bytecodes[before].offset)
        # (The handlers of a whole coroutine, and of a comprehension's variable, begin otherwise.)
        if (
            expected is not None
            and named[expected] == "PUSH_EXC_INFO"
            and caught_at(jump.argval) == expected
            and caught_at(jump.offset) != expected
        ):
            yield jump.positions.lineno


def try_around_a_loop(done: list[str]) -> None:
    try:
        while not done:
            if done:
                print("done")
    finally:
        print("finally")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="the first with a table of exceptions")
def test_no_finally_of_ours_depends_on_the_loop_in_its_try() -> None:
    if not [*jumps_out_of_a_try(try_around_a_loop.__code__)]:
        pytest.skip("this CPython keeps its jumps in the try")
    found: set[str] = set()
    for path in sorted(Path(dss.__file__).parent.rglob("*.py")):
        if path.name != "testing.py" and path.parent.name != "_tools":
            code = compile(path.read_text(encoding="utf-8"), str(path), "exec")
            found |= {each.co_qualname for each in codes_in(code) if [*jumps_out_of_a_try(each)]}
    assert found <= HARMLESS.keys()
