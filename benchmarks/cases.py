"""What is measured, and what has to come out."""

from __future__ import annotations

import math
import os
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import anyio

from . import native, one_way, round_trip, small_things

BACKENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
NO_LOOP = "no loop"
# Whether the system puts two threads that wake each other onto one processor or onto two is a
# matter of chance, and makes more of a difference than all that a contender does. So for a ratio
# they are put onto one.
ON_ONE = "round trip, one processor"
ASK_ON_ONE = "ask in C, one processor"
WAY_ON_ONE = "way from C, one processor"

LOOPS_ONLY = {"janus": ("asyncio", "uvloop"), "culsans": ("asyncio", "uvloop", "trio")}
BOUNDED = ("hub", "hub, batches", "culsans", "janus", "aiologic")
SIZES = {  # of a one way: places and senders
    "": (math.inf, 1),
    "4 senders": (math.inf, 4),
    "16 senders": (math.inf, 16),
    "1024 places": (1024, 1),
    "16 places": (16, 1),
    "1024 places, 4": (1024, 4),
}
MANY_SENDERS = ("hub", "hub, batches", "aiologic", "culsans", "janus", "loop's own")


FROM_C = {  # of a one way from a thread of C: who sends, and is it received in batches?
    "native": ("native", False),
    "native, batches": ("native", True),
    "ctypes": ("ctypes", False),
    "ctypes, batches": ("ctypes", True),
    "ctypes, state kept, batches": ("ctypes, state kept", True),
}


class Case(NamedTuple):
    """What one process measures."""

    workload: str
    contender: str
    backend: str


class Figure(NamedTuple):
    """What is measured: one number for each round."""

    workload: str
    contender: str
    backend: str
    detail: str  # "4 senders", "p99", ...


def cases() -> Iterator[Case]:
    """All of them. Those of one ratio stand together: a noisy minute falls upon both."""
    for contender in one_way.WITHOUT_LOOP:
        yield Case("one way", contender, NO_LOOP)
    for contender in one_way.CONTENDERS:
        for backend in LOOPS_ONLY.get(contender, BACKENDS):
            yield Case("one way", contender, backend)
    for workload in ("round trip", ON_ONE):
        yield Case(workload, "SimpleQueue", NO_LOOP)
        for backend in BACKENDS:
            for contender in round_trip.CONTENDERS:
                yield Case(workload, contender, backend)
    for backend in BACKENDS:
        for contender in ("hub", "loop's own", "aiologic", "janus", "loop's own callback"):
            if backend in LOOPS_ONLY.get(contender, BACKENDS):
                yield Case("delay", contender, backend)
        for contender in ("hub", "BlockingPortal", "task group"):
            yield Case("open and close", contender, backend)
        for contender in ("hub", "no hub"):
            yield Case("idle", contender, backend)
        for contender in ("hub", "no hub"):
            yield Case("threads of C", contender, backend)
        yield Case("wakes", "hub", backend)
        for contender in ("unbounded", "bounded"):
            yield Case("offer", contender, backend)
            yield Case("offer", f"send_callback, {contender}", backend)
    for contender in ("hub", "hub, source", "aiologic", "culsans"):
        yield Case("memory", contender, "asyncio")
    for what in ("clone and close", "register", "end", "give up"):
        for place in ("1st", "10,000th"):
            yield Case("many portals", f"{what}, {place}", "asyncio")
    for contender in ("hub", "sources"):
        yield Case("latest", contender, "asyncio")
    yield Case("datagrams", "polled hub", NO_LOOP)
    if native.is_there():
        for contender in ("native", "ctypes"):
            yield Case("send in C", contender, "asyncio")
        for workload in ("ask in C", ASK_ON_ONE, "way from C", WAY_ON_ONE):
            for backend in ("asyncio", "trio"):
                for contender in ("native", "ctypes"):
                    yield Case(workload, contender, backend)
        for where in native.places():
            yield Case("wake from C to C", where, NO_LOOP)
        for contender in FROM_C:
            yield Case("one way from C", contender, "asyncio")
        for contender in ("c_callback", "ctypes"):
            yield Case("call in C", contender, NO_LOOP)
        for contender in ("native", "ctypes"):
            yield Case("exits", contender, NO_LOOP)


