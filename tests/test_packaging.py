"""Which CPythons are supported is said once, by the classifiers; everything else agrees."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which pytest brings along there

ROOT = Path(__file__).parents[1]
SETTINGS: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
CPYTHONS = re.findall(r"Python :: (3\.\d+)'", str(SETTINGS["project"]["classifiers"]))
OLDEST, NEWEST = CPYTHONS[0], CPYTHONS[-1]
FIRST_WITHOUT_GIL = "3.13"


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
