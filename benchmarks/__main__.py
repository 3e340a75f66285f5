"""``python -m benchmarks``: run every contender in turn, several rounds; report, and draw."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from .cases import Case, Figure, Target, cases, measure, take_turns, targets

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "_static" / "performance"
TURNS = 5  # that the two sides of a ratio take in each round


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="how often all are measured")
    parser.add_argument("--only-targets", action="store_true", help="what the targets need, alone")
    parser.add_argument("--match", default="", help="only cases with this in their name")
    parser.add_argument(
        "--into",
        type=Path,
        help="the folder for figures and charts; for all cases: that of the documentation",
    )
    parser.add_argument(
        "--redraw", action="store_true", help="measure nothing; draw the charts of that folder anew"
    )
    parser.add_argument("--case", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--turns", nargs=4, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(Case(*options.case))))
        return
    if options.turns:
        take_turns(Figure(*options.turns))
        return
    from . import report  # its libraries are not needed in the processes that measure

    if options.redraw:
        folder = options.into or PAGE
        report.draw(report.read(folder / "figures.json"), folder)
        return
    everything = not options.only_targets and not options.match
    chosen: list[Case | Target] = [*cases(), *(each for each in targets() if each.in_turns)]
    if options.only_targets:
        needed = {figure[:3] for each in targets() for figure in each.sides if figure is not None}
        chosen = [each for each in chosen if isinstance(each, Target) or each in needed]
    chosen = [each for each in chosen if options.match in _name(each)]
    figures: dict[Figure, list[float]] = {}
    for each in report.progress(chosen, options.rounds):
        if isinstance(each, Target):
            measured = _in_turns(each)
        else:
            measured = {Figure(*each, at): value for at, value in _in_a_process(each).items()}
        for figure, value in measured.items():
            figures.setdefault(figure, []).append(value)
    report.show(figures)
    folder = options.into or (PAGE if everything else None)
    if folder is not None:
        report.write(figures, folder)


def _in_a_process(case: Case) -> dict[str, float]:
    command = [sys.executable, "-m", __package__, "--case", *case]
    run = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=120, check=False
    )
    if run.returncode:
        raise SystemExit(f"{' '.join(case)} has failed")
    figures: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
    return figures


def _name(what: Case | Target) -> str:
    return " ".join(what.in_turns or () if isinstance(what, Target) else what)


def _in_turns(target: Target) -> dict[Figure, float]:
    """Both sides of *target*, each in a process of its own; one waits while the other measures."""
    sides = {side: list[float]() for side in target.sides if side is not None}
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", __package__, "--turns", *figure],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for figure in (target.ours, target.other)
            if figure is not None
        ]
        for _ in range(1 + TURNS):
            for process, times in zip(processes, sides.values(), strict=True):
                assert process.stdin is not None
                assert process.stdout is not None
                print(file=process.stdin, flush=True)
                try:
                    times.append(float(process.stdout.readline()))
                except ValueError:
                    raise SystemExit(f"{target.what} has failed") from None
    # The first one is for what is made once, and to find out how many items it takes.
    return {side: statistics.median(times[1:]) for side, times in sides.items()}


if __name__ == "__main__":
    main()
