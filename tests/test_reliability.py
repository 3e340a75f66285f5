"""That the list of mutants and the page of promises stay true to the source."""

from __future__ import annotations

import ast
import re
from functools import cache

import pytest
from mutants import MUTANTS, ONE_OF_EACH, ROOT, Mutant, chosen

PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
PROMISES = [*[f"P{number}" for number in range(1, 11)], *[f"N{number}" for number in range(1, 7)]]


@cache
def functions_of(file: str) -> set[str]:
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    return {
        node.name for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
    }


def is_there(test: str) -> bool:
    file, function = test.split("::")
    return function in functions_of(file)


def listed_under(promise: str) -> list[str]:
    """The tests that the page names under *promise*."""
    listed = re.search(rf"^### {promise}\b.*?(?=^##)", PAGE, re.MULTILINE | re.DOTALL)
    assert listed is not None
    return re.findall(r"`(test_\w+\.py::test_\w+)`", listed[0])


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.breaks)
def test_each_mutant_changes_what_is_there_once(mutant: Mutant) -> None:
    source = (ROOT / "src" / "dss_anyio" / mutant.file).read_text(encoding="utf-8")
    assert source.count(mutant.old) == 1
    assert mutant.new != mutant.old
    if mutant.file.endswith(".py"):
        ast.parse(source.replace(mutant.old, mutant.new))
    assert [test for test in mutant.tests.split() if not is_there(test)] == []


def test_each_promise_of_the_page_is_broken_by_a_mutant() -> None:
    promised = re.findall(r"^\| ([PN]\d+) \|", PAGE, re.MULTILINE)
    assert promised == PROMISES
    assert [mutant.promise for mutant in chosen([ONE_OF_EACH])] == PROMISES


@pytest.mark.parametrize("promise", PROMISES)
def test_the_page_names_the_tests_that_were_seen_to_fail_and_no_others(promise: str) -> None:
    named = listed_under(promise)
    assert [test for test in named if not is_there(test)] == []
    mutants = [mutant for mutant in MUTANTS if mutant.promise == promise]
    assert named == list(dict.fromkeys(test for each in mutants for test in each.tests.split()))
    assert named


def test_the_files_that_the_page_names_are_there() -> None:
    named = re.findall(r"`(test_\w+\.py)(?:::\w+)?`", PAGE)
    assert len(named) > 10
    assert [name for name in named if not (ROOT / "tests" / name).is_file()] == []


def test_the_page_says_how_many_mutants_there_are() -> None:
    assert f"**Mutants** (`make mutants`). {len(MUTANTS)} guards" in PAGE
