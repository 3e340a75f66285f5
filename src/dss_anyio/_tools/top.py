"""``python -m dss_anyio top``: the hubs of running programs, as they tell of themselves."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from .asking import Program, ask
from .homes import directories, passed_over
from .place import check_platform
from .tables import printable, show

if TYPE_CHECKING:
    from rich.console import RenderableType

RICH = "rich>=13"  # as in pyproject.toml

NOBODY = (
    "No program of this user can be watched. It has to call dss_anyio.serve_statistics() once, "
    "anywhere; then it is seen here."
)
NONE_OF_THEM = (
    "None of these answers: {}. Each has to call dss_anyio.serve_statistics() once, as this user. "
    "Without a name, all programs that answer are shown."
)


def watch(named: list[str], interval: float | None, once: bool, as_json: bool) -> int:
    """Look at the programs that are *named*, or at all, until Ctrl-C; with *once*, only once.

    *interval* is the number of seconds between two looks. If it is given, *once* looks twice, and
    the tables have the rates of that time. Returns the exit code.
    """
    check_platform()
    if not as_json and find_spec("rich") is None:
        raise RuntimeError(
            f"the tables are drawn by rich: pip install '{RICH}' (in a clone of the repository of "
            "dss_anyio, pip install '.[top]' does the same). With --json nothing needs to be "
            "installed"
        )
    if once:
        return _watch_once(named, interval, as_json)
    if as_json:
        while True:
            print(as_line(named)[0], flush=True)
            time.sleep(interval or 1.0)
    _watch_live(named, interval or 1.0)


def _watch_once(named: list[str], interval: float | None, as_json: bool) -> int:
    if as_json:
        line, answered = as_line(named)
        print(line, flush=True)
    else:
        before: dict[str, Program] = {}
        if interval is not None:
            before = {program["path"]: program for program in look_at(find(named))}
            time.sleep(interval)
        programs = look_at(find(named))
        answered = len(programs)
        if answered:
            _print(show(programs, before))
    if answered:
        return 0
    print(nobody(named), file=sys.stderr)
    return 2 if passed_over() and not directories() else 1


def as_line(named: list[str]) -> tuple[str, int]:
    """A line of JSON of the programs that are *named*, or of all; and how many there are."""
    told = ask(find(named))
    return f'{{"programs": [{", ".join(each.text for each in told)}]}}', len(told)


def find(named: list[str]) -> list[Path]:
    """The sockets of the programs that are *named*, by pid or path; without names, of all."""
    own = directories()
    paths: list[Path] = []
    for name in named:
        if name.isdecimal():
            paths.extend(directory / f"{name}.sock" for directory in own)
        else:
            paths.append(Path(name))
    return paths if named else [path for each in own for path in sorted(each.glob("*.sock"))]


def look_at(paths: Iterable[Path]) -> list[Program]:
    """The answers of the programs at *paths*. Silent programs have none."""
    return [each.program for each in ask(paths)]


def nobody(named: list[str]) -> str:
    """The message if no program answers."""
    what = NONE_OF_THEM.format(", ".join(named)) if named else NOBODY
    return " ".join([what, *(f"Passed over: {each}." for each in passed_over())])


def _watch_live(named: list[str], interval: float) -> NoReturn:
    from rich.console import Console
    from rich.live import Live

    console = Console()
    before: dict[str, Program] = {}
    # Without a terminal, print one table after the other.
    with Live(
        console=console, screen=console.is_terminal, auto_refresh=False, transient=True
    ) as live:
        while True:
            programs = look_at(find(named))
            shown = show(programs, before) if programs else printable(nobody(named), 2000)
            if console.is_terminal:
                live.update(shown, refresh=True)
            else:
                console.print(shown)
            before = {program["path"]: program for program in programs}
            time.sleep(interval)


def _print(shown: RenderableType) -> None:
    from rich.console import Console

    Console().print(shown)
