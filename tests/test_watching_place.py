"""Where the socket of a watched program is, and who may come there."""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from watched import NOBODY, SRC, Watched, as_root, ask, command, needs_unix_sockets

import dss_anyio as dss
from dss_anyio._tools.place import Directory
from dss_anyio.testing import threads

# Before a program becomes somebody else, who may not be able to read where Python is.
LAST_IMPORTS = "import json, tempfile, dss_anyio._tools.telling, dss_anyio._tools.top"

pytestmark = needs_unix_sockets


def test_the_socket_and_its_directory_are_the_users_own(
    watched: Callable[[], Watched], runtime: Path
) -> None:
    program = watched()
    program.do("os.umask(0)\ndss.serve_statistics()")
    assert stat.S_IMODE(program.path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(program.path.stat().st_mode) == 0o600


@as_root
def test_a_directory_of_somebody_else_is_refused_by_both_sides(runtime: Path) -> None:
    directory = runtime / "dss_anyio"
    directory.mkdir(mode=0o700)
    os.chown(directory, NOBODY, NOBODY)
    with pytest.raises(PermissionError, match=f"belongs to user {NOBODY}, not to 0; give"):
        dss.serve_statistics(directory / "s")
    done = command("top", "--once", "--json", runtime=runtime)
    assert done.returncode == 2
    assert f"{directory} belongs to user {NOBODY}" in done.stderr


@pytest.mark.parametrize("mode", [0o701, 0o710, 0o777])
def test_a_directory_that_is_open_to_others_is_refused(runtime: Path, mode: int) -> None:
    directory = runtime / "open"
    directory.mkdir()
    directory.chmod(mode)
    with pytest.raises(PermissionError, match=f"mode {mode:04o}"):
        dss.serve_statistics(directory / "s")
    assert list(directory.iterdir()) == []


def test_a_link_to_a_directory_is_refused(runtime: Path) -> None:
    (runtime / "link").symlink_to(runtime)
    with pytest.raises(PermissionError, match="is no directory"):
        dss.serve_statistics(runtime / "link" / "s")


# -- What is above the directory -------------------------------------------------------------------


@as_root
@pytest.mark.parametrize("mode", [0o700, 0o755, 0o1777])
def test_a_directory_of_somebody_else_above_is_refused(runtime: Path, mode: int) -> None:
    """They could put another one in the place of ours."""
    (runtime / "theirs" / "ours").mkdir(parents=True, mode=0o700)
    (runtime / "theirs").chmod(mode)
    os.chown(runtime / "theirs", NOBODY, NOBODY)
    (runtime / "theirs" / "ours" / "below").mkdir(mode=0o700)
    for ours in ("theirs/ours", "theirs/ours/below"):
        with pytest.raises(PermissionError, match=f"theirs belongs to user {NOBODY}"):
            dss.serve_statistics(runtime / ours / "s")


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o1777, 0o755])
def test_others_may_write_above_only_where_they_may_not_rename(runtime: Path, mode: int) -> None:
    (runtime / "shared" / "ours").mkdir(parents=True, mode=0o700)
    (runtime / "shared").chmod(mode)
    (runtime / "shared" / "ours").chmod(0o700)
    if mode & 0o022 and not mode & 0o1000:
        with pytest.raises(PermissionError, match=f"the entries of .*shared .mode {mode:04o}"):
            dss.serve_statistics(runtime / "shared" / "ours" / "s")
    else:
        with dss.serve_statistics(runtime / "shared" / "ours" / "s") as served:
            assert ask(served.path)["pid"] == os.getpid()


def test_a_link_above_is_followed_if_nobody_else_has_made_it(runtime: Path) -> None:
    (runtime / "house" / "ours").mkdir(parents=True, mode=0o700)
    (runtime / "relative").symlink_to("house")
    (runtime / "absolute").symlink_to(runtime / "relative")
    with dss.serve_statistics(runtime / "absolute" / "ours" / "s") as served:
        assert ask(runtime / "house" / "ours" / "s")["pid"] == os.getpid()
        assert served.path == runtime / "absolute" / "ours" / "s"
    (runtime / "endless").symlink_to("endless")
    with pytest.raises(OSError, match="endless"):
        dss.serve_statistics(runtime / "endless" / "ours" / "s")
    if os.geteuid() == 0:
        os.lchown(runtime / "absolute", NOBODY, NOBODY)
        with pytest.raises(PermissionError, match=f"absolute belongs to user {NOBODY}"):
            dss.serve_statistics(runtime / "absolute" / "ours" / "s")


