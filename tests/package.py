"""Build what would be published, and be the one who installs it: ``make package``.

The sdist is built, and from it two wheels: one with the extension module, and one as it comes out
where there is no C compiler. All are checked, and compared with what git has. Then each wheel goes
into an empty environment, with what it asks for and nothing else: no trio, uvloop, rich.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

PURE = "-py3-none-any.whl"
NO_COMPILER = "/bin/false"  # is there, and compiles nothing

# Run where only the wheel is, and what that asks for.
PROGRAM = """
import ctypes, importlib.util, sys, threading
from importlib.metadata import requires, version
import anyio
import dss_anyio as dss
from dss_anyio import _native

assert not any(map(importlib.util.find_spec, ("trio", "uvloop", "rich")))
assert version("dss_anyio") == dss.__version__ == sys.argv[1]

assert (_native.dss is not None) is (sys.argv[2] == "native"), _native.why_not
CB = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p)
with dss.open_polled_hub() as hub:
    callback = hub.portal.c_callback(CB, returns=3)
    assert callback(b"from C") == 3
    assert hub.poll() == [(b"from C",)]
    assert callback.native is (sys.argv[2] == "native"), callback.native

async def main():
    async with dss.open_hub() as hub:
        def ask():
            with hub.portal:
                assert hub.portal.request(20) == 21
        threading.Thread(target=ask).start()
        await hub.serve(lambda number: number + 1)

anyio.run(main)
with dss.open_polled_hub() as hub:
    hub.portal.send(1)
    assert hub.poll() == [1]
with dss.start_hub() as hub:
    assert hub.portal.call(int, "42") == 42
try:
    with dss.start_hub(backend="trio"):
        raise AssertionError("trio is not there, and a hub runs on it")
except LookupError as exc:
    print("without trio:", exc)
from dss_anyio import testing
"""


def run(*command: str | Path, status: int = 0, **environ: str) -> str:
    done = subprocess.run(
        [*map(str, command)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environ},
    )
    assert done.returncode == status, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


# What lies about in a developer's folder, and git does not have.
LIES_ABOUT = (".env", "id_rsa", "notes.txt", "core", "src/dss_anyio/.env", "src/dss_anyio/key.pem")
LIES_ABOUT += (
    "src/id_rsa",
    "tests/.env",
    "docs/.env",
    "docs/_static/secret.txt",
    "examples/id_rsa",
)
LIES_ABOUT += (
    "tests/model/pan.trail",
    "benchmarks/result.json",
    ".ci/token",
    ".vscode/settings.json",
)


def check_that_nothing_else_is_packed(
    directory: Path, packed: set[str], installed: set[str]
) -> None:
    """Build from a copy in which there are files that nobody wants to publish."""
    copy = directory / "copy"
    for path in (*(packed - {"PKG-INFO"}), *LIES_ABOUT):
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        if path in packed:
            shutil.copy(ROOT / path, copy / path)
        else:
            (copy / path).write_text("secret")
    run(sys.executable, "-m", "build", "--sdist", "--wheel", "--outdir", copy / "dist", copy)
    [sdist], [wheel] = (copy / "dist").glob("*.tar.gz"), (copy / "dist").glob("*.whl")
    assert files_of_sdist(sdist) == packed, files_of_sdist(sdist) ^ packed
    assert modules_of_wheel(wheel) == installed, modules_of_wheel(wheel) ^ installed


def files_of_sdist(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as archive:
        return {name.split("/", 1)[1] for name in archive.getnames()}


def modules_of_wheel(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


WHICH = """
import sys, sysconfig
if sys.implementation.name == "cpython" and not sysconfig.get_config_var("Py_GIL_DISABLED"):
    if sys.version_info >= (3, 10):
        print("%d.%d" % sys.version_info[:2])
