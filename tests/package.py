"""Build what would be published, and be the one who installs it: ``make package``.

The sdist is built, from it the wheel; both are checked, and compared with what git has. Then the
wheel goes into an empty environment, with what it asks for and nothing else: no trio, uvloop, rich.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Run where only the wheel is, and what that asks for.
PROGRAM = """
import importlib.util, sys, threading
from importlib.metadata import requires, version
import anyio
import dss_anyio as dss

assert not any(map(importlib.util.find_spec, ("trio", "uvloop", "rich")))
assert version("dss_anyio") == sys.argv[1]

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


def run(*command: str | Path, status: int = 0) -> str:
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, cwd=tempfile.gettempdir()
    )
    assert done.returncode == status, f"{command}\n{done.stdout}{done.stderr}"
    return done.stdout + done.stderr


def main() -> None:
    with tempfile.TemporaryDirectory() as directory:
        built = Path(directory, "dist")
        run(sys.executable, "-m", "build", "--outdir", built, ROOT)
        [sdist], [wheel] = built.glob("*.tar.gz"), built.glob("*.whl")
        run(sys.executable, "-m", "twine", "check", "--strict", sdist, wheel)
        run(sys.executable, "-m", "check_wheel_contents", wheel)

        tracked = set(run("git", "-C", ROOT, "ls-files").splitlines())
        with tarfile.open(sdist) as archive:
            packed = {name.split("/", 1)[1] for name in archive.getnames()}
        assert packed - {"PKG-INFO"} == tracked, packed ^ tracked
        modules = {path[4:] for path in tracked if path.startswith("src/")}
        with zipfile.ZipFile(wheel) as archive:
            installed = {name for name in archive.namelist() if ".dist-info/" not in name}
        assert installed == modules, installed ^ modules
        print(f"{sdist.name}: {len(packed)} files; {wheel.name}: {len(installed)} modules")

        empty = Path(directory, "venv")
        venv.create(empty, with_pip=True)
        python = empty / ("Scripts" if sys.platform == "win32" else "bin") / "python"
        run(python, "-m", "pip", "--disable-pip-version-check", "install", wheel)
        release = re.split("-", wheel.name)[1]
        print(run(python, "-W", "error", "-c", PROGRAM, release), end="")
        told = run(python, "-m", "dss_anyio", "doctor", status=1)
        assert "pip install 'dss_anyio[trio]'" in told, told
        told = run(python, "-m", "dss_anyio", "top", "--once", status=2)
        assert "pip install 'dss_anyio[top]'" in told, told
    print("installed where nothing else is, it works")


main()
