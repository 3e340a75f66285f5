"""``python -m dss_anyio top`` looks at programs, whatever they tell."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from watched import (
    HUBS,
    SRC,
    Watched,
    command,
    needs_unix_sockets,
)

from dss_anyio._tools import tables as _tables

pytestmark = needs_unix_sockets


def test_the_help_is_plain_text(runtime: Path) -> None:
    for arguments in ([], ["top"], ["doctor"]):
        done = command(*arguments, "--help", runtime=runtime)
        assert (done.returncode, done.stderr) == (0, "")
        assert "`" not in done.stdout
    assert "Takes two seconds." in done.stdout


def test_top_draws_tables_of_the_hubs_and_of_those_who_wait(
    watched: Callable[[], Watched], runtime: Path
) -> None:
    pytest.importorskip("rich")
    program = watched()
    program.do("dss.serve_statistics()")
    program.do(HUBS)
    done = command("top", "--once", runtime=runtime)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines()]
    title = ["-c", f"({program.process.pid})"]
    assert ["items/s", "recv", "queued", "of", "lost", "wakes/s"] in rows  # all others are zero
    assert title in rows
    assert ["on", "asyncio", "2", "2", "4", "0"] in rows
    assert ["meter", "2", "1", "0"] in rows
    assert ["on", "trio", "0", "2", "2", "3"] in rows
    assert ["polled?[2J", "0", "1", "1", "0"] in rows
    assert any([*title, "polled?[2J", "shutter", "send", "camera"] == row[:6] for row in rows)
    assert "\x1b" not in done.stdout


def test_top_shows_sources_that_have_ended_in_one_row_and_each_feed(
    watched: Callable[[], Watched], runtime: Path
) -> None:
    pytest.importorskip("rich")
    program = watched()
    program.do("dss.serve_statistics(); hub = dss.open_polled_hub(64, name='hub')")
    program.do("meter = hub.register('meter'); meter.send_many([1, 2])")
    program.do("ended = [hub.register(name) for name in 'abc']")
    program.do("[(portal.send(1), portal.close()) for portal in ended]")
    program.do("hub.poll(4); feed = hub.open_feed(4, name='speaker'); other = hub.open_feed(9)")
    program.do("[feed.send_nowait(n) for n in range(3)]; feed.take_nowait(); other.take_nowait(0)")
    done = command("top", "--once", runtime=runtime)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [line.split() for line in done.stdout.splitlines()]
    assert ["hub", "4", "1", "64"] in rows
    assert ["meter", "2", "0"] in rows
    assert ["3", "ended", "2", "1"] in rows
    assert not any(row[:1] == ["a"] for row in rows)
    assert ["speaker:", "feed", "1", "2", "4"] in rows
    assert ["feed-1:", "feed,", "missed", "1", "0", "0", "9"] in rows
    # By name they are there for programs to read.
    told = json.loads(command("top", "--once", "--json", runtime=runtime).stdout)
    [hub] = told["programs"][0]["hubs"]
    assert [hub["sources"][name]["registered"] for name in ("meter", "a")] == [True, False]
    assert hub["sources"]["a"]["received"] + hub["sources"]["c"]["queued"] == 2
    assert hub["feeds"]["speaker"] == {
        "queued": 2,
        "max_buffer_size": 4,
        "taken": 1,
        "underruns": 0,
        "overruns": 0,
    }


def test_a_terminal_of_80_columns_cuts_no_number() -> None:
    rich = pytest.importorskip("rich.console")
    counts = {"received": 1234567890, "dropped": 98765432, "undelivered": 1023}
    camera = {**counts, "queued": 987}
    waits = {"call": "send", "source": "the camera of the hall", "seconds": 86399.9}
    hub = {
        "id": 1,
        "name": "the hub of the house",
        "state": "senders closed",
        **counts,
        "current_buffer_used": 1021,
        "max_buffer_size": 1024,
        "late": 345,
        "errors": 678,
        "wakes": 456789,
        "sources": {waits["source"]: camera},
        "blocked": [{**waits, "thread": 1, "thread_name": "the thread of the shutter"}],
    }
    program = {"path": "here", "program": ["service.py"], "pid": 4194304, "time": 11.0}
    before = {**hub, "received": 1234567890 - 654321, "wakes": 0}
    shown = _tables.show(
        [{**program, "hubs": [hub]}], {"here": {**program, "time": 10.0, "hubs": [before]}}
    )
    console = rich.Console(width=80)
    with console.capture() as capture:
        console.print(shown)
    lines = capture.get().splitlines()
    assert max(len(line) for line in lines) <= 80
    whole = [re.findall(r"\d[\d.]*", line) for line in lines]
    numbers = ["654321", "1234567890", "1021", "1024", "98765432", "1023", "345", "678", "456789"]
    assert numbers in whole
    assert ["0.0", "1234567890", "987", "98765432", "1023"] in whole
    assert ["86399.9"] in whole
    assert whole.count(["4194304"]) == 2  # in each of the tables


@pytest.mark.parametrize(
    ("started", "shown"),
    [
        (["/home/me/service.py"], "service.py"),
        (["/home/me/package/__main__.py"], "package"),  # python -m package
        (["/home/me/package/tool/__main__.py"], "tool"),
        (["__main__.py"], "__main__.py"),
        (["-c"], "-c"),
        ([], ""),
    ],
)
def test_a_program_is_shown_as_it_was_started(started: list[str], shown: str) -> None:
    assert _tables.name_of({"program": started}) == shown


def test_top_draws_its_tables_where_there_is_nothing_but_ascii(
    watched: Callable[[], Watched], runtime: Path
) -> None:
    pytest.importorskip("rich")
    program = watched()
    program.do("dss.serve_statistics(); hub = dss.open_polled_hub(float('inf'), name='endless')")
    done = command("top", "--once", runtime=runtime, env={"PYTHONIOENCODING": "ascii"})
    assert (done.returncode, done.stderr) == (0, "")
    assert re.search(r"endless\W+0\W+0\W+\?", done.stdout)


def test_top_looks_at_the_programs_that_are_named(
    watched: Callable[[], Watched], runtime: Path
) -> None:
    one, two = watched(), watched()
    for each in (one, two):
        each.do("dss.serve_statistics()")
    pids = [one.process.pid, two.process.pid]
    for names, expected in (
        ([], sorted(pids, key=str)),
        ([str(two.path), str(one.process.pid)], pids[::-1]),
    ):
        done = command("top", "--once", "--json", *names, runtime=runtime)
        assert [each["pid"] for each in json.loads(done.stdout)["programs"]] == expected


def test_top_tells_what_to_call_if_nobody_can_be_watched(runtime: Path) -> None:
    done = command("top", "--once", "--json", runtime=runtime)
    assert json.loads(done.stdout) == {"programs": []}
    assert "No program of this user" in done.stderr
    assert "has to call dss_anyio.serve_statistics()" in done.stderr
    assert done.returncode == 1


def test_top_names_those_who_do_not_answer_although_another_one_would(
    watched: Callable[[], Watched], runtime: Path
) -> None:
    watched().do("dss.serve_statistics()")
    nowhere = str(runtime / "nowhere.sock")
    done = command("top", "--once", "--json", "999999999", nowhere, runtime=runtime)
    assert json.loads(done.stdout) == {"programs": []}
    assert f"None of these answers: 999999999, {nowhere}." in done.stderr
    assert "No program" not in done.stderr
    assert done.returncode == 1


def test_top_tells_the_rates_between_two_looks_and_goes_on_after_the_program(
    watched: Callable[[], Watched], runtime: Path
) -> None:
    pytest.importorskip("rich")
    program = watched()
    program.do("dss.serve_statistics(); hub = dss.open_polled_hub(name='fast')")
    watcher = subprocess.Popen(
        [sys.executable, "-m", "dss_anyio", "top", "--interval", "0.05"],
        env={
            **os.environ,
            "PYTHONPATH": SRC,
            "XDG_RUNTIME_DIR": str(runtime),
            "TMPDIR": str(runtime),
            "COLUMNS": "150",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    with watcher:
        try:
            assert watcher.stdout is not None

            def line(pattern: str) -> str:
                return next(line for line in watcher.stdout or () if re.search(pattern, line))

            assert line(r" fast ").split()[1:3] == ["0", "0"]  # nothing to compare with: no rate
            program.do("hub.portal.send_many(range(1000)); hub.poll()")
            after = line(r" fast +[1-9]").split()
            assert 0 < float(after[1]) <= 1000 / 0.05
            assert after[2] == "1000"
            assert program.leave() == 0
            line("No program of this user")
            line("No program of this user")
            watcher.send_signal(signal.SIGINT)
            _, errors = watcher.communicate(timeout=20)
        finally:
            watcher.kill()
    assert errors == ""
    assert watcher.returncode == 0


def test_drops_of_the_moment_are_told_when_there_are_any(
    watched: Callable[[], Watched], runtime: Path
) -> None:
    pytest.importorskip("rich")
    program = watched()
    program.do("dss.serve_statistics(); hub = dss.open_polled_hub(1, overflow='drop_oldest')")
    program.do("meter = hub.register('meter'); meter.send_many(range(11))")  # long ago
    done = command("top", "--once", "--interval", "0.1", runtime=runtime)
    assert "lost/s" not in done.stdout
    program.do(
        "end = threading.Event(); losing = threading.Thread(target=lambda: "
        "[meter.send(1) for _ in iter(end.is_set, True)]); losing.start()"
    )
    done = command("top", "--once", "--interval", "0.1", runtime=runtime)
    program.do("end.set(); losing.join()")
    header, *rows = (line.split() for line in done.stdout.splitlines())
    while "lost/s" not in header:
        header, *rows = rows
    assert header == ["items/s", "recv", "queued", "of", "lost", "lost/s", "wakes/s"]
    [meter] = [row for row in rows if row[:1] == ["meter"]]
    assert float(meter[-1]) > 0


@pytest.mark.parametrize(
    ("before", "now", "seconds", "shown"),
    [
        (10, 30, 0.5, "40"),
        (10, 13, 2.0, "1.5"),
        (10, 10, 1.0, "0.0"),
        (10, 9, 1.0, ""),  # another hub, or another source, has its place now
        (None, 9, 1.0, ""),
        (10, 30, 0.0, ""),
    ],
)
def test_a_rate_is_what_came_between_two_looks(
    before: int | None, now: int, seconds: float, shown: str
) -> None:
    earlier = {} if before is None else {"wakes": before}
    assert _tables.rate({"wakes": now}, earlier, "wakes", seconds) == shown


@pytest.mark.skipif(sys.platform == "win32", reason="there is no pty")
def test_top_has_a_screen_of_its_own_in_a_terminal_and_leaves_it_at_ctrl_c(
    watched: Callable[[], Watched], runtime: Path
) -> None:
    pytest.importorskip("rich")
    import pty

    program = watched()
    program.do("dss.serve_statistics(); hub = dss.open_polled_hub(name='live')")
    ours, theirs = pty.openpty()
    watcher = subprocess.Popen(
        [sys.executable, "-m", "dss_anyio", "top", "--interval", "0.05"],
        env={
            **os.environ,
            "PYTHONPATH": SRC,
            "XDG_RUNTIME_DIR": str(runtime),
            "TERM": "xterm",
            "COLUMNS": "150",
            "LINES": "30",
        },
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = b""

    def show_until(what: bytes) -> None:
        nonlocal shown
        while what not in shown:
            assert select.select([ours], [], [], 20)[0], shown
            shown += os.read(ours, 65536)

    try:
        show_until(b"live")
        assert shown.index(b"\x1b[?1049h") < shown.index(b"live")  # the other screen
        watcher.send_signal(signal.SIGINT)
        show_until(b"\x1b[?1049l")
        assert watcher.wait(20) == 0
        assert b"Traceback" not in shown
    finally:
        watcher.kill()
        watcher.wait()
        os.close(ours)


def test_top_as_json_prints_a_line_for_each_look_until_nobody_reads(
    watched: Callable[[], Watched], runtime: Path
) -> None:
    program = watched()
    program.do("dss.serve_statistics()")
    with subprocess.Popen(
        [sys.executable, "-m", "dss_anyio", "top", "--json", "--interval", "0.01"],
        env={**os.environ, "PYTHONPATH": SRC, "XDG_RUNTIME_DIR": str(runtime)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watcher:
        try:
            assert watcher.stdout is not None
            assert watcher.stderr is not None
            for _ in range(3):
                [told] = json.loads(watcher.stdout.readline())["programs"]
                assert told["pid"] == program.process.pid
            watcher.stdout.close()
            assert watcher.wait(20) == 0
            assert watcher.stderr.read() == ""
        finally:
            watcher.kill()


def test_top_once_as_json_needs_nothing_but_the_standard_library(
    watched: Callable[[], Watched], runtime: Path, bare: dict[str, Any]
) -> None:
    program = watched()
    program.do("dss.serve_statistics()")
    done = command("top", "--once", "--json", runtime=runtime, **bare)
    assert done.stderr == ""
    [told] = json.loads(done.stdout)["programs"]
    assert told["pid"] == program.process.pid


def test_without_rich_top_names_the_extra(runtime: Path, bare: dict[str, Any]) -> None:
    done = command("top", runtime=runtime, **bare)
    assert (done.returncode, done.stdout) == (2, "")
    assert "pip install 'rich>=13'" in done.stderr
    assert "pip install '.[top]'" in done.stderr