"""


def other_pythons() -> dict[str, str]:
    """The other versions of CPython with a GIL that are there, and that the wheel is for."""
    versions = Path(run("pyenv", "root").strip(), "versions") if shutil.which("pyenv") else Path()
    there = [
        *versions.glob("3.*/bin/python"),
        *map(shutil.which, map("python3.{}".format, range(10, 16))),
    ]
    found: dict[str, str] = {}
    for python in map(str, filter(None, there)):
        done = subprocess.run([python, "-c", WHICH], capture_output=True, text=True, check=False)
        if done.returncode == 0 and done.stdout:  # pyenv's shims refuse to run
            found[done.stdout.strip()] = python
    found.pop("{}.{}".format(*sys.version_info), None)
    return found


def check_that_it_works(wheel: Path, folder: Path, interpreter: str = sys.executable) -> None:
    """Be the one who installs it. In *folder*, where nothing else is."""
    run(interpreter, "-m", "venv", folder)
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    run(python, "-m", "pip", "--disable-pip-version-check", "install", wheel)
    release = re.split("-", wheel.name)[1]
    kind = "pure" if wheel.name.endswith(PURE) else "native"
    print(run(python, "-W", "error", "-c", PROGRAM, release, kind), end="")
    shadow = Path("rich.py")
    shadow.write_text("raise SystemExit('a file of the current folder was run')")
    script = python.parent / "dss_anyio"
    assert run(script, "--help").startswith("usage: dss_anyio ")
    for command in ([script], [python, "-m", "dss_anyio"]):
        told = run(*command, "doctor")
        assert "pip install 'trio>=" in told, told
        assert ("pip install --force-reinstall" in told) is (kind == "pure"), told
        told = run(*command, "top", "--once", status=2)
        assert "pip install 'rich>=" in told, told
    shadow.unlink()


def main() -> None:
    # A shell starts what runs in the background with SIGINT ignored, and ``doctor`` complains.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory() as directory:
        empty = Path(directory, "empty")
        empty.mkdir()
        os.chdir(empty)  # "python -m build" would run a build.py that lies in the current folder
        built = Path(directory, "dist")
        run(sys.executable, "-m", "build", "--outdir", built, ROOT)
        [sdist], wheels = built.glob("*.tar.gz"), list(built.glob("*.whl"))
        if not wheels[0].name.endswith(PURE):  # as there, where there is no C compiler
            build = (sys.executable, "-m", "build", "--wheel", "--outdir", built, sdist)
            run(*build, CC=NO_COMPILER, DSS_ANYIO_NATIVE="")
            run(*build, CC=NO_COMPILER, DSS_ANYIO_NATIVE="require", status=1)
            wheels = sorted(built.glob("*.whl"))
            assert len(wheels) == 2, wheels
        run(sys.executable, "-m", "twine", "check", "--strict", sdist, *wheels)
        run(sys.executable, "-m", "check_wheel_contents", *wheels)

        tracked = set(run("git", "-C", ROOT, "ls-files").splitlines())
        packed = files_of_sdist(sdist)
        assert packed - {"PKG-INFO"} == tracked, packed ^ tracked
        modules = {path[4:] for path in tracked if path.startswith("src/")}
        modules -= {path for path in modules if path.endswith((".c", ".h"))}
        modules.add("dss_anyio/_native/include/dss_anyio.h")
        print(f"{sdist.name}: {len(packed)} files")
        for wheel in wheels:
            installed = modules_of_wheel(wheel)
            compiled = {path for path in installed if path.endswith(".so")}
            assert len(compiled) == (not wheel.name.endswith(PURE)), compiled
            assert installed - compiled == modules, installed ^ modules
            print(f"{wheel.name}: {len(installed)} modules")
        # The first one is that with the extension module, if there is one.
        check_that_nothing_else_is_packed(Path(directory), packed, modules_of_wheel(wheels[0]))
        for number, wheel in enumerate(wheels):
            check_that_it_works(wheel, Path(directory, f"venv{number}"))
        # One binary for all of them, on those that are there.
        if "-abi3-" in wheels[0].name:
            for version, python in other_pythons().items():
                check_that_it_works(wheels[0], Path(directory, f"venv of {version}"), python)
                print(f"{wheels[0].name}: works with CPython {version}, too")
        os.chdir(ROOT)
    print("installed where nothing else is, it works")


main()
