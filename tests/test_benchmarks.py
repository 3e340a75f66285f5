"""That the benchmarks can be run, and those of their figures that are the same on every machine."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dss_anyio import _native

ROOT = Path(__file__).parent.parent


def run(*arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout


def figures(*case: str) -> dict[str, float]:
    measured: dict[str, float] = json.loads(run("-m", "benchmarks", "--case", *case))
    return measured


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_hundred_thousand_items_wake_a_busy_loop_once(backend: str) -> None:
    assert figures("wakes", "hub", backend) == {"": 1}


def test_a_hundred_thousand_items_send_one_datagram() -> None:
    assert figures("datagrams", "polled hub", "no loop") == {"": 1}


def test_a_queued_item_takes_eight_bytes() -> None:
    assert 8 <= figures("memory", "hub", "asyncio")[""] < 9


@pytest.mark.parametrize(
    "figure",
    [
        ("one way", "hub", "asyncio", "1024 places"),
        ("round trip", "hub.serve", "asyncio", "median"),
        ("round trip", "hub.call", "trio", "median"),
        ("round trip", "by hand", "asyncio", "median"),
        ("round trip", "by hand", "trio", "median"),
        ("offer", "unbounded", "asyncio", "median"),
        ("offer", "bounded", "asyncio", "median"),
        ("offer", "send_callback, unbounded", "asyncio", "median"),
        ("offer", "send_callback, bounded", "asyncio", "median"),
        ("many portals", "clone and close, 1st", "asyncio", ""),
        ("many portals", "clone and close, 10,000th", "asyncio", ""),
        ("many portals", "register, 1st", "asyncio", ""),
        ("many portals", "register, 10,000th", "asyncio", ""),
        ("many portals", "end, 1st", "asyncio", ""),
        ("many portals", "end, 10,000th", "asyncio", ""),
        ("many portals", "give up, 1st", "asyncio", ""),
        ("many portals", "give up, 10,000th", "asyncio", ""),
        ("latest", "sources", "asyncio", ""),
        ("latest", "hub", "asyncio", ""),
        ("send in C", "native", "asyncio", "median, idle"),
        ("send in C", "native", "asyncio", "p99, computing"),
        ("one way from C", "native, batches", "asyncio", ""),
        ("ask in C, one processor", "native", "trio", "median"),
        ("way from C, one processor", "native", "trio", "median"),
    ],
    ids=" ".join,
)
def test_one_who_takes_turns_measures_once_for_each_line(figure: tuple[str, ...]) -> None:
    if " C" in figure[0] and (not hasattr(_native.dss, "make_closure") or not shutil.which("cc")):
        pytest.skip("needs the extension module, with libffi, and a C compiler")
    taken = subprocess.run(
        [sys.executable, "-m", "benchmarks", "--turns", *figure],
        cwd=ROOT, input="\n\n", capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert [0 < float(seconds) < 1e-2 for seconds in taken.stdout.splitlines()] == [True] * 2


def test_each_target_is_measured() -> None:
    program = (
        "from benchmarks.cases import cases, targets\n"
        "known = set(cases())\n"
        "needed = [f for t in targets() for f in (t.ours, t.other) if f is not None]\n"
        "print(len(needed), [f for f in needed if f[:3] not in known])\n"
    )
    many, unknown = run("-c", program).split(maxsplit=1)
    assert int(many) > 60
    assert unknown == "[]\n"
