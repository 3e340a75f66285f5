"""The extension module: built where it can be, and missed nowhere else."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from conftest import WITHOUT_GIL

from dss_anyio import _native
from dss_anyio._tools import building

ROOT = Path(__file__).parent.parent
needs_compiler = pytest.mark.skipif(
    not _native.is_made_for_this()
    or shutil.which("cc") is None
    or not Path(sysconfig.get_path("include"), "Python.h").is_file(),
    reason="needs a C compiler, and Python's headers",
)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """What is needed to build it, and something that was built before."""
    shutil.copy(ROOT / "hatch_build.py", tmp_path)
    sources = tmp_path / "src" / "dss_anyio" / "_native"
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "src" / "dss_anyio" / "_native", sources, ignore=ignored)
    for suffix in (".abi3.so", str(sysconfig.get_config_var("EXT_SUFFIX"))):
        (sources / f"_dss{suffix}").write_text("old")
    return tmp_path


def build(folder: Path, **environ: str) -> tuple[int, str]:
    """The exit code, and what was printed."""
    done = subprocess.run(
        [sys.executable, folder / "hatch_build.py"],
        env={**os.environ, **environ},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout


def names_in(built: Path) -> list[str]:
    program = (
        "import importlib.util as u, sys; s = u.spec_from_file_location('d._dss', sys.argv[1]);"
        "m = u.module_from_spec(s); s.loader.exec_module(m); print(*dir(m))"
    )
    return subprocess.run(
        [sys.executable, "-c", program, built], capture_output=True, text=True, check=True
    ).stdout.split()


@pytest.mark.skipif(
    os.environ.get("DSS_ANYIO_NATIVE") != "require", reason="not where it has to be there"
)
def test_in_ci_the_module_is_there() -> None:
    assert _native.dss is not None, _native.why_not
    assert hasattr(_native.dss, "make_closure"), "it was built without libffi"


@needs_compiler
def test_it_is_built_and_exports_nothing_but_its_beginning(copied: Path) -> None:
    status, told = build(copied, CFLAGS="-Werror")
    assert status == 0, told
    path, has_libffi = told.split()
    suffix = str(sysconfig.get_config_var("EXT_SUFFIX")) if WITHOUT_GIL else ".abi3.so"
    assert Path(path).name == f"_dss{suffix}"
    names = names_in(Path(path))
    assert "Ring" in names
    assert ("make_closure" in names) is (has_libffi == "True")
    module = ctypes.CDLL(path)
    assert module.PyInit__dss
    for name in ("dss_ring_put", "dss_closure_new", "dss_add_closures"):
        assert not hasattr(module, name)
    left = {each.name for each in Path(path).parent.iterdir()}
    assert not {name for name in left if name.startswith("tmp")}


@needs_compiler
def test_without_libffi_everything_but_its_functions_is_built(copied: Path) -> None:
    compiler = copied / "cc-without-libffi"
    compiler.write_text('#!/bin/sh\ncase "$*" in *DSS_FFI*) exit 1;; *) exec cc "$@";; esac\n')
    compiler.chmod(0o755)
    status, told = build(copied, CC=str(compiler))
    assert status == 0, told
    path, has_libffi = told.split()
    assert has_libffi == "False"
    names = names_in(Path(path))
    assert "Ring" in names
    assert "make_closure" not in names


@pytest.mark.skipif(not _native.is_made_for_this(), reason="it is not made for this")
@pytest.mark.parametrize("compiler", ["/bin/false", "there-is-none"])
def test_without_a_compiler_it_is_not_built_and_no_old_one_is_left(
    copied: Path, compiler: str
) -> None:
    status, told = build(copied, CC=compiler)
    assert status == 1
    assert compiler in told or "Python.h" in told
    built = (copied / "src").rglob("_dss*.so")
    assert all(WITHOUT_GIL is (each.name == "_dss.abi3.so") for each in built)


def test_the_wheel_says_which_pythons_and_machines_it_is_for() -> None:
    program = "import hatch_build; print(hatch_build.tag())"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True
    )
    python = "cp{0}{1}-cp{0}{1}t".format(*sys.version_info) if WITHOUT_GIL else "cp310-abi3"
    assert re.fullmatch(python + r"-[a-z0-9_]+\n", done.stdout)


def test_the_sources_use_no_format_whose_meaning_depends_on_the_headers() -> None:
    """A binary made with the headers of 3.13 fails on 3.12 with "#": see closures_module.c."""
    for path in (ROOT / "src" / "dss_anyio" / "_native").glob("*.c"):
        formats = re.findall(r'(?:ParseTuple|BuildValue)[^;]*?"([^"]*)"', path.read_text("utf-8"))
        assert not [each for each in formats if "#" in each], path


# -- What the doctor says --------------------------------------------------------------------------


@pytest.fixture
def not_built(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine on which it was not built; the folder has its commands."""
    if not _native.is_made_for_this():
        pytest.skip("it is not made for this")
    monkeypatch.setattr(_native, "dss", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    return tmp_path


def add_command(folder: Path, name: str, does: str = "exit 1") -> None:
    (folder / name).write_text(f"#!/bin/sh\n{does}\n")
    (folder / name).chmod(0o755)


def test_the_doctor_names_a_command_that_is_there(not_built: Path) -> None:
    [(what, remedy)] = building.notes()
    assert "missing: a C compiler" in what
    assert remedy.startswith("install a C compiler")
    add_command(not_built, "apk")
    [(_, remedy)] = building.notes()
    assert remedy.startswith("apk add gcc musl-dev")
    assert "; then python -m pip install --force-reinstall" in remedy
    assert building.found() == {"senders": False, "c_callback": False}


def test_the_doctor_asks_the_compiler_for_the_headers_of_libffi(not_built: Path) -> None:
    add_command(not_built, "apt-get")
    add_command(not_built, "cc")  # finds no header
    [(what, remedy)] = building.notes()
    assert "(ffi.h)" in what
    assert "libffi-dev" in remedy
    assert "gcc" not in remedy
    add_command(not_built, "cc", "exit 0")
    [(what, remedy)] = building.notes()
    assert "(ffi.h)" not in what
    assert "libffi-dev" not in remedy


def test_where_everything_is_there_there_is_nothing_to_say() -> None:
    if not all(building.found().values()):
        pytest.skip("the extension module is not there")
    assert building.notes() == []
