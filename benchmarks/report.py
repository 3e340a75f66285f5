"""What came out: a table in the terminal; figures and charts for the documentation."""

from __future__ import annotations

import os
import platform
import statistics
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import pyperf
from matplotlib.figure import Figure as Chart
from rich.console import Console
from rich.progress import track
from rich.table import Table

from .cases import BACKENDS, NO_LOOP, SHARES, Figure, Target, cases, targets

Figures = Mapping[Figure, Sequence[float]]
T_Case = TypeVar("T_Case")

console = Console()


def progress(cases: Sequence[T_Case], rounds: int) -> Iterator[T_Case]:
    """All of *cases* in turn, *rounds* times."""
    for turn in range(1, rounds + 1):
        yield from track(cases, f"round {turn} of {rounds}", console=console, transient=True)


# -- In the terminal -------------------------------------------------------------------------------


def show(figures: Figures) -> None:
    _show_targets(figures)
    for workload in dict.fromkeys(figure.workload for figure in figures):
        if workload != "in turns":
            _show_workload(figures, workload)


def ratio(target: Target, figures: Figures) -> tuple[float, float, float] | None:
    """The median over the rounds, and the lowest and the highest. None if it was not measured."""
    side, other_side = target.sides
    ours = figures.get(side)
    if ours is None:
        return None
    if other_side is None:
        scale = {"offer": 1e6, "send in C": 1e6, "call in C": 1e9}.get(target.ours.workload, 1.0)
        ratios = [scale * value for value in ours]
    else:
        other = figures.get(other_side)
        if other is None:
            return None
        pairs = list(zip(ours, other, strict=True))
        if target.ours.workload == "idle":
            ratios = [max(0.0, 100 * (mine - theirs)) for mine, theirs in pairs]
        elif target.speed:
            ratios = [theirs / mine for mine, theirs in pairs]
        else:
            ratios = [mine / theirs for mine, theirs in pairs]
    return statistics.median(ratios), min(ratios), max(ratios)


def _show_targets(figures: Figures) -> None:
    table = Table("target", "measured", "rounds", "must", "aim", "", title="Targets")
    for target in targets():
        measured = ratio(target, figures)
        if measured is None:
            continue
        median, lowest, highest = measured
        verdict = _verdict(target, median)
        sign = "≥" if target.at_least else "≤"
        style = {"missed": "red", "met": "green", "aim reached": "bold green"}[verdict]
        table.add_row(
            target.what,
            f"{median:.3g}",
            f"{lowest:.3g} to {highest:.3g}",
            f"{sign} {target.must:g}",
            f"{sign} {target.aim:g}",
            f"[{style}]{verdict}[/]",
        )
    if table.row_count:
        console.print(table)


def _verdict(target: Target, median: float) -> str:
    def reached(limit: float) -> bool:
        return median >= limit if target.at_least else median <= limit

    return "aim reached" if reached(target.aim) else "met" if reached(target.must) else "missed"


def _show_workload(figures: Figures, workload: str) -> None:
    details = list(dict.fromkeys(each.detail for each in figures if each.workload == workload))
    if len(details) > 6:
        details = [each for each in details if each.startswith("median")]
    table = Table("contender", "backend", *[each or "median" for each in details], title=workload)
    for contender, backend in dict.fromkeys(
        (each.contender, each.backend) for each in figures if each.workload == workload
    ):
        cells = []
        for detail in details:
            values = figures.get(Figure(workload, contender, backend, detail))
            cells.append("" if values is None else _cell(workload, values))
        table.add_row(contender, backend, *cells)
    console.print(table)


def _cell(workload: str, values: Sequence[float]) -> str:
    if workload in ("one way", "one way from C", "threads of C"):  # seconds for an item
        rates = [1 / value for value in values]
        return f"{_si(statistics.median(rates))}/s ±{_spread(rates):.0f}%"
    if workload in ("wakes", "datagrams", "exits"):
        return f"{statistics.median(values):g}"
    if workload == "memory":
        return f"{statistics.median(values):.1f} bytes"
    if workload == "idle":
        return f"{100 * statistics.median(values):.3f}%"
    return f"{1e6 * statistics.median(values):.2f} us ±{_spread(values):.0f}%"


def _spread(values: Sequence[float]) -> float:
    """The median distance from the median, in percent of it."""
    median = statistics.median(values)
    return 100 * statistics.median([abs(value - median) for value in values]) / median


