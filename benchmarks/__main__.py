"""``python -m benchmarks``: run every contender in turn, several rounds; report, and draw."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from .cases import Case, Figure, cases, measure, targets

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "_static" / "performance"


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
    options = parser.parse_args()
    if options.case:
        print(json.dumps(measure(Case(*options.case))))
        return
    from . import report  # its libraries are not needed in the processes that measure

    if options.redraw:
        folder = options.into or PAGE
        report.draw(report.read(folder / "figures.json"), folder)
        return
    everything = not options.only_targets and not options.match
    chosen = list(cases())
    if options.only_targets:
        needed = {
            figure[:3]
            for target in targets()
            for figure in (target.ours, target.other)
            if figure is not None
        }
        chosen = [case for case in chosen if case in needed]
    chosen = [case for case in chosen if options.match in " ".join(case)]
    figures: dict[Figure, list[float]] = {}
    for case in report.progress(chosen, options.rounds):
        for detail, value in _in_a_process(case).items():
            figures.setdefault(Figure(*case, detail), []).append(value)
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


if __name__ == "__main__":
    main()
