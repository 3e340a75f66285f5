"""The services of the how-to are killed by SIGTERM: they stop in order, and lose nothing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import dss_anyio as dss
from dss_anyio.testing import until

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM to handle")

ROOT = Path(__file__).parents[1]
HOWTO = ROOT / "examples" / "howto"
SERVICES = {
    "asyncio": ["sigterm.py", "asyncio"],
    "trio": ["sigterm.py", "trio"],
    "polled": ["sigterm_polled.py"],
}
each_service = pytest.mark.parametrize("arguments", SERVICES.values(), ids=SERVICES)


@contextmanager
def running(*command: str | Path) -> Iterator[subprocess.Popen[str]]:
    """Run *command* until it says that it is running; kill it if it is still there in the end."""
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(dss.__file__).parents[1])},
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "running\n", process.communicate(timeout=10)[1]
            yield process
        finally:
            process.kill()


def service(arguments: list[str]) -> list[str | Path]:
    return [sys.executable, "-W", "error", HOWTO / arguments[0], *arguments[1:]]


def all_was_written(output: str) -> None:
    found = re.search(r"stopped after (\d+) readings\nwritten: (\d+)\n\Z", output)
    assert found, output
    assert found[1] == found[2] != "0"


@each_service
@pytest.mark.parametrize("times", [1, 3])
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT], ids=lambda each: each.name)
def test_a_service_that_is_killed_stops_in_order_and_loses_nothing(
    arguments: list[str], signum: signal.Signals, times: int
) -> None:
    with running(*service(arguments)) as process:
        for _ in range(times):
            process.send_signal(signum)
        output, errors = process.communicate(timeout=30)
    assert errors == ""
    all_was_written(output)
    if "polled" not in arguments[0]:
        assert output.startswith(f"stopping: {signum.name}\n")
    assert process.returncode == 0


@each_service
def test_a_service_whose_library_fails_to_stop_says_so_by_its_status(
    arguments: list[str], tmp_path: Path
) -> None:
    broken = tmp_path / arguments[0]
    text = (HOWTO / arguments[0]).read_text()
    assert text.count("        self._thread.join()\n") == 1
    failing = "        self._thread.join()\n        raise OSError('the device is gone')\n"
    text = text.replace("        self._thread.join()\n", failing)
    broken.write_text(text)
    with running(sys.executable, broken, *arguments[1:]) as process:
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "OSError: the device is gone" in errors
    if "polled" in arguments[0]:
        all_was_written(output)


def test_without_a_handler_sigterm_stops_nothing() -> None:
    """What the how-to is for: the library is not stopped, and what it has is lost."""
    program = (
        "import signal, time, dss_anyio as dss\n"
        "with dss.start_hub() as hub:\n"
        "    hub.register('library', stop=lambda: print('stopped', flush=True))\n"
        "    print('running', flush=True)\n"
        "    time.sleep(60)\n"
    )
    with running(sys.executable, "-c", program) as process:
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=30)
    assert output == ""
    assert process.returncode == -signal.SIGTERM


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_with_start_hub_the_main_thread_may_wait_for_the_signal(backend: str) -> None:
    program = (
        "import signal, dss_anyio as dss\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n"
        f"with dss.start_hub(backend={backend!r}) as hub:\n"
        "    hub.register('library', stop=lambda: print('stopped', flush=True))\n"
        "    print('running', flush=True)\n"
        "    signal.sigwait({signal.SIGTERM})\n"
    )
    with running(sys.executable, "-W", "error", "-c", program) as process:
        process.send_signal(signal.SIGTERM)
        output, errors = process.communicate(timeout=30)
    assert (output, errors) == ("stopped\n", "")
    assert process.returncode == 0


def in_a_container() -> list[str]:
    """What to put in front of a command, so that it is the first process, as in a container."""
    unshare = shutil.which("unshare")
    if unshare is None:
        return []
    command = [unshare, "--pid", "--fork", "--kill-child"]
    tried = subprocess.run([*command, "true"], capture_output=True, check=False)
    return command if tried.returncode == 0 else []


@each_service
def test_it_is_the_same_for_the_first_process_of_a_container(arguments: list[str]) -> None:
    """There the system ignores a SIGTERM for which there is no handler."""
    front = in_a_container()
    if not front:
        pytest.skip("needs unshare, and the right to make a process namespace")
    with running(*front, *service(arguments)) as process:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        until(lambda: children.read_text().split())
        [first] = children.read_text().split()
        os.kill(int(first), signal.SIGTERM)
        output, errors = process.communicate(timeout=30)
    assert errors == ""
    all_was_written(output)
    assert process.returncode == 0
