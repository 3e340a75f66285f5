"""What is said once: the version, by the package; the CPythons, by the classifiers."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import dss_anyio as dss

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which pytest brings along there

ROOT = Path(__file__).parents[1]
SETTINGS: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CPYTHONS = re.findall(r"Python :: (3\.\d+)'", str(SETTINGS["project"]["classifiers"]))
OLDEST, NEWEST = CPYTHONS[0], CPYTHONS[-1]
FIRST_WITHOUT_GIL = "3.13"


def test_the_version_is_said_once_and_every_file_that_needs_it_reads_it_there() -> None:
    assert SETTINGS["project"]["dynamic"] == ["version"]
    assert SETTINGS["tool"]["hatch"]["version"] == {"path": "src/dss_anyio/__init__.py"}
    documentation: dict[str, Any] = {"__file__": str(ROOT / "docs" / "conf.py")}
    exec((ROOT / "docs" / "conf.py").read_text(encoding="utf-8"), documentation)
    assert documentation["release"] == documentation["version"] == dss.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+(\.dev\d+|rc\d+)?", dss.__version__)


def test_asking_for_the_version_imports_nothing() -> None:
    program = (
        "import sys, dss_anyio; before = set(sys.modules); dss_anyio.__version__; "
        "print(set(sys.modules) - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=True,
        timeout=20,
    )
    assert done.stdout == "set()\n"


def test_a_file_is_read_in_one_sitting_and_a_class_in_less() -> None:
    for path in (ROOT / "src").rglob("*.py"):
        source = path.read_text(encoding="utf-8")
        assert source.count("\n") <= 370, path
        for each in ast.walk(ast.parse(source)):
            if isinstance(each, ast.ClassDef):
                assert (each.end_lineno or 0) - each.lineno < 320, (path, each.name)


def test_there_is_no_gap_between_the_oldest_and_the_newest() -> None:
    assert [f"3.{minor}" for minor in range(10, 10 + len(CPYTHONS))] == CPYTHONS


def test_what_may_be_installed_is_what_is_supported() -> None:
    assert SETTINGS["project"]["requires-python"] == f">={OLDEST}"
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert f"sys.version_info >= ({OLDEST.replace('.', ', ')})" in makefile
    assert set(re.findall(r"Python (3\.\d+) or later", makefile)) == {OLDEST}
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"CPython (3\.\d+) or later", readme)) == {OLDEST}


def test_each_supported_cpython_is_tested_with_and_without_the_gil() -> None:
    without = CPYTHONS[CPYTHONS.index(FIRST_WITHOUT_GIL) :]
    tox = SETTINGS["tool"]["tox"]
    assert tox["env_list"] == [*CPYTHONS, *(f"{version}t" for version in without)]
    assert tox["env"][OLDEST]["commands_pre"] == [["python", "tests/lowest.py"]]


def test_the_checkers_look_from_the_oldest_and_from_the_newest() -> None:
    tools = SETTINGS["tool"]
    assert tools["mypy"]["python_version"] == tools["pyright"]["pythonVersion"] == OLDEST
    assert "target-version" not in tools["ruff"]  # it reads requires-python
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert re.findall(r"--pythonversion (\S+)", makefile) == [NEWEST]


def test_no_host_of_a_registry_or_of_a_mirror_is_named() -> None:
    """Scripts ask what the machine is set up with, and a link leads to a project's own page."""
    known = re.compile(r"https?://[^/\s]*\b(?:pypi|pythonhosted|debian|ubuntu|npmjs)\b[^/\s]*")
    folders = [ROOT / name for name in ("benchmarks", "docs", "examples", "src", "tests")]
    files = [path for folder in folders for path in folder.rglob("*") if "_build" not in path.parts]
    named: list[str] = []
    for path in [*files, *ROOT.glob("*.md"), *ROOT.glob("*.toml"), ROOT / "Makefile"]:
        if path.suffix in {".md", ".py", ".sh", ".toml", ""} and path.is_file():
            named += known.findall(path.read_text(encoding="utf-8"))
    assert not named