# -- In the process of one case --------------------------------------------------------------------


def measure(case: Case) -> dict[str, float]:
    """The figures of *case*: by their detail, in seconds, bytes, or just a number."""
    workload, contender, backend = case
    run = _run_in(backend)
    if workload == "one way":
        return dict(_one_way(contender, backend))
    _stay_on_one(workload)
    if workload in ("round trip", ON_ONE):
        figures: dict[str, float] = {}
        for askers in (1, 4, 16) if workload == "round trip" else (1,):
            one = round_trip.measure_without_loop if backend == NO_LOOP else round_trip.measure
            times = run(one, contender, askers, 1600)
            figures.update(_percentiles(times, f", {askers} askers" if askers > 1 else ""))
        return figures
    if workload == "delay":
        delays, _ = run(small_things.measure_delay, contender, 500, 500)
        figures = _percentiles(delays)
        for rate in (1_000, 10_000, 50_000, 200_000):
            items = max(300, rate // 4)
            delays, wakes = run(small_things.measure_delay, contender, rate, items)
            figures.update(_percentiles(delays, f", {rate} per second"))
            if wakes:
                figures[f"wakes, {rate} per second"] = wakes
        return figures
    if workload == "offer":
        return _percentiles(run(small_things.measure_offer, contender, 100_000))
    if workload == "open and close":
        return _percentiles(run(small_things.measure_life, contender, 300))
    if workload == "many portals":
        return {"": statistics.median(run(small_things.measure_many_portals, contender, 25))}
    if workload == "latest":
        return {"": run(small_things.measure_latest, contender, 4, 200_000)}
    if workload == "idle":
        return {"": run(small_things.measure_idle, contender, 100, 1.0)}
    if workload == "memory":
        return {"": run(small_things.measure_memory, contender, 300_000)}
    if workload == "wakes":
        return {"": run(small_things.measure_wakes, 100_000)}
    if workload == "datagrams":
        return {"": small_things.measure_datagrams(100_000)}
    if workload == "send in C":
        figures = {}
        for meanwhile in native.MEANWHILE:
            # In a call a ctypes callback waits 50 ms each time.
            many = 100 if (contender, meanwhile) == ("ctypes", "in a call") else 300
            times = run(native.measure_sends, contender, meanwhile, many)
            figures.update(_percentiles(times, f", {meanwhile}", SHARES))
        return figures
    if workload == "one way from C":
        rate_of = partial(run, native.measure_rate, *FROM_C[contender])
        items, rate = _calibrated(rate_of, 200)
        return {"": 1 / statistics.median([rate, rate_of(items), rate_of(items)])}
    if workload in ("ask in C", ASK_ON_ONE):
        return _percentiles(run(native.measure_asks, contender, 300))
    if workload in ("way from C", WAY_ON_ONE):
        return _percentiles(run(native.measure_way, contender, 300))
    if workload == "wake from C to C":
        return _percentiles(native.measure_wakes(contender, 300))
    if workload == "call in C":
        return {"": native.measure_calls(contender, 50_000)}
    if workload == "exits":
        return {"": native.measure_exits(contender, 40)}
    assert workload == "threads of C"
    return {"": 1 / run(small_things.measure_native, contender, 40_000)}


def take_turns(figure: Figure) -> None:
    """Measure *figure* once for each line that comes, and print the seconds.

    The other side of a ratio does the same in another process; whoever writes the lines lets them
    take turns. What disturbs one of them for longer than some tenths of a second disturbs both.
    """
    _stay_on_one(figure.workload)
    turns = _turns(figure)
    for _ in sys.stdin:
        print(next(turns), flush=True)


def _turns(figure: Figure) -> Iterator[float]:
    """The seconds, measured anew each time; how many items it takes is found out in the first."""
    workload, contender, backend, detail = figure
    run = _run_in(backend)
    if workload == "one way":
        rate_of = partial(_one_way_rate, contender, backend, *SIZES[detail])
        items, _ = _calibrated(rate_of, 500)
        while True:
            yield 1 / rate_of(items)
    if workload == "one way from C":
        rate_of = partial(run, native.measure_rate, *FROM_C[contender])
        items, _ = _calibrated(rate_of, 200)
        while True:
            yield 1 / rate_of(items)
    while True:
        if workload == ON_ONE:
            times = run(round_trip.measure, contender, 1, 800)
        elif workload == "round trip":
            # On which processor a new thread begins is a matter of chance; the system takes some
            # hundredths of a second to find the place where it leaves it. So each of four threads
            # asks a thousand times before it counts.
            times = []
            for _ in range(4):
                times += run(round_trip.measure, contender, 1, 2000)[1000:]
        elif workload == "delay":
            times, _ = run(small_things.measure_delay, contender, 500, 100)
        elif workload == "offer":
            times = run(small_things.measure_offers, contender, 200)
        elif workload == "send in C":
            times = run(native.measure_sends, contender, detail.split(", ")[1], 100)
        elif workload == ASK_ON_ONE:
            times = run(native.measure_asks, contender, 100)
        elif workload == WAY_ON_ONE:
            times = run(native.measure_way, contender, 100)
        elif workload == "many portals":
            times = run(small_things.measure_many_portals, contender, 25)
        elif workload == "latest":
            times = [run(small_things.measure_latest, contender, 4, 100_000)]
        else:
            assert workload == "open and close"
            times = run(small_things.measure_life, contender, 2000)
        yield statistics.median(times)


def _stay_on_one(workload: str) -> None:
    """Run on the same processor as the other side, if only one thread at a time has work to do."""
    alone = ("open and close", "offer", "many portals")
    pinned = workload.endswith("one processor") or workload in alone
    if pinned and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})