@as_root
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has user namespaces")
def test_in_a_user_namespace_root_may_be_somebody_else(
    watched: Callable[[], Watched], runtime: Path
) -> None:
    """As in containers without root: what is above belongs to a user who has no name there."""
    os.chown(runtime, NOBODY, NOBODY)
    program = watched()
    program.do(f"{LAST_IMPORTS}; import ctypes; libc = ctypes.CDLL(None)")
    program.do(f"os.setgid({NOBODY}); os.setuid({NOBODY}); libc.prctl(4, 1, 0, 0, 0)  # dumpable")
    program.do("alone = not libc.unshare(0x10000000)")
    with open(f"/proc/{program.process.pid}/uid_map", "wb", buffering=0) as uid_map:
        try:
            uid_map.write(b"0 %d 1\n" % NOBODY)
        except OSError:
            pytest.skip("there can be no user namespace here")
    program.do(f"assert (os.geteuid(), os.stat('/').st_uid) == (0, {NOBODY})")
    program.do("served = dss.serve_statistics()")
    assert program.path.is_socket()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux binds through a descriptor")
def test_what_was_checked_is_used_whatever_is_at_its_path_by_now(runtime: Path) -> None:
    (runtime / "ours").mkdir(mode=0o700)
    (runtime / "elsewhere").mkdir(mode=0o700)
    with Directory(runtime / "ours") as held:
        (runtime / "ours").rename(runtime / "moved")
        (runtime / "ours").symlink_to("elsewhere")
        listener, file = held.listen("s")
        with listener:
            assert (runtime / "moved" / "s").is_socket()
            with pytest.raises(FileExistsError):
                held.listen("s")
        (runtime / "elsewhere" / "s").touch()
        held.remove("s", file)
        assert not (runtime / "moved" / "s").exists()
    assert [each.name for each in (runtime / "elsewhere").iterdir()] == ["s"]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the directory has to do")
def test_the_mode_is_right_before_there_is_a_file_and_set_through_no_path(
    watched: Callable[[], Watched],
) -> None:
    program = watched()
    program.do("import stat; os.umask(0); seen = []")
    program.do(
        "sys.addaudithook(lambda event, args: event in ('socket.bind', 'os.chmod') and seen.append("
        "(event, stat.S_IMODE(os.fstat(args[0].fileno()).st_mode)) if event == 'socket.bind' "
        "else (event, type(args[0]), args[1])))"
    )
    program.do("dss.serve_statistics()")
    program.do("assert seen == [('os.chmod', int, 0o600), ('socket.bind', 0o600)], seen")
    assert stat.S_IMODE(program.path.stat().st_mode) == 0o600


