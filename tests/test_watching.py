"""A program is watched from outside, by another process; and a machine is looked at."""

from __future__ import annotations

import contextlib
import gc
import json
import math
import os
import re
import select
import shutil
import signal
import socket
import stat
import subprocess
import sys
import sysconfig
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import pytest
from conftest import BACKENDS, WITHOUT_GIL

import dss_anyio as dss
from dss_anyio import _doctor, _top
from dss_anyio._watching import MOST_CLIENTS
from dss_anyio.testing import threads, until

if not hasattr(socket, "AF_UNIX"):
    pytest.skip("needs Unix sockets", allow_module_level=True)

SRC = str(Path(dss.__file__).parent.parent)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
NOBODY = 65534

# What is watched. It does what it reads, and says when that is done.
PROGRAM = """
import os, signal, sys, threading, time
import anyio
import dss_anyio as dss

for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""
# Three hubs whose counts are known; a thread waits in the last one.
HUBS = r"""
async def receive(hub, n): return [await hub.receive() for _ in range(n)]
first = dss.start_hub(4, name="on asyncio"); one = first.__enter__()
meter = one.register("meter"); meter.send_many([1, 2, 3]); one.portal.send(4)
one.portal.call(receive, one, 2)
second = dss.start_hub(2, name="on trio", overflow="drop_oldest", backend="trio")
two = second.__enter__(); two.portal.send_many(range(5))
three = dss.open_polled_hub(1, name="polled\x1b[2J")
camera = three.register("camera"); camera.send(1)
waiting = threading.Thread(target=camera.send, args=[2], name="shutter", daemon=True)
waiting.start()
while not three.blocked(): time.sleep(0.001)
"""


class Watched:
    """A program in a process of its own."""

    def __init__(self, runtime: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", PROGRAM],
            env={**os.environ, "PYTHONPATH": SRC, "XDG_RUNTIME_DIR": str(runtime)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.path = runtime / "dss_anyio" / f"{self.process.pid}.sock"

    def do(self, lines: str) -> None:
        """Let it do *lines*, each of them a statement."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        for line in filter(None, lines.splitlines()):
            self.process.stdin.write(line + "\n")
            self.process.stdin.flush()
            assert self.process.stdout.readline() == "done\n", line

    def leave(self) -> int:
        """Let it end as programs do. Returns its exit code."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        return self.process.wait(20)

    def end(self) -> None:
        self.process.kill()
        self.process.wait()
        for end in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(OSError):  # nobody reads what was not written yet
                end.close()  # type: ignore[union-attr]


@pytest.fixture
def runtime() -> Iterator[Path]:
    """A directory with a short name, as a Unix socket needs it."""
    with tempfile.TemporaryDirectory(prefix="dss") as directory:
        yield Path(directory)


@pytest.fixture
def watched(runtime: Path) -> Iterator[Callable[[], Watched]]:
    started: list[Watched] = []

    def start() -> Watched:
        started.append(Watched(runtime))
        return started[-1]

    yield start
    for each in started:
        each.end()


def connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(10)
    try:
        until(lambda: connected(connection, path))
    except BaseException:
        connection.close()
        raise
    return connection


def connected(connection: socket.socket, path: Path) -> bool:
    try:
        connection.connect(str(path))
    except BlockingIOError:
        return False  # many others are connecting
    return True


def ask(path: Path) -> Any:
    """What the program at *path* tells, as the protocol has it."""
    with connect(path) as connection, connection.makefile() as lines:
        connection.sendall(b"\n")
        return json.loads(lines.readline())


def command(*arguments: str, runtime: Path, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """Run ``python -m dss_anyio``."""
    python = kwargs.pop("python", [sys.executable])
    environ = {**os.environ, "PYTHONPATH": SRC, "XDG_RUNTIME_DIR": str(runtime), "COLUMNS": "150"}
    return subprocess.run(
        [*python, "-m", "dss_anyio", *arguments],
        env={**environ, "TMPDIR": str(runtime), **kwargs.pop("env", {})},
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
        **kwargs,
    )


def names(program: Any) -> list[str]:
    """Of its hubs. Other tests may have left some, whose loops were closed under them."""
    return [hub["name"] for hub in program["hubs"]]


def named(program: Any, name: str) -> Any:
    [hub] = [hub for hub in program["hubs"] if hub["name"] == name]
    return hub


# -- What is told ----------------------------------------------------------------------------------


def test_a_watched_program_tells_the_exact_counts_of_its_hubs(
    watched: Callable[[], Watched], runtime: Path
) -> None:
    program = watched()
    program.do("dss.serve_statistics()")
    program.do(HUBS)
    done = command("top", "--once", "--json", runtime=runtime)
    assert done.stderr == ""
    assert done.returncode == 0
    [told] = json.loads(done.stdout)["programs"]
    assert told["pid"] == program.process.pid
    assert told["path"] == str(program.path)
    one, two, three = told["hubs"]  # in the order in which they were opened

    assert (one["name"], one["kind"], one["state"]) == ("on asyncio", "Hub", "open")
    assert (one["current_buffer_used"], one["max_buffer_size"]) == (2, 4)
    assert (one["received"], one["dropped"], one["undelivered"]) == (2, 0, 0)
    assert one["sources"] == {
        "meter": {"received": 2, "queued": 1, "dropped": 0, "undelivered": 0},
    }
    assert one["blocked"] == []

    assert (two["name"], two["received"], two["current_buffer_used"]) == ("on trio", 0, 2)
    assert two["dropped"] == 3

    assert (three["name"], three["kind"]) == ("polled\x1b[2J", "PolledHub")
    assert (three["current_buffer_used"], three["tasks_waiting_send"]) == (1, 1)
    [blocked] = three["blocked"]
    assert (blocked["source"], blocked["call"]) == ("camera", "send")
    assert blocked["thread_name"] == "shutter"
    assert 0 < blocked["seconds"] < 30

    program.do("three.poll(); waiting.join()")
    three = named(ask(program.path), "polled\x1b[2J")
    assert (three["received"], three["current_buffer_used"]) == (1, 1)
    assert three["blocked"] == []


def test_each_field_of_the_statistics_is_told_under_its_name(runtime: Path) -> None:
    with dss.open_polled_hub[int](math.inf) as hub, dss.serve_statistics(runtime / "s") as served:
        told = named(ask(served.path), hub.name)
        fields = {*dss.HubStatistics._fields, "id", "name", "kind", "state", "blocked"}
        assert set(told) == fields
        assert told["max_buffer_size"] is None  # JSON has no word for infinity
        assert set(told["requests"]) == set(dss.RequestStatistics._fields)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_hub_is_told_of_as_long_as_its_end_is_not_complete(backend: str, runtime: Path) -> None:
    name, options = BACKENDS[backend]
    stopping, go_on = threading.Event(), threading.Event()

    def cancel() -> None:
        stopping.set()
        assert go_on.wait(10)

    with dss.serve_statistics(runtime / "s") as served:
        assert "mine" not in names(ask(served.path))

        def end() -> None:
            hubs = dss.start_hub(name="mine", backend=name, backend_options=options)
            with hubs as hub:
                hub.register("slow", cancel=cancel)
                assert named(ask(served.path), "mine")["state"] == "open"
                hub.close_senders()
                assert named(ask(served.path), "mine")["state"] == "senders closed"

        with threads(end):
            assert stopping.wait(10)
            assert named(ask(served.path), "mine")["state"] == "ended"
            go_on.set()
        assert "mine" not in names(ask(served.path))


def test_hubs_may_open_and_end_while_somebody_looks(runtime: Path) -> None:
    ended = threading.Event()

    def open_and_close() -> None:
        while not ended.is_set():
            with dss.open_polled_hub[int](name="short") as hub:
                hub.register("source").send(1)

    with dss.serve_statistics(runtime / "s") as served, threads(open_and_close, open_and_close):
        try:
            with connect(served.path) as connection, connection.makefile() as lines:
                seen = 0
                for _ in range(50):
                    connection.sendall(b"\n")
                    seen += names(json.loads(lines.readline())).count("short")
        finally:
            ended.set()
    assert seen > 0


@pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning")
def test_who_is_watched_is_not_kept_alive(runtime: Path) -> None:
    with dss.serve_statistics(runtime / "s") as served:
        hub = dss.open_polled_hub[int](name="forgotten")
        assert named(ask(served.path), "forgotten")
        forgotten, portal = weakref.ref(hub), hub.portal
        del hub
        gc.collect()
        until(lambda: forgotten() is None)
        assert "forgotten" not in names(ask(served.path))
        assert not portal.offer(1)  # it was kept, and has not kept the hub


# -- Who is served, and where ----------------------------------------------------------------------


def test_the_socket_and_its_directory_are_the_users_own(
    watched: Callable[[], Watched], runtime: Path
) -> None:
    program = watched()
    program.do("os.umask(0)\ndss.serve_statistics()")
    assert stat.S_IMODE(program.path.parent.stat().st_mode) == 0o700
    assert stat.S_IMODE(program.path.stat().st_mode) == 0o600


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


@as_root
def test_a_directory_of_somebody_else_is_refused_by_both_sides(runtime: Path) -> None:
    directory = runtime / "dss_anyio"
    directory.mkdir(mode=0o700)
    os.chown(directory, NOBODY, NOBODY)
    with pytest.raises(PermissionError, match=f"belongs to user {NOBODY}, not to 0; give"):
        dss.serve_statistics(directory / "s")
    done = command("top", "--once", "--json", runtime=runtime)
    assert (done.returncode, done.stdout) == (2, "")
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
        with pytest.raises(FileExistsError, match="somebody serves"):
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
        with pytest.raises(FileExistsError, match="somebody serves"):
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


# -- Clients that mean no good ---------------------------------------------------------------------


def test_a_client_gets_one_document_for_each_line_whatever_is_in_it(runtime: Path) -> None:
    with dss.serve_statistics(runtime / "s") as served, connect(served.path) as connection:
        connection.sendall(b"\0\xff garbage" * 1000 + b"\n" + b"\n" * 99)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile() as lines:
            assert [json.loads(line)["pid"] for line in lines] == [os.getpid()] * 100


def test_a_client_that_never_reads_costs_one_document_and_holds_up_nobody(runtime: Path) -> None:
    name = "n" * 1_000_000  # more than the system keeps for a client
    with contextlib.ExitStack() as stack:
        stack.enter_context(dss.open_polled_hub[int](name=name))
        served = stack.enter_context(dss.serve_statistics(runtime / "s"))
        greedy = stack.enter_context(connect(served.path))
        greedy.setblocking(False)
        with pytest.raises(BlockingIOError):  # at last nothing of this is read any more
            while True:
                greedy.send(b"\n" * 4096)
        for _ in range(5):
            assert named(ask(served.path), name)["received"] == 0
        with pytest.raises(BlockingIOError):
            greedy.send(b"\n" * 4096)


def test_of_many_clients_those_that_were_silent_for_the_longest_time_are_dropped(
    runtime: Path,
) -> None:
    with contextlib.ExitStack() as stack:
        served = stack.enter_context(dss.serve_statistics(runtime / "s"))
        asks = stack.enter_context(connect(served.path))
        lines = stack.enter_context(asks.makefile())
        silent: list[socket.socket] = []
        for _ in range(100):
            silent.append(stack.enter_context(connect(served.path)))
            asks.sendall(b"\n")
            assert json.loads(lines.readline())["pid"] == os.getpid()
        kept = MOST_CLIENTS - 1
        for each in silent[:-kept]:
            assert each.recv(1) == b""
        for each in silent[-kept:]:
            each.sendall(b"\n")
            assert each.recv(1) == b"{"


def test_a_client_that_leaves_does_not_end_a_program_that_lets_sigpipe_kill_it(
    watched: Callable[[], Watched],
) -> None:
    program = watched()
    program.do("signal.signal(signal.SIGPIPE, signal.SIG_DFL); dss.serve_statistics()")
    for _ in range(50):
        with connect(program.path) as connection:
            connection.sendall(b"\n" * 64)
    assert ask(program.path)["pid"] == program.process.pid


def test_it_goes_on_when_there_are_file_descriptors_again(watched: Callable[[], Watched]) -> None:
    program = watched()
    program.do("dss.serve_statistics(); import resource; limits = resource.RLIMIT_NOFILE")
    with connect(program.path) as early:
        early.sendall(b"\n")
        assert early.recv(1) == b"{"
        program.do("soft, hard = resource.getrlimit(limits); resource.setrlimit(limits, (0, hard))")
        with connect(program.path) as late:
            late.sendall(b"\n")
            while early.recv(4096):
                pass  # it is dropped for the other one, whom that does not help
            program.do("resource.setrlimit(limits, (soft, hard))")
            assert late.recv(1) == b"{"


# -- The end ---------------------------------------------------------------------------------------


def serving_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if "serving statistics" in each.name]


def test_close_removes_the_socket_and_ends_the_thread_and_its_clients(runtime: Path) -> None:
    served = dss.serve_statistics(runtime / "s")
    with connect(served.path) as connection:
        connection.sendall(b"\n")
        while connection.recv(4096)[-1:] != b"\n":
            pass
        assert serving_threads() == ["dss_anyio: serving statistics"]
        served.close()
        assert not served.path.exists()
        assert serving_threads() == []
        assert connection.recv(1) == b""
    served.close()


def test_close_leaves_what_another_one_has_put_there(runtime: Path) -> None:
    served = dss.serve_statistics(runtime / "s")
    served.path.rename(runtime / "away")
    with dss.serve_statistics(runtime / "s") as other:
        served.close()
        assert ask(other.path)["pid"] == os.getpid()


def test_without_a_block_it_lasts_as_long_as_the_process_and_leaves_nothing(
    watched: Callable[[], Watched],
) -> None:
    program = watched()
    program.do("dss.serve_statistics()\nimport gc; gc.collect()")
    assert ask(program.path)["pid"] == program.process.pid
    assert program.leave() == 0
    assert list(program.path.parent.iterdir()) == []


def test_a_program_that_was_never_asked_to_has_no_thread_for_it() -> None:
    with dss.open_polled_hub[int]():
        assert serving_threads() == []


FORK = """
r, w = os.pipe()
child = os.fork() or (os.close(w), os.read(r, 1), {child}, sys.exit())
os.close(r)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_leaves_the_socket_to_its_parent(watched: Callable[[], Watched]) -> None:
    program = watched()
    program.do("import warnings; warnings.simplefilter('ignore')  # of forking with threads")
    program.do("served = dss.serve_statistics()")
    program.do(FORK.format(child="served.close()"))
    program.do("os.write(w, b'!'); assert os.waitpid(child, 0)[1] == 0")
    assert ask(program.path)["pid"] == program.process.pid
    program.do(FORK.format(child="os.read(r, 1)"))
    program.do("served.close(); assert len(threading.enumerate()) == 1")
    assert not program.path.exists()
    program.do("served = dss.serve_statistics()")
    program.do(FORK.format(child="os.read(r, 1)"))
    with connect(program.path) as connection:
        connection.sendall(b"\n")
        assert connection.recv(1) == b"{"
        program.process.kill()  # the child lives on, until the pipe's other end is closed: now
        program.process.wait(10)
        with pytest.raises(ConnectionRefusedError):
            connect(program.path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_may_serve_for_itself(watched: Callable[[], Watched]) -> None:
    program = watched()
    program.do("import warnings; warnings.simplefilter('ignore')")
    program.do("served = dss.serve_statistics()")
    program.do(FORK.format(child="dss.serve_statistics(), os.read(r, 1)"))
    program.do("os.write(w, b'!')")
    others = lambda: [each for each in program.path.parent.iterdir() if each != program.path]  # noqa: E731
    until(others)
    [path] = others()
    until(lambda: stat.S_IMODE(path.stat().st_mode) == 0o600)
    assert ask(path)["pid"] == int(path.stem)
    program.do("os.write(w, b'!'); assert os.waitpid(child, 0)[1] == 0")
    assert others() == []


def test_the_help_is_plain_text(runtime: Path) -> None:
    for arguments in ([], ["top"], ["doctor"]):
        done = command(*arguments, "--help", runtime=runtime)
        assert (done.returncode, done.stderr) == (0, "")
        assert "`" not in done.stdout
    assert "Takes two seconds." in done.stdout


# -- top -------------------------------------------------------------------------------------------


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
    shown = _top.show(
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
    assert _top.name_of({"program": started}) == shown


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
    assert _top.rate({"wakes": now}, earlier, "wakes", seconds) == shown


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


@pytest.fixture
def bare(runtime: Path) -> dict[str, Any]:
    """A Python that has us and anyio, and nothing else that is not its own."""
    packages = runtime / "packages"
    packages.mkdir()
    for name in ("dss_anyio", "anyio", "idna", "sniffio", "typing_extensions", "exceptiongroup"):
        spec = find_spec(name)
        if spec is not None and spec.origin is not None:
            origin = Path(spec.origin)
            found = origin.parent if origin.name == "__init__.py" else origin
            (packages / found.name).symlink_to(found)
    [info] = Path(anyio.__file__).parent.parent.glob("anyio-*.dist-info")
    shutil.copytree(info, packages / info.name)
    return {
        "python": [sys.executable, "-S"],
        "env": {"PYTHONPATH": str(packages)},
    }


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
    assert "pip install 'dss_anyio[top]'" in done.stderr


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


# -- doctor ----------------------------------------------------------------------------------------


def doctor(runtime: Path, **kwargs: Any) -> tuple[Any, list[str]]:
    """What it finds, and the warnings; each of these has a remedy."""
    done = command("doctor", "--json", runtime=runtime, **kwargs)
    assert done.stderr == ""
    found = json.loads(done.stdout)
    warned = found.pop("warnings")
    assert done.returncode == (1 if warned else 0)
    assert all(each["remedy"] for each in warned)
    return found, [each["what"] for each in warned]


def test_the_doctor_measures_a_wake_on_each_backend(runtime: Path) -> None:
    found, warned = doctor(runtime)
    assert warned == []
    installed = {name for name in ("trio", "uvloop") if find_spec(name) is not None}
    assert set(found["wake"]) == {"asyncio", "polled", *installed}
    for name, measured in found["wake"].items():
        assert 0 < measured["median_us"] <= measured["p99_us"], name
        assert 0 < measured["items"] <= _doctor.ITEMS, name
    assert found["udp_on_loopback"] is True
    assert found["gil"] is not WITHOUT_GIL
    assert found["free_threaded_build"] is bool(sysconfig.get_config_var("Py_GIL_DISABLED"))
    assert found["versions"]["anyio"] is not None
    import resource  # not on Windows

    assert found["file_descriptors"] == resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    assert found["switch_interval"] == 0.005


def test_the_doctor_warns_of_a_sigint_that_is_ignored_and_prints_what_to_do(runtime: Path) -> None:
    def ignore_sigint() -> None:
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    done = command("doctor", runtime=runtime, preexec_fn=ignore_sigint)
    assert (done.returncode, done.stderr) == (1, "")
    for line in (
        r"wake: asyncio +median \d+ µs, p99 \d+ µs \(\d+ items\)",
        r"udp on loopback +yes",
        rf"gil +{'no' if WITHOUT_GIL else 'yes'}",
    ):
        assert re.search(f"^{line}$", done.stdout, re.MULTILINE), line
    [what] = re.findall(r"^WARNING: (.*)\n  remedy: signal.signal", done.stdout, re.MULTILINE)
    assert what.startswith("SIGINT is ignored")


def test_the_doctor_warns_if_trio_is_missing(runtime: Path, bare: dict[str, Any]) -> None:
    found, [warning] = doctor(runtime, **bare)
    assert warning.startswith("trio is not installed")
    assert set(found["wake"]) == {"asyncio", "polled"}


def test_the_doctor_warns_of_an_anyio_that_is_too_old(runtime: Path, bare: dict[str, Any]) -> None:
    [metadata] = runtime.glob("packages/anyio-*/METADATA")
    text = metadata.read_text(encoding="utf-8")
    metadata.write_text(re.sub(r"(?m)^Version: .*$", "Version: 4.10.0", text), encoding="utf-8")
    _, warned = doctor(runtime, **bare)
    assert warned[0] == "anyio 4.10.0 is older than 4.11, which dss_anyio is made for"


def test_the_oldest_anyio_of_the_doctor_is_that_of_the_package() -> None:
    settings = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert f'"anyio>={".".join(map(str, _doctor.ANYIO_FLOOR))}"' in settings


PATCHES = {
    "gevent": "import gevent.monkey; gevent.monkey.patch_all()",
    "eventlet": "import eventlet; eventlet.monkey_patch()",
    "by hand": (
        "import _thread; start = _thread.start_new_thread; "
        "_thread.start_new_thread = lambda *args: start(*args)"
    ),
}


@pytest.mark.parametrize("patch", PATCHES)
def test_the_doctor_warns_of_threads_that_are_none(runtime: Path, patch: str) -> None:
    if patch != "by hand":
        pytest.importorskip(patch)
    (runtime / "patched.py").write_text(
        f"{PATCHES[patch]}\n"
        "import runpy, sys\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_module('dss_anyio', run_name='__main__')\n"
    )
    done = subprocess.run(
        [sys.executable, str(runtime / "patched.py"), "dss_anyio", "doctor", "--json"],
        env={**os.environ, "PYTHONPATH": SRC},
        capture_output=True,
        text=True,
        timeout=40,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    [warning] = json.loads(done.stdout)["warnings"]
    assert warning["what"].startswith("threads are not threads here")


def test_the_doctor_warns_of_a_loopback_that_is_down(runtime: Path) -> None:
    """A network of its own has a loopback interface that nobody has brought up."""
    unshare = shutil.which("unshare")
    alone = [unshare or "unshare", *([] if os.geteuid() == 0 else ["-r"]), "-n"]
    if unshare is None or subprocess.run([*alone, "true"], check=False, timeout=20).returncode:
        pytest.skip("needs a network of its own")
    found, [warning] = doctor(runtime, python=[*alone, sys.executable])
    assert warning.startswith("UDP on loopback does not work")
    assert found["udp_on_loopback"] is False
    assert found["wake"]["polled"]["items"] > 0  # by wait()


free_threaded = pytest.mark.skipif(
    not sysconfig.get_config_var("Py_GIL_DISABLED"), reason="this Python cannot run without the GIL"
)


@free_threaded
def test_the_doctor_warns_of_the_gil_in_a_build_without(runtime: Path) -> None:
    found, [warning] = doctor(runtime, env={"PYTHON_GIL": "1"})
    assert warning.startswith("this Python is built to run without the GIL")
    assert found["gil"] is True


@free_threaded
def test_the_doctor_warns_of_a_uvloop_that_switches_the_gil_on(runtime: Path) -> None:
    """As any module in C does that does not say that it needs no GIL."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    package = runtime / "old" / "uvloop"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from . import loop\nfrom asyncio import new_event_loop\n")
    (package / "loop.c").write_text(
        "#include <Python.h>\n"
        'static struct PyModuleDef def = {PyModuleDef_HEAD_INIT, .m_name = "loop"};\n'
        "PyMODINIT_FUNC PyInit_loop(void) { return PyModuleDef_Init(&def); }\n"
    )
    include = sysconfig.get_paths()["include"]
    library = package / f"loop{sysconfig.get_config_var('EXT_SUFFIX')}"
    subprocess.run(
        [compiler, "-shared", "-fPIC", f"-I{include}", "-o", library, package / "loop.c"],
        check=True,
    )
    paths = os.pathsep.join([str(runtime / "old"), SRC])
    found, [warning] = doctor(runtime, env={"PYTHONPATH": paths})
    assert re.match(r"importing uvloop .* switches the GIL on", warning)
    assert found["gil"] is False
    assert found["wake"]["uvloop"]["items"] > 0
