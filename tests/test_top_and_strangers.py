"""Whatever a program tells, ``top`` shows the others, in time, and obeys nobody."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from watched import Watched, command, needs_unix_sockets

import dss_anyio as dss
from dss_anyio._tools import asking as _asking
from dss_anyio._tools import tables as _tables
from dss_anyio._tools import top as _top
from dss_anyio.testing import threads

pytestmark = needs_unix_sockets


def test_a_rich_that_lies_in_the_current_folder_is_not_run(
    watched: Callable[[], Watched], runtime: Path
) -> None:
    pytest.importorskip("rich")
    watched().do("dss.serve_statistics()")
    folder = runtime / "folder"
    folder.mkdir()
    (folder / "rich.py").write_text("raise SystemExit('a file of the current folder was run')")
    done = command("top", "--once", runtime=runtime, cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")


def test_who_answers_with_anything_else_is_passed_over(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setattr(tempfile, "tempdir", str(runtime))
    (runtime / "dss_anyio").mkdir(mode=0o700)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as impostor:
        impostor.bind(str(runtime / "dss_anyio" / "1.sock"))
        impostor.listen()

        def answer() -> None:
            for said in (b"nonsense\n", b"[]\n", b'{"hubs"', b""):
                connection, _ = impostor.accept()
                with connection:
                    assert connection.recv(16) == b"\n"
                    connection.sendall(said)

        with threads(answer):
            for _ in range(4):
                assert _top.look_at(_top.find([])) == []


class Strangers:
    """Programs at sockets where those of this user are expected; each says what it was told to."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        self._directory = directory
        self._stack = contextlib.ExitStack()
        self._left = threading.Event()

    def __enter__(self) -> Strangers:  # noqa: PYI034
        return self

    def __exit__(self, *exc: object) -> None:
        self._left.set()
        self._stack.close()

    def say(self, name: str, *chunks: bytes, forever: bytes = b"", every: float = 0) -> Path:
        """Whoever asks gets *chunks*, and then *forever* again and again."""
        listener = self._stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        listener.bind(str(self._directory / f"{name}.sock"))
        listener.listen()
        listener.settimeout(0.05)

        def serve() -> None:
            while not self._left.is_set():
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    continue
                with connection, contextlib.suppress(OSError):
                    for chunk in chunks:
                        connection.sendall(chunk)
                    while forever and not self._left.wait(every):
                        connection.sendall(forever)
                    connection.recv(10)

        self._stack.enter_context(threads(serve))
        return self._directory / f"{name}.sock"


@pytest.fixture
def strangers(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Strangers]:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setattr(tempfile, "tempdir", str(runtime))
    with Strangers(runtime / "dss_anyio") as those:
        yield those


def program(**fields: Any) -> dict[str, Any]:
    return {"pid": 7, "program": ["evil.py"], "time": 1.0, "hubs": [], **fields}


NO_PROGRAM = {
    "no JSON": b"\x1b[2Jhello",
    "no object": b"[1]",
    "no hubs": b"{}",
    "hubs are null": b'{"hubs": null}',
    "hubs are a text": b'{"hubs": "abc"}',
    "a hub is null": b'{"hubs": [null]}',
    "deep nesting": b'{"hubs": [], "x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
    "nesting as deep as it can be read": b'{"hubs": [], "x": ' + b"[" * 960 + b"]" * 960 + b"}",
    "NaN": b'{"hubs": [], "time": NaN}',
    "an infinite number": b'{"hubs": [], "time": 1e999}',
    "a number of a million digits": b'{"hubs": [], "pid": ' + b"9" * 1_000_000 + b"}",
    "no UTF-8": b'{"hubs": [], "x": "\xff"}',
    "too long": b'{"hubs": [], "x": "' + b"x" * _asking.MOST_BYTES + b'"}',
}


@pytest.mark.parametrize("what", NO_PROGRAM)
def test_what_is_no_program_is_passed_over_and_the_others_are_shown(
    strangers: Strangers, what: str
) -> None:
    path = strangers.say("1", NO_PROGRAM[what] + b"\n")
    with dss.open_polled_hub[int](name="ours"), dss.serve_statistics():
        line, answered = _top.as_line([])
        paths = [each["path"] for each in json.loads(line, parse_constant=pytest.fail)["programs"]]
        assert answered == len(paths)
        assert paths in ([str(path.with_name(f"{os.getpid()}.sock"))], [str(path)] + paths[1:])
        assert len(paths) == 1 or what == "nesting as deep as it can be read"


MARKUP = "[red]\x1b[2J\x1b]0;title\x07\x9b2J\u202e[/]"
ANYTHING: dict[str, Any] = {
    "null": None,
    "a text": MARKUP,
    "true": True,
    "negative": -1,
    "huge": 10**19 * 5,
    "a list": [MARKUP],
    "an object": {MARKUP: MARKUP},
    "a list of lists": [[[]]],
}


def hub(**fields: Any) -> dict[str, Any]:
    counts = dict.fromkeys(
        ("id", "received", "current_buffer_used", "max_buffer_size", "wakes", "late", "errors"), 1
    )
    its = {"received": 1, "queued": 1, "dropped": 1, "undelivered": 1}
    waits = {"call": "send", "source": "s", "seconds": 1.0, "thread": 1, "thread_name": "t"}
    whole = {"name": "h", "state": "open", "dropped": 1, "undelivered": 1}
    return {**counts, **whole, "sources": {"s": its}, "blocked": [waits], **fields}


