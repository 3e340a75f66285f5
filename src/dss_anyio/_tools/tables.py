"""The state of the hubs of other programs, as tables.

We rely on no field: a field may be missing or be of any type, because the program may be of another
version or be hostile. A value that should be a number and is none is shown as "?". Of a text only
the printable characters are shown, so that the terminal, or rich, gets no commands from it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from .asking import Program

if TYPE_CHECKING:
    from rich.console import RenderableType

MOST_ROWS = 1000  # of a program, in each of the tables
MOST_CHARACTERS = 200  # of a text

# Counts that stay 0 as long as all goes well; a column of zeros is left out.
COUNTS = {"lost": "dropped", "back": "undelivered", "late": "late", "errors": "errors"}


def show(programs: list[Program], before: dict[str, Program]) -> RenderableType:
    """Two tables: the hubs with their sources, and the calls that are blocked in them.

    *before* has the answers to the look before, by path; rates are since then.
    """
    from rich import box
    from rich.console import Group
    from rich.table import Table

    # A number is never cut or folded. A name may be: it gets the rest of the 80 columns.
    table = partial(Table, box=box.SIMPLE_HEAD, show_edge=False, title_justify="left")
    hubs = table(title="hubs", padding=0)
    hubs.add_column("", overflow="fold")
    counts = {short: count for short, count in COUNTS.items() if any_of(programs, count)}
    losing = any(_is_losing(program, before) for program in programs)
    rates = ("lost/s", "wakes/s") if losing else ("wakes/s",)
    for short in ("items/s", "recv", "queued", "of", *counts, *rates):
        hubs.add_column(short, justify="right", no_wrap=True)
    blocked = table(title="blocked", padding=(0, 1, 0, 0))
    for name in ("program", "hub", "thread", "call", "source"):
        blocked.add_column(name, overflow="fold")
    blocked.add_column("seconds", justify="right", no_wrap=True)

    for program in programs:
        title = f"{name_of(program)} ({_count(program, 'pid')})"
        hubs.add_row(printable(title if _hubs(program) else title + ": no hub is open"))
        _add(hubs, _rows(program, before, [*counts.values()], losing))
        _add(blocked, ([title, *row] for row in _blocked(program)))
    return Group(hubs, "", blocked) if blocked.rows else Group(hubs)


def _add(table: Any, rows: Iterator[list[str]]) -> None:
    for row in islice(rows, MOST_ROWS):
        table.add_row(*map(printable, row))
    if next(rows, None) is not None:
        table.add_row(printable("  and more, which --json tells"))


def _rows(
    program: Program, before: dict[str, Program], counts: list[str], losing: bool
) -> Iterator[list[str]]:
    for hub, last, seconds in _moments(program, before):
        state = _text(hub.get("state"))
        name = _text(hub.get("name"))
        yield [
            f"  {name}" if state == "open" else f"  {name}: {state}",
            rate(hub, last, "received", seconds),
            _count(hub, "received"),
            _count(hub, "current_buffer_used"),
            _limit(hub),
            *(_count(hub, count) for count in counts),
            *([rate(hub, last, "dropped", seconds)] if losing else []),
            rate(hub, last, "wakes", seconds),
        ]
        for name, its, before_that in _sources(hub, last):
            yield [
                f"    {name}",
                rate(its, before_that, "received", seconds),
                _count(its, "received"),
                _count(its, "queued"),
                _limit(its) if "max_buffer_size" in its else "",
                *(_count(its, count) if count in its else "" for count in counts),
                *([rate(its, before_that, "dropped", seconds)] if losing else []),
            ]
        earlier = _dict(last.get("feeds"))
        for name, each in _dict(hub.get("feeds")).items():
            its, before_that = _dict(each), _dict(earlier.get(name))
            missed = _number(its, "underruns")
            yield [
                f"    {name}: feed" + (f", missed {missed}" if missed else ""),
                rate(its, before_that, "taken", seconds),
                _count(its, "taken"),
                _count(its, "queued"),
                _limit(its),
            ]


def _sources(
    hub: dict[str, Any], last: dict[str, Any]
) -> Iterator[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Each registered source, with its last numbers; then the ended sources, as one."""
    earlier = _dict(last.get("sources"))
    ended: list[dict[str, Any]] = []
    for name, each in _dict(hub.get("sources")).items():
        its = _dict(each)
        if its.get("registered") is False:
            ended.append(its)
        else:
            yield name, its, _dict(earlier.get(name))
    if ended:
        counts = ("received", "queued", "dropped", "undelivered")
        yield (
            f"{len(ended)} ended",
            {count: sum(_number(its, count) or 0 for its in ended) for count in counts},
            {},
        )


