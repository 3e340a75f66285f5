"""That the list of mutants and the page of promises stay true to the source."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from mutants import MUTANTS, ROOT, Mutant

PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.breaks)
def test_each_mutant_changes_what_is_there_once(mutant: Mutant) -> None:
    source = (ROOT / "src" / "dss_anyio" / f"{mutant.module}.py").read_text(encoding="utf-8")
    assert source.count(mutant.old) == 1
    assert mutant.new != mutant.old
    for test in mutant.tests.split(" -k ", maxsplit=1)[0].split():
        assert Path(ROOT, test).is_file()


def test_each_promise_of_the_page_is_broken_by_a_mutant() -> None:
    promised = re.findall(r"^\| (P\d+) \|", PAGE, re.MULTILINE)
    assert promised == [f"P{number}" for number in range(1, 11)]
    assert {mutant.promise for mutant in MUTANTS} == set(promised)


def test_the_tests_that_the_page_names_are_there() -> None:
    named = re.findall(r"`(test_\w+\.py)`", PAGE)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / "tests" / name).is_file()] == []


def test_the_page_says_how_many_mutants_there_are() -> None:
    assert f"**Mutants** (`make mutants`). {len(MUTANTS)} guards" in PAGE