def variants() -> Iterator[dict[str, Any]]:
    """A program with one field missing, or with anything else in its place; at each depth."""

    def without(told: dict[str, Any]) -> Iterator[dict[str, Any]]:
        for name in told:
            yield {key: value for key, value in told.items() if key != name}
            for anything in ANYTHING.values():
                yield {**told, name: anything}

    yield from without(program(hubs=[hub()]))
    for each in without(hub()):
        yield program(hubs=[each])
    [waits], its = hub()["blocked"], hub()["sources"]["s"]
    for each in without(waits):
        yield program(hubs=[hub(blocked=[each])])
    for each in without(its):
        yield program(hubs=[hub(sources={MARKUP: each})])


def test_a_field_may_be_missing_or_be_anything() -> None:
    """Other versions have other fields; and nothing reaches the terminal that it would obey."""
    console = pytest.importorskip("rich.console").Console(width=200, force_terminal=True)
    whole = program(path="here", hubs=[hub()])
    seen = 0
    for told in variants():
        told["path"] = "here"
        for before in ({}, {"here": whole}, {"here": told}):
            with console.capture() as capture:
                console.print(_tables.show([told, whole], before))
            shown = re.sub(r"\x1b\[[0-9;]*m", "", capture.get())  # rich's own bold and italic
            assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", shown), told
            assert shown.count("evil.py (7)") >= 1
            assert "\x1b[31m" not in capture.get()  # no markup has made it red
            seen += 1
    assert seen > 500


def test_a_program_with_a_million_hubs_does_not_hold_up_the_table() -> None:
    console = pytest.importorskip("rich.console").Console(width=200)
    crowd = program(path="here", hubs=[{}] * 1_000_000, program=["x" * 1_000_000])
    with console.capture() as capture:  # a row for each of them would take minutes
        console.print(_tables.show([crowd], {}))
    assert "and more, which --json tells" in capture.get()
    assert len(capture.get()) < 1_000_000


SLOW: dict[str, dict[str, Any]] = {
    "nothing": {},
    "a byte now and then": {"forever": b" ", "every": 0.1},
    "bytes without end": {"forever": b" "},
    "much without end": {"forever": b" " * 65536},
}


@pytest.mark.parametrize("what", SLOW)
def test_the_time_limit_holds_for_the_whole_answer(strangers: Strangers, what: str) -> None:
    for number in range(5):
        strangers.say(str(number), **SLOW[what])
    with dss.serve_statistics():
        begun = time.monotonic()
        [told] = _top.look_at(_top.find([]))
        assert time.monotonic() - begun < _asking.PATIENCE + 2  # together, not one after the other
        assert told["pid"] == os.getpid()


def test_programs_that_are_stopped_do_not_hold_up_a_look_at_the_others(
    watched: Callable[[], Watched], runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.setattr(tempfile, "tempdir", str(runtime))
    programs = [watched() for _ in range(6)]
    for each in programs:
        each.do("dss.serve_statistics()")
    for each in programs[:5]:
        each.process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, each.process.pid, os.WSTOPPED | os.WNOWAIT)
    begun = time.monotonic()
    [told] = _top.look_at(_top.find([]))
    assert time.monotonic() - begun < 2 * _asking.PATIENCE
    assert told["pid"] == programs[5].process.pid
    for each in programs[:5]:
        each.process.send_signal(signal.SIGCONT)
    assert len(_top.look_at(_top.find([]))) == 6


def test_more_programs_than_are_asked_at_once_are_all_asked(strangers: Strangers) -> None:
    with dss.serve_statistics() as served:
        assert len(_top.look_at([served.path] * (2 * _asking.MOST_AT_ONCE))) == (
            2 * _asking.MOST_AT_ONCE
        )


def test_a_program_cannot_claim_to_be_at_another_path(strangers: Strangers) -> None:
    path = strangers.say("1", json.dumps(program(path="/elsewhere")).encode() + b"\n")
    assert [each["path"] for each in _top.look_at(_top.find([]))] == [str(path)]


def test_top_lives_on_whatever_it_is_told(
    strangers: Strangers, watched: Callable[[], Watched], runtime: Path
) -> None:
    pytest.importorskip("rich")
    for number, said in enumerate(NO_PROGRAM.values()):
        strangers.say(str(number), said + b"\n")
    evil = program(hubs=[hub(name=MARKUP, received=MARKUP)])
    strangers.say("100", json.dumps(evil).encode() + b"\n")
    ours = watched()
    ours.do("dss.serve_statistics(); hub = dss.open_polled_hub(name='ours')")
    done = command("top", "--once", "--interval", "0.1", runtime=runtime)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"-c ({ours.process.pid})" in done.stdout
    assert "[red]?[2J" in done.stdout
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", done.stdout)
    done = command("top", "--once", "--json", runtime=runtime)
    assert done.returncode == 0
    assert str(ours.process.pid) in done.stdout
    assert re.fullmatch(r"[ -~]+\n", done.stdout)
