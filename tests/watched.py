"""What a test of a watched program needs: one in a process of its own, and who asks it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import anyio
import pytest

import dss_anyio as dss
from dss_anyio.testing import until

SRC = str(Path(dss.__file__).parent.parent)
is_root = hasattr(os, "geteuid") and os.geteuid() == 0
as_root = pytest.mark.skipif(not is_root, reason="only root can become somebody else")
needs_unix_sockets = pytest.mark.skipif(not hasattr(socket, "AF_UNIX"), reason="needs Unix sockets")
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
            env={
                **os.environ,
                "PYTHONPATH": SRC,
                "XDG_RUNTIME_DIR": str(runtime),
                "TMPDIR": str(runtime),
            },
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


def serving_threads() -> list[str]:
    return [each.name for each in threading.enumerate() if "serving statistics" in each.name]


FORK = """
r, w = os.pipe()
child = os.fork() or (os.close(w), os.read(r, 1), {child}, sys.exit())
os.close(r)
"""


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
