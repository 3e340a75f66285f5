"""The models in ``tests/model`` are checked by spin, as they are and with each guard removed.

A model is a C program that spin makes, which visits every state that its processes can reach. What
is checked are its assertions, and that nobody is left waiting: a state in which all wait and not
all are done is an "invalid end state". ``docs/model.md`` says what stands for what.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "model"
PAGE = Path(__file__).parent.parent / "docs" / "model.md"

# Each model is checked as each of these; a guard is missed if any of them finds an error.
CONFIGURATIONS = {
    "bell": ["-DSENDERS=2 -DITEMS=2", "-DSENDERS=3 -DITEMS=1 -DCANCELS=0"],
    "places": ["-DSENDERS=2", "-DSENDERS=3 -DCLOSES=0"],
    "end": ["-DSENDERS=3"],
    "request": ["", "-DPATIENT"],
}
SETTINGS = {"SENDERS", "ITEMS", "CANCELS", "CLOSES", "PATIENT"}
GUARDS = sorted(
    {
        (model, guard)
        for model in CONFIGURATIONS
        for guard in re.findall(r"(?m)^#ifn?def (\w+)", (HERE / f"{model}.pml").read_text())
        if guard not in SETTINGS
    }
)


@pytest.fixture(scope="session")
def spin() -> str:
    for tool in ("spin", "cc"):
        if shutil.which(tool) is None and os.name == "posix" and os.geteuid() == 0:
            subprocess.run(["apt-get", "install", "-qq", "-y", "spin", "gcc"], capture_output=True)
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    return "spin"


def check(spin: str, model: str, settings: str, folder: Path, optimize: str = "-O1") -> str:
    """Check *model* and return what the checker says."""
    subprocess.run(
        [spin, "-a", *settings.split(), str(HERE / f"{model}.pml")],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip
    subprocess.run(["cc", optimize, "-w", "-DSAFETY", "-o", "pan", "pan.c"], cwd=folder, check=True)
    checked = subprocess.run(["./pan", "-m100000"], cwd=folder, capture_output=True, text=True)
    return checked.stdout


@pytest.mark.parametrize(
    ("model", "settings"),
    [(model, settings) for model in CONFIGURATIONS for settings in CONFIGURATIONS[model]],
)
def test_no_state_of_a_model_breaks_a_promise(
    model: str, settings: str, spin: str, tmp_path: Path
) -> None:
    said = check(spin, model, settings, tmp_path)
    assert re.search(r"errors: 0$", said, re.MULTILINE), said
    assert "max search depth too small" not in said, "not every state was visited"
    assert "Search not completed" not in said
    found = re.search(r"(\d+) states, stored", said)
    assert found is not None
    assert int(found[1]) > 2000


@pytest.mark.parametrize(("model", "guard"), GUARDS)
def test_without_a_guard_a_model_breaks_a_promise(
    model: str, guard: str, spin: str, tmp_path: Path
) -> None:
    errors = []
    for settings in CONFIGURATIONS[model]:
        said = check(spin, model, f"{settings} -D{guard}", tmp_path, "-O0")  # errors come soon
        errors += re.findall(r"^pan:1: (assertion violated|invalid end state)", said, re.MULTILINE)
        if errors:
            return
    raise AssertionError(f"nothing breaks without it: {said}")


def test_the_functions_that_the_models_stand_for_are_there() -> None:
    named = set(re.findall(r"`(_\w+)\.((?:\w+\.)?\w+)`", PAGE.read_text(encoding="utf-8")))
    assert len(named) > 15
    for module, path in named:
        found = importlib.import_module(f"dss_anyio.{module}")
        for name in path.split("."):
            found = getattr(found, name)


def test_the_page_names_each_guard() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [guard for _, guard in GUARDS if f"`{guard}`" not in page] == []
