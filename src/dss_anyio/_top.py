"""``python -m dss_anyio top``: the hubs of running programs, as they tell of themselves.

What a program tells is not trusted further than to be shown: it is read within a time and a size,
and of its names only what can be printed is.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from collections.abc import Iterable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeAlias, cast

from ._place import check_directory, check_platform, directories

if TYPE_CHECKING:
    from rich.console import RenderableType

Program: TypeAlias = dict[str, Any]

PATIENCE = 2.0  # seconds for a program to answer: its thread may have to wait for the GIL
MOST_BYTES = 1 << 26

# Those that are zero as long as all goes well; a column of zeros is left out.
COUNTS = {"lost": "dropped", "back": "undelivered", "late": "late", "errors": "errors"}

NOBODY = (
    "No program of this user can be watched. It has to call dss_anyio.serve_statistics() once, "
    "anywhere; then it is seen here."
)
NONE_OF_THEM = (
    "None of these answers: {}. Each has to call dss_anyio.serve_statistics() once, as this user. "
    "Without a name, whoever answers is shown."
)


def watch(named: list[str], interval: float, once: bool, as_json: bool) -> int:
    """Look at the programs that are *named*, or at all, until Ctrl-C; *once* has an exit code."""
    check_platform()
    if not as_json and find_spec("rich") is None:
        raise RuntimeError(
            "the tables are drawn by rich: pip install 'dss_anyio[top]'. "
            "With --json nothing needs to be installed"
        )
    if once:
        programs = look_at(find(named))
        if as_json:
            print(json.dumps({"programs": programs}), flush=True)
        elif programs:
            _print(show(programs, {}))
        if not programs:
            print(nobody(named), file=sys.stderr)
        return 0 if programs else 1
    if as_json:
        while True:
            print(json.dumps({"programs": look_at(find(named))}), flush=True)
            time.sleep(interval)
    _watch_live(named, interval)


def find(named: list[str]) -> list[Path]:
    """The sockets of the programs that are *named*, by pid or path; without names, of all."""
    own: list[Path] = []
    for directory in directories():
        if directory.is_dir():
            check_directory(directory)
            own.append(directory)
    paths: list[Path] = []
    for name in named:
        if name.isdecimal():
            paths.extend(directory / f"{name}.sock" for directory in own)
        else:
            paths.append(Path(name))
    return paths if named else [path for each in own for path in sorted(each.glob("*.sock"))]


def look_at(paths: Iterable[Path]) -> list[Program]:
    """What the programs at *paths* tell; nothing of those that do not answer."""
    programs = [ask(path) for path in paths]
    return [program for program in programs if program is not None]


def nobody(named: list[str]) -> str:
    """What there is to say if nobody answers."""
    return NONE_OF_THEM.format(", ".join(named)) if named else NOBODY


def ask(path: Path) -> Program | None:
    """What the program at *path* tells of itself. None if it has gone, or tells nothing."""
    deadline = time.monotonic() + PATIENCE
    received = bytearray()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.settimeout(PATIENCE)
            while True:
                try:
                    connection.connect(str(path))
                    break
                except BlockingIOError:  # many others are connecting
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)
            connection.sendall(b"\n")
            while not received.endswith(b"\n") and len(received) < MOST_BYTES:
                connection.settimeout(max(0.001, deadline - time.monotonic()))
                chunk = connection.recv(1 << 16)
                if not chunk:
                    return None
                received += chunk
            told: object = json.loads(received)
        except (OSError, ValueError):
            return None
    if not isinstance(told, dict) or "hubs" not in told:
        return None
    return {"path": str(path), **cast("Program", told)}


# -- As tables -------------------------------------------------------------------------------------


def _watch_live(named: list[str], interval: float) -> NoReturn:
    from rich.console import Console
    from rich.live import Live

    console = Console()
    before: dict[str, Program] = {}
    # Without a terminal, one table after the other.
    with Live(
        console=console, screen=console.is_terminal, auto_refresh=False, transient=True
    ) as live:
        while True:
            programs = look_at(find(named))
            shown = show(programs, before) if programs else printable(nobody(named))
            if console.is_terminal:
                live.update(shown, refresh=True)
            else:
                console.print(shown)
            before = {program["path"]: program for program in programs}
            time.sleep(interval)


def _print(shown: RenderableType) -> None:
    from rich.console import Console

    Console().print(shown)


def show(programs: list[Program], before: dict[str, Program]) -> RenderableType:
    """Two tables: the hubs with their sources, and who is blocked in them."""
    from rich import box
    from rich.console import Group
    from rich.table import Table

    # A number is never cut or folded, a name may be: it has what the numbers leave of 80 columns.
    table = partial(Table, box=box.SIMPLE_HEAD, show_edge=False, title_justify="left")
    hubs = table(title="hubs", padding=0)
    hubs.add_column("", overflow="fold")
    counts = {short: count for short, count in COUNTS.items() if any_of(programs, count)}
    for short in ("items/s", "recv", "queued", "of", *counts, "wakes/s"):
        hubs.add_column(short, justify="right", no_wrap=True)
    blocked = table(title="blocked", padding=(0, 1, 0, 0))
    for name in ("program", "hub", "thread", "call", "source"):
        blocked.add_column(name, overflow="fold")
    blocked.add_column("seconds", justify="right", no_wrap=True)

    for program in programs:
        earlier = before.get(program["path"], {})
        seconds = program["time"] - earlier.get("time", program["time"])
        known = {hub["id"]: hub for hub in earlier.get("hubs", ())}
        title = printable(f"{name_of(program)} ({program['pid']})")
        hubs.add_row(title if program["hubs"] else title + ": no hub is open")
        for hub in program["hubs"]:
            last = known.get(hub["id"], {})
            name = hub["name"] if hub["state"] == "open" else f"{hub['name']}: {hub['state']}"
            hubs.add_row(
                printable(f"  {name}"),
                rate(hub, last, "received", seconds),
                *(str(hub[count]) for count in ("received", "current_buffer_used")),
                "∞" if hub["max_buffer_size"] is None else str(hub["max_buffer_size"]),
                *(str(hub[count]) for count in counts.values()),
                rate(hub, last, "wakes", seconds),
            )
            for source, its in hub["sources"].items():
                hubs.add_row(
                    printable(f"    {source}"),
                    rate(its, last.get("sources", {}).get(source, {}), "received", seconds),
                    *(str(its[count]) for count in ("received", "queued")),
                    "",
                    *(str(its.get(count, "")) for count in counts.values()),
                )
            for each in hub["blocked"]:
                blocked.add_row(
                    title,
                    printable(hub["name"]),
                    printable(each["thread_name"] or each["thread"]),
                    printable(each["call"]),
                    printable(each["source"] or ""),
                    f"{each['seconds']:.1f}",
                )
    return Group(hubs, "", blocked) if blocked.rows else Group(hubs)


def any_of(programs: list[Program], count: str) -> bool:
    """Has one of the hubs something to tell there?"""
    return any(hub[count] for program in programs for hub in program["hubs"])


def name_of(program: Program) -> str:
    """As it was started: of ``python -m package`` Python tells only which file that is."""
    path = Path(*program["program"])
    return path.parent.name or path.name if path.name == "__main__.py" else path.name


def rate(now: dict[str, Any], before: dict[str, Any], count: str, seconds: float) -> str:
    """By how much *count* has grown per second; nothing if it was not seen before."""
    grown = now[count] - before.get(count, now[count] + 1)
    if seconds <= 0 or grown < 0:  # less than before: another one has its name now
        return ""
    return f"{grown / seconds:.0f}" if grown >= 10 * seconds else f"{grown / seconds:.1f}"


def printable(text: object) -> Any:
    """*text* as it is to be shown: without what a terminal, or rich, would take for a command."""
    from rich.text import Text

    return Text("".join(each if each.isprintable() else "?" for each in str(text)))