def _si(value: float) -> str:
    return f"{value / 1e6:.2f} M" if value >= 1e6 else f"{value / 1e3:.1f} k"


# -- For the documentation -------------------------------------------------------------------------


def write(figures: Figures, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(figures, folder / "figures.json")
    (folder / "targets.md").write_text(_targets_as_markdown(figures), encoding="utf-8")
    draw(figures, folder)


def read(path: Path) -> Figures:
    """The figures of an earlier run; those that were zero are missing."""
    known = [*cases(), *(target.in_turns for target in targets())]
    prefixes = {", ".join(case): case for case in known if case is not None}
    figures: dict[Figure, Sequence[float]] = {}
    for benchmark in pyperf.BenchmarkSuite.load(str(path)).get_benchmarks():
        name = str(benchmark.get_name())
        prefix = max((each for each in prefixes if f"{name}, ".startswith(f"{each}, ")), key=len)
        detail = name[len(prefix) :].removeprefix(", ")
        figures[Figure(*prefixes[prefix], detail)] = list(benchmark.get_values())
    return figures


def draw(figures: Figures, folder: Path) -> None:
    """The charts alone."""
    for name, chart in _charts(figures):
        chart.savefig(folder / f"{name}.svg", metadata={"Date": None}, bbox_inches="tight")


def _write_json(figures: Figures, path: Path) -> None:
    """As pyperf has it: ``python -m pyperf compare_to`` compares two such files."""
    path.unlink(missing_ok=True)
    suite = []
    for figure, values in figures.items():
        if not all(value > 0 for value in values):
            continue  # pyperf has no zeros; what may be none (idle) is in the table of targets
        name = ", ".join(each for each in figure if each)
        unit = {"memory": "byte", **dict.fromkeys(("wakes", "datagrams", "exits"), "integer")}
        metadata = {"name": name, "unit": unit.get(figure.workload, "second")}
        runs = [
            pyperf.Run([float(value)], metadata=metadata, collect_metadata=False)
            for value in values
        ]
        suite.append(pyperf.Benchmark(runs))
    pyperf.BenchmarkSuite(suite).dump(str(path))


def _targets_as_markdown(figures: Figures) -> str:
    lines = [
        f"Measured with {_about()}.",
        "",
        "| | measured | in the rounds | must | aim | |",
        "|---|---|---|---|---|---|",
    ]
    for target in targets():
        measured = ratio(target, figures)
        if measured is not None:
            median, lowest, highest = measured
            sign = "≥" if target.at_least else "≤"
            lines.append(
                f"| {target.what} | {median:.3g} | {lowest:.3g} to {highest:.3g} "
                f"| {sign}\u00a0{target.must:g} | {sign}\u00a0{target.aim:g} "
                f"| {_verdict(target, median)} |"
            )
    return "\n".join(lines) + "\n"


def _about() -> str:
    packages = ("anyio", "trio", "uvloop", "aiologic", "culsans", "janus")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    return (
        f"{platform.python_implementation()} {platform.python_version()} on "
        f"{platform.system()} {platform.machine()} with {os.cpu_count()} processors; {versions}"
    )


# -- Charts ----------------------------------------------------------------------------------------

OURS = "#2a6fb5"
OTHERS = "#b9b9b9"
OUR_NAMES = ("hub", "polled", "native")
LINES = {
    "hub": OURS,
    "hub, batches": "#7fb2e5",
    "aiologic": "#c8553d",
    "culsans": "#6a994e",
    "janus": "#8d6cab",
    "loop's own": "#7f7f7f",
    "loop's own callback": "#c2a83e",
    "asyncio": OURS,
    "uvloop": "#c8553d",
    "trio": "#6a994e",
    "native": OURS,
    "ctypes": "#c8553d",
}


def _charts(figures: Figures) -> Iterator[tuple[str, Chart]]:
    medians = {figure: statistics.median(values) for figure, values in figures.items()}
    for name, draw in (
        ("throughput", _throughput),
        ("round_trip", _round_trip),
        ("senders", _senders),
        ("load", _load),
        ("wakes", _wakes),
        ("sends_from_c", _sends_from_c),
        ("throughput_from_c", _throughput_from_c),
    ):
        chart = draw(medians)
        if chart is not None:
            yield name, chart


def _bars(
    axes: Any, medians: Mapping[Figure, float], chosen: Sequence[Figure], unit: Any, label: Any
) -> None:
    values = [unit(medians[each]) for each in chosen]
    names = [each.contender for each in chosen]
    colours = [OURS if name.startswith(OUR_NAMES) else OTHERS for name in names]
    places = range(len(chosen))
    axes.barh(places, values, color=colours)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    for place, value in zip(places, values, strict=True):
        axes.annotate(f" {label(value)}", (value, place), va="center", fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.margins(x=0.15)


def _throughput(medians: Mapping[Figure, float]) -> Chart | None:
    """A logarithmic axis: the slowest and the fastest are a thousandfold apart."""
    backends = [each for each in [*BACKENDS, NO_LOOP] if _one_way_of(medians, each)]
    if not backends:
        return None
    chosen = [_one_way_of(medians, backend) for backend in backends]
    chart = Chart(figsize=(8, 0.32 * sum(map(len, chosen)) + 1.6 * len(chosen)), dpi=100)
    rows = chart.subplots(
        len(backends), 1, squeeze=False, height_ratios=[len(each) + 1 for each in chosen]
    )
    for (axes,), backend, figures in zip(rows, backends, chosen, strict=True):
        _bars(axes, medians, figures, lambda seconds: 1 / seconds, _si)
        axes.set_xscale("log")
        axes.set_xlim(1e3, 1e8)
        axes.set_title(f"{backend}: items per second, one sender, no limit", fontsize=10)
    chart.tight_layout()
    return chart


def _one_way_of(medians: Mapping[Figure, float], backend: str) -> list[Figure]:
    found = [each for each in medians if each[0] == "one way" and each[2:] == (backend, "")]
    return sorted(found, key=lambda each: medians[each])


def _round_trip(medians: Mapping[Figure, float]) -> Chart | None:
    backends = [
        each
        for each in BACKENDS
        if any(figure[0] == "round trip" and figure.backend == each for figure in medians)
    ]
    if not backends:
        return None
    chart = Chart(figsize=(8, 3.1 * len(backends)), dpi=100)
    rows = chart.subplots(len(backends), 1, squeeze=False)
    for (axes,), backend in zip(rows, backends, strict=True):
        contenders = sorted(
            {each.contender for each in medians if each[0] == "round trip" and each[2] == backend},
            key=lambda each: medians[Figure("round trip", each, backend, "median")],
        )
        for index, (percentile, shade) in enumerate((("p99", 0.35), ("p90", 0.6), ("median", 1))):
            values = [
                1e6 * medians[Figure("round trip", each, backend, percentile)]
                for each in contenders
            ]
            colours = [OURS if each.startswith("hub") else "#808080" for each in contenders]
            axes.barh(
                range(len(contenders)),
                values,
                color=colours,
                alpha=shade,
                height=0.5 + 0.12 * index,
            )
        axes.set_yticks(range(len(contenders)), contenders)
        axes.invert_yaxis()
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_title(
            f"{backend}: microseconds for an answer; dark to light: median, p90, p99", fontsize=10
        )
    chart.tight_layout()
    return chart


def _senders(medians: Mapping[Figure, float]) -> Chart | None:
    counts = {"": 1, "4 senders": 4, "16 senders": 16}
    backends = [each for each in BACKENDS if Figure("one way", "hub", each, "4 senders") in medians]
    if not backends:
        return None
    chart = Chart(figsize=(8, 3.2), dpi=100)
    columns = chart.subplots(1, len(backends), squeeze=False, sharey=True)
    for axes, backend in zip(columns[0], backends, strict=True):
        contenders = [
            each.contender
            for each in medians
            if each[0] == "one way" and each[2:] == (backend, "4 senders")
        ]
        for contender in contenders:
            rates = [1e-6 / medians[Figure("one way", contender, backend, each)] for each in counts]
            axes.plot(list(counts.values()), rates, "o-", label=contender, color=LINES[contender])
        axes.set_xscale("log", base=2)
        axes.set_xticks(list(counts.values()), [str(each) for each in counts.values()])
        axes.set_yscale("log")
        axes.set_title(backend, fontsize=10)
        axes.set_xlabel("sending threads")
        axes.spines[["top", "right"]].set_visible(False)
    columns[0][0].set_ylabel("million items per second")
    # The first column has them all: not each contender runs on each backend.
    handles, labels = columns[0][0].get_legend_handles_labels()
    columns[0][-1].legend(handles, labels, fontsize=8, frameon=False, bbox_to_anchor=(1, 1))
    chart.tight_layout()
    return chart


def _load(medians: Mapping[Figure, float]) -> Chart | None:
    rates = (1_000, 10_000, 50_000, 200_000)
    backends = [
        each
        for each in BACKENDS
        if Figure("delay", "hub", each, "median, 1000 per second") in medians
    ]
    if not backends:
        return None
    chart = Chart(figsize=(8, 3.2), dpi=100)
    columns = chart.subplots(1, len(backends), squeeze=False, sharey=True)
    for axes, backend in zip(columns[0], backends, strict=True):
        contenders = dict.fromkeys(
            each.contender for each in medians if each[0] == "delay" and each[2] == backend
        )
        for contender in contenders:
            for percentile, style in (("median", "o-"), ("p99", "x:")):
                delays = [
                    1e6
                    * medians[
                        Figure("delay", contender, backend, f"{percentile}, {rate} per second")
                    ]
                    for rate in rates
                ]
                label = contender if percentile == "median" else None
                axes.plot(rates, delays, style, label=label, color=LINES[contender], markersize=4)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_title(backend, fontsize=10)
        axes.set_xlabel("items per second")
        axes.spines[["top", "right"]].set_visible(False)
    columns[0][0].set_ylabel("microseconds; dotted: p99")
    # The first column has them all: not each contender runs on each backend.
    handles, labels = columns[0][0].get_legend_handles_labels()
    columns[0][-1].legend(handles, labels, fontsize=8, frameon=False, bbox_to_anchor=(1, 1))
    chart.tight_layout()
    return chart


def _wakes(medians: Mapping[Figure, float]) -> Chart | None:
    rates = (1_000, 10_000, 50_000, 200_000)
    backends = [
        each
        for each in BACKENDS
        if Figure("delay", "hub", each, "wakes, 1000 per second") in medians
    ]
    if not backends:
        return None
    chart = Chart(figsize=(5, 3.2), dpi=100)
    axes = chart.subplots()
    for backend in backends:
        wakes = [
            100 * medians[Figure("delay", "hub", backend, f"wakes, {rate} per second")]
            for rate in rates
        ]
        axes.plot(rates, wakes, "o-", label=backend, color=LINES[backend])
    axes.set_xscale("log")
    axes.set_ylim(0)
    axes.set_xlabel("items per second")
    axes.set_ylabel("wakes for 100 items")
    axes.legend(fontsize=8, frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    chart.tight_layout()
    return chart


def _sends_from_c(medians: Mapping[Figure, float]) -> Chart | None:
    """Distributions: the height of a point is the share of sends that took no longer."""
    panels = {
        "idle": "Python is idle: each send wakes it",
        "computing": "Python computes",
        "in a call": "Python is inside a call of 50 ms in C",
    }
    if Figure("send in C", "native", "asyncio", "median, in a call") not in medians:
        return None
    chart = Chart(figsize=(8, 3.2), dpi=100)
    columns = chart.subplots(1, len(panels), squeeze=False, sharex=True, sharey=True)
    for axes, (meanwhile, title) in zip(columns[0], panels.items(), strict=True):
        for contender in ("native", "ctypes"):
            times = [
                1e6 * medians[Figure("send in C", contender, "asyncio", f"{each}, {meanwhile}")]
                for each in SHARES
            ]
            axes.plot(
                times,
                [share / 10 for share in SHARES.values()],
                "o-",
                label="dss_send" if contender == "native" else "ctypes callback",
                color=LINES[contender],
                markersize=3,
            )
        axes.set_xscale("log")
        axes.set_title(title, fontsize=9)
        axes.set_xlabel("microseconds inside of a send")
        axes.spines[["top", "right"]].set_visible(False)
    columns[0][0].set_ylabel("percent of the sends")
    columns[0][-1].legend(fontsize=8, frameon=False, loc="center")
    chart.tight_layout()
    return chart


def _throughput_from_c(medians: Mapping[Figure, float]) -> Chart | None:
    """A logarithmic axis, as for threads of Python."""
    chosen = [each for each in medians if each[0] == "one way from C"]
    if not chosen:
        return None
    chosen += [each for each in medians if each == ("one way", "SimpleQueue", NO_LOOP, "")]
    chosen.sort(key=lambda each: medians[each])
    chart = Chart(figsize=(8, 0.32 * len(chosen) + 1), dpi=100)
    axes = chart.subplots()
    _bars(axes, medians, chosen, lambda seconds: 1 / seconds, _si)
    axes.set_xscale("log")
    axes.set_xlim(1e3, 1e8)
    axes.set_title("items of 64 bytes per second from one thread of C, asyncio", fontsize=10)
    chart.tight_layout()
    return chart