@as_root
@pytest.mark.parametrize(
    ("options", "why"), [("ro", "Read-only file system"), ("nr_inodes=2", "No space left")]
)
def test_a_file_system_that_takes_no_socket_is_named_and_passed_over(
    runtime: Path, options: str, why: str
) -> None:
    """In a namespace of its own, so that nobody else sees what is mounted."""
    program = (
        "import dss_anyio as dss, os, subprocess, sys\n"
        "runtime, options = sys.argv[1:]\n"
        "os.mkdir(runtime + '/x')\n"
        "mount = ['mount', '-t', 'tmpfs', '-o', 'mode=0700,' + options, 'none', runtime + '/x']\n"
        "subprocess.run(mount, check=True)\n"
        "os.environ.update(XDG_RUNTIME_DIR=runtime + '/x', TMPDIR=runtime)\n"
        "if 'nr_inodes' in options: os.mkdir(runtime + '/x/dss_anyio', 0o700)\n"
        "try: dss.serve_statistics(runtime + '/x/s')\n"
        "except OSError as exc: print(exc)\n"
        "print(dss.serve_statistics().path.parent)\n"
    )
    done = subprocess.run(
        ["unshare", "-m", sys.executable, "-c", program, str(runtime), options],
        env={**os.environ, "PYTHONPATH": SRC},
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip("nothing can be mounted here")
    error, used = done.stdout.splitlines()
    assert f"no socket can be made there: {why}" in error
    assert str(runtime / "x" / "s") in error
    assert used == str(runtime / "dss_anyio-0")


@as_root
def test_a_umask_that_keeps_its_own_user_away_is_named(
    runtime: Path, watched: Callable[[], Watched]
) -> None:
    os.chown(runtime, NOBODY, NOBODY)
    program = watched()
    program.do(LAST_IMPORTS)
    program.do(f"os.setuid({NOBODY}); os.umask(0o777); told = ''; ours = {str(runtime / 's')!r}")
    program.do("exec('try: dss.serve_statistics(ours)\\nexcept OSError as exc: told = str(exc)')")
    program.do("assert told.startswith('the umask of this process leaves'), told")
    assert list(runtime.iterdir()) == []


# -- What others have left -------------------------------------------------------------------------


def test_who_holds_the_lock_of_the_directory_for_ever_keeps_nobody_from_starting(
    runtime: Path,
) -> None:
    holder = os.open(runtime, os.O_RDONLY)
    try:
        fcntl.flock(holder, fcntl.LOCK_EX)
        with dss.serve_statistics(runtime / "s") as served:
            assert ask(served.path)["pid"] == os.getpid()
    finally:
        os.close(holder)


def test_of_many_that_start_at_one_path_where_a_dead_one_was_one_serves(
    watched: Callable[[], Watched], runtime: Path
) -> None:
    first = watched()
    first.do("dss.serve_statistics()")
    first.end()
    served: list[Any] = []
    refused: list[FileExistsError] = []
    start = threading.Barrier(8)

    def serve() -> None:
        start.wait()
        try:
            served.append(dss.serve_statistics(first.path))
        except FileExistsError as exc:
            refused.append(exc)

    with threads(*[serve] * 8):
        pass
    assert (len(served), len(refused)) == (1, 7)
    assert ask(first.path)["pid"] == os.getpid()
    served[0].close()


def test_what_a_dead_process_has_left_is_replaced(
    watched: Callable[[], Watched], runtime: Path
) -> None:
    program = watched()
    program.do("dss.serve_statistics()")
    program.end()
    assert program.path.is_socket()
    with dss.serve_statistics(program.path):
        assert ask(program.path)["pid"] == os.getpid()
    assert not program.path.exists()


def test_what_is_alive_is_not_replaced(runtime: Path) -> None:
    with dss.serve_statistics(runtime / "s") as served:
        with pytest.raises(FileExistsError, match="a program serves"):
            dss.serve_statistics(runtime / "s")
        assert ask(served.path)["pid"] == os.getpid()


def test_what_is_too_busy_to_take_one_more_is_not_replaced(runtime: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as busy, contextlib.ExitStack() as stack:
        busy.bind(str(runtime / "s"))
        busy.listen(0)
        with contextlib.suppress(BlockingIOError):  # now it is too busy
            for _ in range(200):
                visitor = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
                stack.enter_context(visitor)
                visitor.setblocking(False)
                visitor.connect(str(runtime / "s"))
        with pytest.raises(FileExistsError, match="a program serves"):
            dss.serve_statistics(runtime / "s")
        assert (runtime / "s").is_socket()


def test_a_file_is_not_replaced(runtime: Path) -> None:
    (runtime / "s").write_text("precious")
    with pytest.raises(FileExistsError, match="is no socket"):
        dss.serve_statistics(runtime / "s")
    assert (runtime / "s").read_text() == "precious"


def test_a_path_that_is_too_long_is_refused_with_the_remedy(runtime: Path) -> None:
    with pytest.raises(OSError, match="too long for a Unix socket.*XDG_RUNTIME_DIR"):
        dss.serve_statistics(runtime / ("x" * 200))


@as_root
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells who connects")
def test_another_user_is_not_served_even_where_the_permissions_would_let_them(
    runtime: Path,
) -> None:
    look = (
        "import os, socket, sys\n"
        "os.setuid(int(sys.argv[2]))\n"
        "connection = socket.socket(socket.AF_UNIX)\n"
        "connection.connect(sys.argv[1])\n"
        "try:\n"
        "    connection.sendall(b'\\n')\n"
        "    print(len(connection.recv(100)))\n"
        "except OSError:\n"
        "    print(0)\n"
    )
    with dss.serve_statistics(runtime / "s") as served:
        runtime.chmod(0o777)
        served.path.chmod(0o777)
        told: dict[int, int] = {}
        for user in (0, NOBODY):
            done = subprocess.run(
                [sys.executable, "-c", look, str(served.path), str(user)],
                capture_output=True,
                text=True,
                timeout=20,
                check=True,
            )
            told[user] = int(done.stdout)
    assert told[0] > 0
    assert told[NOBODY] == 0
