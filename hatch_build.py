"""Builds the extension module, if it can be built here; else the wheel is pure Python, and says so.

Hatchling calls this when it makes a wheel or an editable install. Run as a program, it builds the
module into ``src``, for whoever works there without an install: ``python hatch_build.py``.

The module is optional: threads that never enter Python need it, nothing else does. So without a C
compiler, or without Python's headers, there is a wheel for any Python (py3-none-any). With both,
one wheel serves CPython 3.10 and all later ones (cp310-abi3), and a Python without the GIL gets one
of its own. ``DSS_ANYIO_NATIVE=require`` makes it an error if the module cannot be built, as in CI;
``DSS_ANYIO_NATIVE=off`` leaves it out. ``CC``, ``CFLAGS`` and ``LDFLAGS`` mean what they always do.

libffi makes a function of C for each ``c_callback``. It is linked into the module where there is a
static one that can be, else the module needs the shared one. Without libffi only ``c_callback`` and
``c_request_callback`` go on through Python.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run as a program
    BuildHookInterface = object

ROOT = Path(__file__).parent
SOURCES = ROOT / "src" / "dss_anyio" / "_native"
MODULE = "_dss"
FLAGS = ["-O2", "-std=c11", "-fPIC", "-fvisibility=hidden", "-pthread", "-Wall", "-Wextra"]
WITHOUT_GIL = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


class NotBuiltError(Exception):
    """The message says why, and what is missing."""


class CustomBuildHook(BuildHookInterface):  # type: ignore[misc]  # hatchling's, or object
    """What hatchling finds in this file."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before the wheel is put together. *version* is "standard" or "editable"."""
        wanted = os.environ.get("DSS_ANYIO_NATIVE", "")
        if wanted not in ("", "off", "require"):
            raise ValueError(f"DSS_ANYIO_NATIVE is {wanted!r}; known are 'require' and 'off'")
        editable = version == "editable"
        try:
            if wanted == "off":
                raise NotBuiltError("DSS_ANYIO_NATIVE=off")
            folder = SOURCES if editable else Path(tempfile.mkdtemp())
            self._made = None if editable else folder
            built, has_libffi = build(folder)
        except NotBuiltError as exc:
            if editable:
                remove()
            if wanted == "require":
                raise RuntimeError(f"DSS_ANYIO_NATIVE=require, but {exc}") from None
            self.app.display_warning(f"dss_anyio without its extension module: {exc}")
            return
        if not has_libffi:
            self.app.display_warning("no libffi (ffi.h): c_callback goes on through Python")
        if not editable:
            build_data["force_include"][str(built)] = f"dss_anyio/_native/{built.name}"
        build_data["pure_python"] = False
        build_data["tag"] = tag()

    def finalize(self, *_: object) -> None:
        """After the wheel was put together."""
        made = getattr(self, "_made", None)
        if made is not None:
            shutil.rmtree(made)


def tag() -> str:
    """What is compiled here runs with which Pythons, on which machines."""
    python = "cp{}{}".format(*sys.version_info)
    machine = sysconfig.get_platform()
    if sys.platform == "darwin":  # we compile for this machine, whatever Python was compiled for
        machine = f"macosx-{'.'.join(deployment_target())}-{platform.machine()}"
    machine = machine.replace("-", "_").replace(".", "_")
    return f"{python}-{python}t-{machine}" if WITHOUT_GIL else f"cp310-abi3-{machine}"


def deployment_target() -> list[str]:
    """The oldest macOS that is meant, as its two numbers."""
    target = os.environ.get("MACOSX_DEPLOYMENT_TARGET")
    target = target or str(sysconfig.get_config_var("MACOSX_DEPLOYMENT_TARGET") or "11.0")
    return [*target.split("."), "0"][:2]


def filename() -> str:
    return MODULE + (str(sysconfig.get_config_var("EXT_SUFFIX")) if WITHOUT_GIL else ".abi3.so")


def remove() -> None:
    """Let nobody find in ``src`` what was compiled from other sources."""
    (SOURCES / filename()).unlink(missing_ok=True)