def _blocked(program: Program) -> Iterator[list[str]]:
    for hub in _hubs(program):
        for each in _dicts(hub.get("blocked")):
            seconds = _number(each, "seconds")
            yield [
                _text(hub.get("name")),
                _text(each.get("thread_name")) or _count(each, "thread"),
                _text(each.get("call")),
                _text(each.get("source")),
                "?" if seconds is None else f"{seconds:.1f}",
            ]


def _moments(
    program: Program, before: dict[str, Program]
) -> Iterator[tuple[dict[str, Any], dict[str, Any], float]]:
    """Each hub, its last numbers, and how many seconds ago they were taken."""
    earlier = before.get(program["path"], {})
    now, then = _number(program, "time"), _number(earlier, "time")
    seconds = 0.0 if now is None or then is None else now - then
    known = {_count(hub, "id"): hub for hub in _hubs(earlier)}
    for hub in _hubs(program):
        yield hub, known.get(_count(hub, "id"), {}), seconds


def _is_losing(program: Program, before: dict[str, Program]) -> bool:
    return any(
        (_number(hub, "dropped") or 0) > (_number(last, "dropped") or 0)
        for hub, last, seconds in _moments(program, before)
        if last and seconds > 0
    )


def any_of(programs: list[Program], count: str) -> bool:
    """Is *count* more than 0 in one of the hubs?"""
    return any(_number(hub, count) for each in programs for hub in _hubs(each))


def name_of(program: Program) -> str:
    """The name of the program. For ``python -m package`` Python tells only the path of the file."""
    path = Path(*map(_text, _list(program.get("program"))[:1]))
    return path.parent.name or path.name if path.name == "__main__.py" else path.name


def rate(now: dict[str, Any], before: dict[str, Any], count: str, seconds: float) -> str:
    """By how much *count* has grown per second; nothing if it was not seen before."""
    last, this = _number(before, count), _number(now, count)
    if last is None or this is None or this < last or seconds <= 0:
        return ""  # a smaller number than before is that of another hub or source
    grown = this - last
    return f"{grown / seconds:.0f}" if grown >= 10 * seconds else f"{grown / seconds:.1f}"


# -- Reading the fields of an answer ---------------------------------------------------------------


def _number(told: dict[str, Any], name: str) -> float | None:
    value = told.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if 0 <= value < 1 << 64 else None  # a NaN fails this test


def _count(told: dict[str, Any], name: str) -> str:
    value = _number(told, name)
    return "?" if value is None else str(value)


def _limit(told: dict[str, Any]) -> str:
    return "∞" if told.get("max_buffer_size", 0) is None else _count(told, "max_buffer_size")


def _text(value: object) -> str:
    return value[: MOST_CHARACTERS + 1] if isinstance(value, str) else "" if value is None else "?"


def _dict(value: object) -> dict[str, Any]:
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _dicts(value: object) -> list[dict[str, Any]]:
    return [each for each in _list(value) if isinstance(each, dict)]


def _hubs(program: Program) -> list[dict[str, Any]]:
    return _dicts(_list(program.get("hubs"))[: MOST_ROWS + 1])


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []  # pyright: ignore[reportUnknownVariableType]


def printable(text: str, at_most: int = MOST_CHARACTERS) -> Any:
    """*text* without characters that a terminal, or rich, would take for a command."""
    from rich.text import Text

    if len(text) > at_most:
        text = text[:at_most] + "…"
    return Text("".join(each if each.isprintable() else "?" for each in text))
