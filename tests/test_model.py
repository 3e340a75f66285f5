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

# Each model is checked as each of these.
CONFIGURATIONS = {
    "bell": [
        "-DSENDERS=2 -DITEMS=2 -DCANCELS=2",
        "-DSENDERS=3 -DITEMS=1 -DCANCELS=2",
        "-DSENDERS=2 -DITEMS=1 -DCANCELS=2 -DCLOSES=1",
        "-DSENDERS=2 -DITEMS=2 -DCANCELS=0 -DCLOSES=1",
    ],
    "places": ["-DSENDERS=2", "-DSENDERS=3 -DCLOSES=0"],
    "end": ["-DSENDERS=3"],
    "request": ["", "-DPATIENT"],
    "inlet": [
        "-DSENDERS=2 -DITEMS=1 -DLIMIT=1",
        "-DSENDERS=2 -DITEMS=1 -DKILLS=1",
        "-DSENDERS=2 -DITEMS=1 -DCLOSES=1",
    ],
    "room": [
        "-DSENDERS=2 -DITEMS=2",
        "-DSENDERS=3 -DITEMS=1",
        "-DSENDERS=2 -DITEMS=1 -DLIMIT=1 -DCLOSES=1",
    ],
}
SETTINGS = {"SENDERS", "ITEMS", "CANCELS", "CLOSES", "PATIENT", "LIMIT", "KILLS"}

