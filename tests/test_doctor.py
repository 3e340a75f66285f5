"""``python -m dss_anyio doctor`` looks at a machine."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from conftest import WITHOUT_GIL
from watched import (
    SRC,
    command,
    needs_unix_sockets,
)

from dss_anyio._tools import doctor as _doctor
from dss_anyio._tools.top import RICH

pytestmark = needs_unix_sockets


def doctor(runtime: Path, **kwargs: Any) -> tuple[Any, list[str]]:
    """What it finds, and the warnings; each of these has a remedy. Only they are a failure."""
    done = command("doctor", "--json", runtime=runtime, **kwargs)
    assert done.stderr == ""
    found = json.loads(done.stdout)
    warned = found.pop("warnings")
    assert done.returncode == (1 if warned else 0)
    assert all(each["remedy"] for each in (*warned, *found["notes"]))
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


def test_what_is_optional_may_be_missing_and_the_doctor_says_so(
    runtime: Path, bare: dict[str, Any]
) -> None:
    found, warned = doctor(runtime, **bare)
    assert warned == []
    # The extension module may be missing as well, where there is no compiler.
    assert found["notes"][0]["what"] == "trio is not installed, so hubs run on asyncio only"
    assert len(found["notes"]) == (1 if all(found["native"].values()) else 2)
    assert set(found["wake"]) == {"asyncio", "polled"}
    done = command("doctor", runtime=runtime, **bare)
    assert done.returncode == 0
    assert "no warnings" in done.stdout
    note = "NOTE: trio is not installed, so hubs run on asyncio only\n  remedy: pip install 'trio>="
    assert note in done.stdout


def test_the_doctor_warns_of_an_anyio_that_is_too_old(runtime: Path, bare: dict[str, Any]) -> None:
    [metadata] = runtime.glob("packages/anyio-*/METADATA")
    text = metadata.read_text(encoding="utf-8")
    metadata.write_text(re.sub(r"(?m)^Version: .*$", "Version: 4.10.0", text), encoding="utf-8")
    _, warned = doctor(runtime, **bare)
    assert warned[0] == "anyio 4.10.0 is older than 4.11, which dss_anyio is made for"


def test_the_oldest_releases_of_the_doctor_are_those_of_the_package() -> None:
    settings = (Path(__file__).parent.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert f'"anyio>={".".join(map(str, _doctor.ANYIO_FLOOR))}"' in settings
    assert f'trio = ["{_doctor.TRIO}"]' in settings
    assert f'top = ["{RICH}"]' in settings


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
