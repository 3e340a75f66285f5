"""Where the sockets of watched programs are, if nobody says where."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from watched import NOBODY, Watched, as_root, ask, command, needs_unix_sockets

import dss_anyio as dss
from dss_anyio._tools import top as _top

# Before a program becomes somebody else, who may not be able to read where Python is.
LAST_IMPORTS = "import json, tempfile, dss_anyio._tools.telling, dss_anyio._tools.top"

pytestmark = needs_unix_sockets


def test_without_a_runtime_directory_it_is_in_a_directory_for_the_user(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime / "missing"))
    monkeypatch.setattr(tempfile, "tempdir", str(runtime))
    with dss.serve_statistics() as served:
        assert served.path == runtime / f"dss_anyio-{os.geteuid()}" / f"{os.getpid()}.sock"
        assert stat.S_IMODE(served.path.parent.stat().st_mode) == 0o700


@as_root
def test_the_runtime_directory_of_somebody_else_is_passed_over(
    runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = runtime / "theirs"
    theirs.mkdir(mode=0o700)
    os.chown(theirs, NOBODY, NOBODY)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(theirs))
    monkeypatch.setattr(tempfile, "tempdir", str(runtime))
    with dss.serve_statistics() as served:
        assert served.path.parent == runtime / "dss_anyio-0"
    assert list(theirs.iterdir()) == []


SQUATTERS = {
    "a directory": "os.mkdir(name, 0o700)",
    "a directory for all": "os.mkdir(name); os.chmod(name, 0o777)",
    "a file": "open(name, 'w').close()",
    "a link": "os.symlink('/root', name)",
}


@as_root
@pytest.mark.parametrize("squatter", SQUATTERS)
def test_nobody_else_can_keep_a_program_from_being_watched(
    runtime: Path, watched: Callable[[], Watched], squatter: str
) -> None:
    """Without $XDG_RUNTIME_DIR the directory is where everybody may write."""
    runtime.chmod(0o1777)
    squat = f"import os; os.setuid({NOBODY}); name = 'dss_anyio-0'; {SQUATTERS[squatter]}"
    subprocess.run([sys.executable, "-c", squat], cwd=runtime, check=True, timeout=20)
    programs = [watched(), watched()]
    for each in programs:
        each.do("del os.environ['XDG_RUNTIME_DIR']; served = dss.serve_statistics()")
    made = [each for each in runtime.iterdir() if each.name.startswith("dss_anyio-0-")]
    assert [stat.S_IMODE(each.stat().st_mode) for each in made] == [0o700]
    done = command("top", "--once", "--json", runtime=runtime, env={"XDG_RUNTIME_DIR": ""})
    found = {each["pid"] for each in json.loads(done.stdout)["programs"]}
    assert found == {each.process.pid for each in programs}
    assert done.returncode == 0


@as_root
def test_a_name_that_somebody_else_has_taken_does_not_switch_top_off(
    runtime: Path, watched: Callable[[], Watched]
) -> None:
    (runtime / "dss_anyio-0").mkdir(mode=0o700)
    os.chown(runtime / "dss_anyio-0", NOBODY, NOBODY)
    program = watched()
    program.do("dss.serve_statistics()")  # in $XDG_RUNTIME_DIR
    done = command("top", "--once", "--json", runtime=runtime)
    assert [each["pid"] for each in json.loads(done.stdout)["programs"]] == [program.process.pid]
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("bad", ["relative", "", "missing", "a file", "a file/below"])
def test_a_runtime_directory_that_is_none_is_passed_over(
    runtime: Path, monkeypatch: pytest.MonkeyPatch, bad: str
) -> None:
    monkeypatch.chdir(runtime)
    (runtime / "relative").mkdir()
    (runtime / "a file").touch()
    monkeypatch.setenv("XDG_RUNTIME_DIR", bad if bad in ("relative", "") else str(runtime / bad))
    monkeypatch.setattr(tempfile, "tempdir", str(runtime))
    with dss.serve_statistics() as served:
        assert served.path.parent == runtime / f"dss_anyio-{os.geteuid()}"
        assert _top.find([]) == [served.path]


@as_root
@pytest.mark.parametrize("mode", [0o600, 0o500, 0o000, 0o777])
def test_a_runtime_directory_that_cannot_be_used_is_passed_over(
    runtime: Path, watched: Callable[[], Watched], mode: int
) -> None:
    """As somebody who is not root: permissions are nothing to root."""
    theirs, shared = runtime / "theirs", runtime / "shared"
    theirs.mkdir()
    shared.mkdir()
    runtime.chmod(0o755)
    theirs.chmod(mode)
    shared.chmod(0o1777)
    os.chown(theirs, NOBODY, NOBODY)
    program = watched()
    program.do(f"os.environ.update(XDG_RUNTIME_DIR={str(theirs)!r}, TMPDIR={str(shared)!r})")
    program.do(LAST_IMPORTS)
    program.do(f"os.setuid({NOBODY}); served = dss.serve_statistics()")
    [path] = (shared / f"dss_anyio-{NOBODY}").iterdir()
    assert ask(path)["pid"] == program.process.pid
    program.do("from dss_anyio._tools.top import find; assert find([]) == [served.path]")


def test_where_no_temporary_folder_is_usable_the_runtime_directory_is(
    watched: Callable[[], Watched],
) -> None:
    program = watched()
    program.do("import resource, tempfile; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))")
    program.do("served = dss.serve_statistics()")
    assert ask(program.path)["pid"] == program.process.pid
    program.do("served.close(); os.environ['XDG_RUNTIME_DIR'] = 'none'; told = ''")
    program.do("exec('try: dss.serve_statistics()\\nexcept OSError as exc: told = str(exc)')")
    program.do("assert told.startswith('there is no place for a socket'), told")


def test_the_sockets_of_programs_that_were_killed_are_cleared_away(
    watched: Callable[[], Watched], runtime: Path
) -> None:
    killed = [watched() for _ in range(6)]
    for each in killed:
        each.do("dss.serve_statistics()")
    for each in killed[:3]:
        each.end()
    directory = killed[0].path.parent
    for name in ("notes.sock", "1.txt"):
        (directory / name).touch()
    (directory / "2.sock").mkdir()
    last = watched()
    last.do("dss.serve_statistics()")  # by whoever comes next
    kept = {"notes.sock", "1.txt", "2.sock", last.path.name}
    names = lambda: {each.name for each in directory.iterdir()}  # noqa: E731
    assert names() == kept | {each.path.name for each in killed[3:]}
    for each in killed[3:]:
        each.end()
    done = command("top", "--once", "--json", runtime=runtime)  # or by who looks
    assert [each["pid"] for each in json.loads(done.stdout)["programs"]] == [last.process.pid]
    assert names() == kept
    last.process.send_signal(signal.SIGSTOP)  # it is not dead
    command("top", "--once", "--json", runtime=runtime)
    assert names() == kept