STUCK = "invalid end state"
# Without which guard, in which of the configurations above, what goes wrong first: an assertion, as
# it stands in the model, or somebody waits for ever.
WITHOUT = {
    "bell": {
        "RING_BEFORE_PUT": (0, STUCK),
        "LEAVE_THE_BELL_ARMED": (0, "wakes <= 1"),
        "LOOK_BEFORE_ARMING": (0, STUCK),
        "WITHOUT_A_SECOND_LOOK": (0, STUCK),
        "KEEP_THE_WAKE": (0, STUCK),
        "CHECKPOINT_WHILE_TAKING": (0, "!got[id]"),
        "TAKE_THE_NEWEST": (0, "id % ITEMS == next_of[id / ITEMS]"),
        "RING_BEFORE_THE_END": (2, STUCK),
        "FORGET_THE_END_IN_THE_SECOND_LOOK": (2, STUCK),
        "LOOK_FOR_THE_END_LAST": (2, "received >= put_before"),
    },
    "places": {
        "WITHOUT_A_PLACE": (0, "len(items) <= PLACES"),
        "WITHOUT_A_LOOK_AT_THE_ROOM": (0, STUCK),
        "WITHOUT_A_LOOK_AT_THE_REFUSAL": (0, STUCK),
        "RELEASE_NOBODY": (0, STUCK),
        "KEEP_THE_PLACE": (1, STUCK),
        "PUT_THEN_POP": (0, "!seen[id]"),
        "WITHOUT_SETDEFAULT": (0, "seen[n] == told[n]"),
        "GO_WITHOUT_WITHDRAWING": (0, "seen[n] == told[n]"),
    },
    "end": {
        "PEEK_THEN_POP": (0, "!handed_back[id]"),
        "HAND_BACK_FIRST": (0, "empty(items) && back == accepted"),
        "WITHOUT_THE_SWEEP_IN_THE_BELL": (0, "empty(items) && back == accepted"),
        "ARM_WITHOUT_A_LOOK": (0, "empty(items) && back == accepted"),
    },
    "request": {
        "RELEASE_NOBODY": (1, STUCK),
        "WITHOUT_A_LOOK_AFTER_THE_PUT": (1, STUCK),
        "WITHOUT_A_LOOK_AFTER_ADMITTING": (1, STUCK),
        "FORGET_SILENTLY": (1, STUCK),
        "WITHOUT_SETDEFAULT": (0, "wins == 1"),
        "GO_WITHOUT_SETTLING": (0, "heard == outcome"),
        "TELL_NO_WATCHER": (0, "!works || told || (outcome != RELEASED && outcome != ABANDONED)"),
        "WATCH_WITHOUT_A_LOOK": (
            0,
            "!works || told || (outcome != RELEASED && outcome != ABANDONED)",
        ),
    },
    "inlet": {
        "RING_BEFORE_THE_SWAP": (0, STUCK),
        "LOOK_BEFORE_ARMING": (0, STUCK),
        "KEEP_THE_NUMBER": (0, STUCK),
        "CLEAR_AFTER_ARMING": (0, STUCK),
        "WITHOUT_A_BOUND": (0, "t < head + LIMIT"),
        "TAKE_THE_FLAG_DOWN_FIRST": (1, STUCK),
        "CLAIM_AND_FILL_THEN": (1, STUCK),
        "CLOSE_WITH_THE_BIT_ALONE": (2, "taken == accepted"),
    },
    "room": {
        "TRY_BEFORE_THE_NOTE": (0, STUCK),
        "READ_THE_WORD_LAST": (0, STUCK),
        "WANT_MANY_FOR_EVER": (0, STUCK),
        "LEAVE_SILENTLY": (0, STUCK),
        "LOOK_AT_THE_NOTE_FIRST": (0, STUCK),
        "RELEASE_NOBODY": (2, STUCK),
    },
}


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
    made = subprocess.run(
        [spin, "-a", *settings.split(), str(HERE / f"{model}.pml")],
        cwd=folder, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert made.stdout == "", "spin has doubts"
    subprocess.run(["cc", optimize, "-w", "-DSAFETY", "-o", "pan", "pan.c"], cwd=folder, check=True)
    checked = subprocess.run(["./pan", "-m100000"], cwd=folder, capture_output=True, text=True)
    return checked.stdout


def violated(spin: str, model: str, settings: str, folder: Path) -> str:
    """The line of the model in which the assertion stands that has failed."""
    path = HERE / f"{model}.pml"
    replayed = subprocess.run(
        [spin, "-k", f"{model}.pml.trail", *settings.split(), str(path)],
        cwd=folder, check=False, capture_output=True, text=True,
    ).stdout  # fmt: skip
    line = re.search(r"\.pml:(\d+), Error: assertion violated", replayed)
    assert line is not None, replayed
    return path.read_text().splitlines()[int(line[1]) - 1]


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


@pytest.mark.parametrize(("model", "guard"), [(m, guard) for m in WITHOUT for guard in WITHOUT[m]])
def test_without_a_guard_a_model_breaks_the_promise_that_it_guards(
    model: str, guard: str, spin: str, tmp_path: Path
) -> None:
    which, expected = WITHOUT[model][guard]
    settings = f"{CONFIGURATIONS[model][which]} -D{guard}"
    said = check(spin, model, settings, tmp_path, "-O0")  # errors come soon
    wrong = re.search(r"^pan:1: (assertion violated|invalid end state)", said, re.MULTILINE)
    assert wrong is not None, f"nothing breaks without it: {said}"
    if expected == STUCK:
        assert wrong[1] == STUCK, said
    else:
        assert wrong[1] == "assertion violated", said
        assert f"assert({expected})" in violated(spin, model, settings, tmp_path)


@pytest.mark.parametrize("model", WITHOUT)
def test_each_guard_and_each_property_of_a_model_is_seen_to_matter(model: str) -> None:
    text = (HERE / f"{model}.pml").read_text()
    assert set(re.findall(r"(?m)^#ifn?def (\w+)", text)) - SETTINGS == set(WITHOUT[model])
    asserted = set(re.findall(r"assert\((.*?)\)(?:;|$)", text, re.MULTILINE))
    assert asserted | {STUCK} == {expected for _, expected in WITHOUT[model].values()} | {STUCK}


def test_the_functions_that_the_models_stand_for_are_there() -> None:
    named = set(re.findall(r"`(_\w+\.\w+)\.((?:\w+\.)?\w+)`", PAGE.read_text(encoding="utf-8")))
    assert len(named) > 15
    for module, path in named:
        found = importlib.import_module(f"dss_anyio.{module}")
        for name in path.split("."):
            found = getattr(found, name)


def test_the_page_says_without_which_guard_each_property_was_seen_to_fail() -> None:
    rows = re.findall(
        r"(?m)^\| `(\w+)` \| `(.+?)`: .+ \| (.+) \|$", PAGE.read_text(encoding="utf-8")
    )
    said = {
        (model, asserted, guard)
        for model, asserted, guards in rows
        for guard in re.findall(r"`(\w+)`", guards)
    }
    assert said == {
        (model, expected, guard)
        for model, guards in WITHOUT.items()
        for guard, (_, expected) in guards.items()
    }
