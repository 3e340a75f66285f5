"""The requirements for building the extension module, and which of them this machine lacks."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from .. import _native
from .._native import is_made_for_this

PYTHON = f"python{sys.version_info[0]}.{sys.version_info[1]}"
# For each package manager: its command, and its packages for a C compiler, the headers of Python,
# and the headers of libffi.
MANAGERS = {
    "apt-get": ("apt-get install", "gcc libc6-dev", f"{PYTHON}-dev", "libffi-dev"),
    "dnf": ("dnf install", "gcc", "python3-devel", "libffi-devel"),
    "zypper": ("zypper install", "gcc", "python3-devel", "libffi-devel"),
    "apk": ("apk add", "gcc musl-dev", "python3-dev", "libffi-dev"),
    "pacman": ("pacman -S", "gcc", "python", "libffi"),
    "brew": ("brew install", "gcc", "python", "libffi"),
}
WORDS = ("a C compiler", "the headers of this Python (Python.h)", "those of libffi (ffi.h)")


def found() -> dict[str, bool]:
    """Which parts run without Python here: the senders, and the functions of ``c_callback``."""
    dss = _native.dss
    return {"senders": dss is not None, "c_callback": hasattr(dss, "make_closure")}


def notes() -> list[tuple[str, str]]:
    """Each missing part, and how to get it."""
    if all(found().values()) or not is_made_for_this():
        return []
    if _native.dss is None:
        what = "the extension module is not there, so C threads enter Python whenever they send"
    else:
        what = "the extension module was built without libffi, so c_callback goes through Python"
    absent = [_compiler() is None, not _has_python_h(), not _has_ffi_h()]
    again = f"{install_again()}, which builds it"
    missing = [word for word, is_absent in zip(WORDS, absent, strict=True) if is_absent]
    if not missing:
        return [(what, again)]
    how = f"install {', '.join(missing)}"
    for manager, (command, *packages) in MANAGERS.items():
        if shutil.which(manager) is not None:
            names = [each for each, is_absent in zip(packages, absent, strict=True) if is_absent]
            how = f"{command} {' '.join(names)}"
            break
    return [(f"{what}; missing: {', '.join(missing)}", f"{how}; then {again}")]


def _compiler() -> str | None:
    """Find the C compiler as ``hatch_build.py`` does."""
    chosen = os.environ.get("CC")
    pythons = str(sysconfig.get_config_var("CC") or "cc")
    for command in [chosen] if chosen else [pythons.split(maxsplit=1)[0], "cc", "gcc", "clang"]:
        path = shutil.which(shlex.split(command)[0])
        if path is not None:
            return path
    return None


def _has_python_h() -> bool:
    return Path(sysconfig.get_path("include"), "Python.h").is_file()


def _has_ffi_h() -> bool:
    """Does the compiler find ffi.h? Without a compiler: is it where most systems have it?"""
    compiler = _compiler()
    if compiler is None:
        places = Path("/usr/include").glob("*/ffi.h")
        return Path("/usr/include/ffi.h").is_file() or any(places)
    command = [compiler, "-E", "-x", "c", "-"]
    flags: list[str] = []
    if shutil.which("pkg-config") is not None:
        told = subprocess.run(
            ["pkg-config", "--cflags", "libffi"], capture_output=True, text=True, check=False
        )
        flags = shlex.split(told.stdout)
    done = subprocess.run(
        [*command, *flags], input=b"#include <ffi.h>", capture_output=True, check=False
    )
    return done.returncode == 0


def install_again() -> str:
    """The command that installs this package once more, from the same origin."""
    pip = "python -m pip install --force-reinstall --no-deps"
    try:
        told = distribution("dss_anyio").read_text("direct_url.json")
    except PackageNotFoundError:
        told = None
    origin: dict[str, Any] = json.loads(told) if told else {}
    url = urlsplit(str(origin.get("url", "")))
    if url.scheme != "file" or url.path.endswith(".whl"):
        return f"{pip} --no-cache-dir --no-binary dss_anyio dss_anyio"
    editable = " --editable" if origin.get("dir_info", {}).get("editable") else ""
    return f"{pip}{editable} {shlex.quote(unquote(url.path))}"