def build(folder: Path) -> tuple[Path, bool]:
    """Build the module into *folder*. Return its path, and whether libffi is in it.

    :raises NotBuiltError: if that is not possible here
    """
    if sys.implementation.name != "cpython" or os.name != "posix":
        raise NotBuiltError(f"it is not made for {sys.implementation.name} on {sys.platform}")
    sources = sorted(map(str, SOURCES.glob("*.c")))
    if not sources:
        raise NotBuiltError(f"there are no sources in {SOURCES}")
    headers = sysconfig.get_path("include")
    if not Path(headers, "Python.h").is_file():
        raise NotBuiltError(f"the headers of this Python (Python.h) are not in {headers}")
    compiler = find_compiler()
    command = [*compiler, *FLAGS, f"-I{SOURCES / 'include'}", f"-I{headers}"]
    if not WITHOUT_GIL:
        command.append("-DPy_LIMITED_API=0x030A0000")
    if sys.platform == "darwin":
        command += ["-bundle", "-undefined", "dynamic_lookup"]
        command.append(f"-mmacosx-version-min={'.'.join(deployment_target())}")
    else:
        command.append("-shared")
    command += shlex.split(os.environ.get("CFLAGS", ""))
    after = shlex.split(os.environ.get("LDFLAGS", ""))
    why = ""
    for libffi in (*ways_to_link_libffi(compiler), []):
        define = ["-DDSS_FFI=1"] if libffi else []
        with tempfile.TemporaryDirectory(dir=folder) as new:
            built = Path(new, filename())
            error = run([*command, *define, *sources, "-o", str(built), *libffi, *after])
            error = error or try_to_import(built)
            if error is None:
                # In one step: a program that has loaded the old one goes on with that.
                return built.replace(folder / built.name), bool(libffi)
            why = error
    raise NotBuiltError(f"{compiler[0]} could not compile it:\n{why}")


def find_compiler() -> list[str]:
    """The compiler as the beginning of a command: $CC, Python's own, or one that is there."""
    chosen = os.environ.get("CC")
    pythons = str(sysconfig.get_config_var("CC") or "cc")
    for command in [chosen] if chosen else [pythons.split(maxsplit=1)[0], "cc", "gcc", "clang"]:
        words = shlex.split(command)
        if words and shutil.which(words[0]) is not None:
            return words
    raise NotBuiltError(f"there is no C compiler ({chosen or 'cc, gcc or clang'})")


def ways_to_link_libffi(compiler: list[str]) -> Iterator[list[str]]:
    """What to add to the command, the best first. Whether one works is seen when it is tried."""
    flags, folders = [], []
    if shutil.which("pkg-config") is not None:
        flags = shlex.split(ask("pkg-config", "--cflags", "--libs-only-L", "libffi"))
        folders = [ask("pkg-config", "--variable=libdir", "libffi")]
    for name in ("libffi_pic.a", "libffi.a"):
        there = ask(*compiler, f"-print-file-name={name}")  # the bare name if it is not there
        for path in (*(Path(folder, name) for folder in folders if folder), Path(there)):
            if path.is_absolute() and path.is_file():
                # Its names are ours alone: ctypes has brought a libffi of its own.
                hidden = [] if sys.platform == "darwin" else [f"-Wl,--exclude-libs,{name}"]
                yield [*flags, str(path), *hidden]
                break
    yield [*flags, "-lffi"]


def run(command: list[str]) -> str | None:
    """Run *command*. What it has printed if it fails, else None."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        print(done.stderr, file=sys.stderr, end="")  # warnings
        return None
    return (done.stdout + done.stderr).strip() or f"{command[0]} returned {done.returncode}"


def ask(*command: str) -> str:
    """What *command* prints; nothing if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""


def try_to_import(built: Path) -> str | None:
    """What is wrong with the module; None if it can be imported. A linker leaves out much."""
    if "_PYTHON_HOST_PLATFORM" in os.environ and sys.platform != "darwin":
        return None  # it is not for this machine
    program = (
        "import importlib.util, sys\n"
        "spec = importlib.util.spec_from_file_location(*sys.argv[1:])\n"
        "spec.loader.exec_module(importlib.util.module_from_spec(spec))\n"
    )
    return run([sys.executable, "-c", program, f"dss_anyio._native.{MODULE}", str(built)])


if __name__ == "__main__":
    try:
        print(*build(SOURCES))
    except NotBuiltError as exc:
        remove()
        sys.exit(str(exc))