def _run_in(backend: str) -> Callable[..., Any]:
    """How to call a function in *backend*."""
    return _call if backend == NO_LOOP else partial(_run, *BACKENDS[backend])


def _run(backend: str, options: dict[str, Any], func: Callable[..., Any], *args: Any) -> Any:
    return anyio.run(func, *args, backend=backend, backend_options=options)


def _call(func: Callable[..., Any], *args: Any) -> Any:
    return func(*args)


def _one_way(contender: str, backend: str) -> Iterator[tuple[str, float]]:
    """Seconds for an item: the middle one of three times that are long enough to be measured."""
    details = [""]
    if contender in MANY_SENDERS or contender in one_way.WITHOUT_LOOP:
        details += ["4 senders", "16 senders"]
    if contender in BOUNDED or contender in one_way.WITHOUT_LOOP:
        details += ["1024 places", "16 places", "1024 places, 4"]
    items = 500
    for detail in details:
        rate_of = partial(_one_way_rate, contender, backend, *SIZES[detail])
        items, rate = _calibrated(rate_of, items)
        yield detail, 1 / statistics.median([rate, rate_of(items), rate_of(items)])
        items = max(500, items // 4)


def _one_way_rate(contender: str, backend: str, size: float, senders: int, items: int) -> float:
    one = one_way.measure_without_loop if backend == NO_LOOP else one_way.measure
    rate: float = _run_in(backend)(one, contender, size, senders, items)
    return rate


def _calibrated(rate_of: Callable[[int], float], items: int) -> tuple[int, float]:
    """How many items take 80 milliseconds, and how many came in a second then."""
    while True:
        rate = rate_of(items)
        if items / rate > 0.08:
            return items, rate
        items = int(min(items * 8, max(items * 2, rate * 0.12)))


# How many of a thousand take at most this long; of a distribution, and of all others.
SHARES = {"p1": 10, "p5": 50, "p10": 100, "p25": 250, "median": 500, "p75": 750, "p90": 900}
SHARES |= {"p95": 950, "p99": 990}
USUAL = {"median": 500, "p90": 900, "p99": 990}


def _percentiles(
    times: list[float], of: str = "", shares: Mapping[str, int] = USUAL
) -> dict[str, float]:
    cuts = statistics.quantiles(times, n=1000, method="inclusive")
    figures = {f"{name}{of}": cuts[share - 1] for name, share in shares.items()}
    return {**figures, f"worst{of}": max(times)}


# -- What has to come out --------------------------------------------------------------------------


class Target(NamedTuple):
    """A ratio of two figures, or one figure by itself, and how large or small it has to be."""

    what: str
    ours: Figure
    other: Figure | None
    at_least: bool
    must: float
    aim: float
    speed: bool = False  # the ratio of rates, not of seconds

    @property
    def in_turns(self) -> Case | None:
        """What its two sides are measured as, if they take turns; else they are other cases'."""
        if self.other is None or self.ours.workload == "idle":
            return None
        return Case("in turns", self.what, self.ours.backend)

    @property
    def sides(self) -> tuple[Figure, Figure | None]:
        """The figures that are compared."""
        case = self.in_turns
        if case is None:
            return self.ours, self.other
        return Figure(*case, "ours"), Figure(*case, "other")


def _one(contender: str, backend: str, detail: str = "") -> Figure:
    return Figure("one way", contender, backend, detail)


def targets() -> Iterator[Target]:
    floor = _one("SimpleQueue", NO_LOOP)
    peer, peer_on_trio = _one("aiologic", "asyncio"), _one("aiologic", "trio")

    def faster(what: str, ours: Figure, other: Figure, must: float, aim: float) -> Target:
        return Target(what, ours, other, True, must, aim, speed=True)

    def shorter(what: str, ours: Figure, other: Figure, must: float, aim: float) -> Target:
        return Target(what, ours, other, False, must, aim)

    yield faster("async for, asyncio / aiologic", _one("hub", "asyncio"), peer, 2.5, 4)
    yield faster("async for, trio / aiologic on trio", _one("hub", "trio"), peer_on_trio, 12, 20)
    for backend in ("asyncio", "trio"):
        yield faster(
            f"bounded hub (1024), send, {backend} / aiologic unbounded, asyncio",
            _one("hub", backend, "1024 places"),
            peer,
            1.6,
            3,
        )
    for backend in BACKENDS:
        yield faster(
            f"receive_many, {backend} / SimpleQueue",
            _one("hub, batches", backend),
            floor,
            0.5,
            1,
        )
    for backend in BACKENDS:
        yield faster(
            f"send_many and receive_many, {backend} / SimpleQueue",
            _one("hub, lots", backend),
            floor,
            1,
            3,
        )
    for backend in BACKENDS:
        yield faster(
            f"4 senders / 1 sender, {backend}",
            _one("hub", backend, "4 senders"),
            _one("hub", backend),
            0.9,
            1.2,
        )
    for backend in ("asyncio", "trio"):
        portal = Figure(ON_ONE, "BlockingPortal.call", backend, "median")
        yield shorter(
            f"request, serve, {backend} / BlockingPortal.call",
            Figure(ON_ONE, "hub.serve", backend, "median"),
            portal,
            0.42,
            0.25,
        )
        yield shorter(
            f"portal.call, {backend} / BlockingPortal.call",
            Figure(ON_ONE, "hub.call", backend, "median"),
            portal,
            0.36,
            0.25,
        )
    for backend in ("asyncio", "trio"):
        by_hand = Figure("round trip", "by hand", backend, "median")
        for what, contender in (("request, serve", "hub.serve"), ("portal.call", "hub.call")):
            yield shorter(
                f"{what}, {backend} / by hand, threads where the system puts them",
                Figure("round trip", contender, backend, "median"),
                by_hand,
                1.25,
                1.1,
            )
    for backend in ("asyncio", "trio"):
        yield shorter(
            f"one item into an idle loop, {backend} / the loop's own queue",
            Figure("delay", "hub", backend, "median"),
            Figure("delay", "loop's own", backend, "median"),
            0.85,
            0.65,
        )
    for backend in BACKENDS:
        yield Target(
            f"wakes for 100,000 items, {backend}",
            Figure("wakes", "hub", backend, ""),
            None,
            False,
            1,
            1,
        )
    yield Target(
        "datagrams for 100,000 items",
        Figure("datagrams", "polled hub", NO_LOOP, ""),
        None,
        False,
        1,
        1,
    )
    yield Target(
        "offer, the receiver is busy, microseconds",
        Figure("offer", "unbounded", "asyncio", "median"),
        None,
        False,
        0.2,
        0.08,
    )
    for size, where in (("unbounded", "unbounded hub"), ("bounded", "bounded hub with room")):
        yield shorter(
            f"send_callback / offer, the receiver is busy, {where}",
            Figure("offer", f"send_callback, {size}", "asyncio", "median"),
            Figure("offer", size, "asyncio", "median"),
            1.3,
            1.1,
        )
    yield Target(
        "memory of a queued item, bytes", Figure("memory", "hub", "asyncio", ""), None, False, 9, 8
    )
    for backend in ("asyncio", "trio"):
        yield shorter(
            f"open, one item, close, {backend} / BlockingPortal",
            Figure("open and close", "hub", backend, "median"),
            Figure("open and close", "BlockingPortal", backend, "median"),
            1.75,
            1.2,
        )
    for what, contender in (
        ("clone() and close() of the 10,000th portal / the first", "clone and close"),
        ("registering the 10,000th source / the first", "register"),
        ("ending the 10,000th source / the first", "end"),
        ("giving up as the 10,000th that waits for room / the first", "give up"),
    ):
        yield shorter(
            what,
            Figure("many portals", f"{contender}, 10,000th", "asyncio", ""),
            Figure("many portals", f"{contender}, 1st", "asyncio", ""),
            1.5,
            1,
        )
    yield faster(
        'a thousand sources with (1, "drop_oldest"), 4 senders / one hub with that policy',
        Figure("latest", "sources", "asyncio", ""),
        Figure("latest", "hub", "asyncio", ""),
        0.5,
        0.8,
    )
    for backend in BACKENDS:
        yield Target(
            f"processor while idle with 100 sources, {backend}, percent more than without",
            Figure("idle", "hub", backend, ""),
            Figure("idle", "no hub", backend, ""),
            False,
            0.1,
            0.1,
        )
    if native.is_there():
        yield from _targets_from_c(floor)


def _targets_from_c(floor: Figure) -> Iterator[Target]:
    """What threads do that never enter Python."""

    def faster(what: str, ours: Figure, other: Figure, must: float, aim: float) -> Target:
        return Target(what, ours, other, True, must, aim, speed=True)

    for cut, must, aim in (("median", 0.5, 0.05), ("p99", 3, 0.5)):
        yield Target(
            f"dss_send while Python computes, {cut}, microseconds",
            Figure("send in C", "native", "asyncio", f"{cut}, computing"),
            None,
            False,
            must,
            aim,
        )
    yield faster(
        "dss_send, the loop idle / a ctypes callback",
        Figure("send in C", "native", "asyncio", "median, idle"),
        Figure("send in C", "ctypes", "asyncio", "median, idle"),
        8,
        12,
    )
    for ours, how, rows in (
        (
            "native, batches",
            "receive_many",
            (("ctypes, batches", 100, 400), ("ctypes, state kept, batches", 25, 80), ("", 1, 2)),
        ),
        ("native", "async for", (("ctypes", 50, 100), ("", 0.25, 0.45))),
    ):
        for other, must, aim in rows:
            yield faster(
                f"64 bytes from C, {how} / {other or 'SimpleQueue'}",
                Figure("one way from C", ours, "asyncio", ""),
                Figure("one way from C", other, "asyncio", "") if other else floor,
                must,
                aim,
            )
    for what, workload, must, aim in (
        ("dss_ask", ASK_ON_ONE, 2.5, 3.5),
        ("from dss_send to the handler", WAY_ON_ONE, 1.8, 2.5),
    ):
        for backend in ("asyncio", "trio"):
            yield faster(
                f"{what}, {backend} / a ctypes callback, one processor",
                Figure(workload, "native", backend, "median"),
                Figure(workload, "ctypes", backend, "median"),
                must,
                aim,
            )
    yield Target(
        "one call of a c_callback, nanoseconds",
        Figure("call in C", "c_callback", NO_LOOP, ""),
        None,
        False,
        150,
        80,
    )
    yield Target(
        "locks lost by three threads of C when Python exits under them, 40 times",
        Figure("exits", "native", NO_LOOP, ""),
        None,
        False,
        0,
        0,
    )
