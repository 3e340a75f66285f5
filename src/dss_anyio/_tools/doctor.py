"""``python -m dss_anyio doctor``: does a hub work on this machine, in this Python, and how well?

We draw no conclusions from a version if we can try: for each backend we open a hub, and a thread
wakes it.
"""

from __future__ import annotations

import _thread
import importlib
import json
import platform
import select
import signal
import sys
import sysconfig
import threading
import time
import types
import warnings
from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, NamedTuple, cast

import anyio

from .._hub.hub import open_hub
from .._hub.polled import open_polled_hub
from .._loops.datagram import Doorbell
from .._loops.worker import start_daemon
from .._native import is_made_for_this
from .._portal.portal import Portal
from . import building

ITEMS = 500
PAUSE = 0.0003  # seconds between two items, for the receiver to fall asleep
AT_MOST = 0.4  # seconds for one backend
ANYIO_FLOOR = (4, 11)  # as in pyproject.toml
TRIO = "trio>=0.31"  # as in pyproject.toml

BACKENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {}),
    "trio": ("trio", {}),
    "uvloop": ("asyncio", {"use_uvloop": True}),  # the last: it might switch the GIL on
}


class Warned(NamedTuple):
    what: str
    remedy: str


def examine(as_json: bool) -> int:
    """Print the findings, and the remedies. Returns 1 if there is a warning, else 0."""
    warned: list[Warned] = []
    found = look(warned)
    notes = missing()
    if as_json:
        found["warnings"] = [each._asdict() for each in warned]
        found["notes"] = [each._asdict() for each in notes]
        print(json.dumps(found))
        return 1 if warned else 0
    for name, value in found.items():
        for line in _lines(name, value):
            print(line)
    for kind, those in (("WARNING", warned), ("NOTE", notes)):
        for each in those:
            print(f"\n{kind}: {each.what}\n  remedy: {each.remedy}")
    if not warned:
        print("\nno warnings")
    return 1 if warned else 0


def _lines(name: str, value: Any) -> list[str]:
    name = name.replace("_", " ")
    if isinstance(value, dict) and "median_us" in value:
        times = "median {median_us:.0f} µs, p99 {p99_us:.0f} µs ({items} items)"
        value = times.format_map(cast("dict[str, float]", value))
    elif isinstance(value, dict):
        parts = cast("dict[str, Any]", value)
        return [line for key, each in parts.items() for line in _lines(f"{name}: {key}", each)]
    elif value is None or isinstance(value, bool):
        value = "yes" if value else "no"
    return [f"{name:32} {value}"]


def look(warned: list[Warned]) -> dict[str, Any]:
    """Return all findings; add the warnings to *warned*."""
    found: dict[str, Any] = {
        "python": platform.python_version(),
        "implementation": platform.python_implementation(),
        "free_threaded_build": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        "gil": gil_is_on(),
        "platform": platform.platform(),
        "versions": {name: version_of(name) for name in ("anyio", "trio", "uvloop")},
        "native": building.found(),
        "switch_interval": sys.getswitchinterval(),
        "file_descriptors": _descriptors(),
    }
    if found["free_threaded_build"] and found["gil"]:
        warned.append(
            Warned(
                "this Python is built to run without the GIL, but the GIL is on",
                "leave out PYTHON_GIL=1 and -X gil=1, and modules that switch it on when imported",
            )
        )
    _look_at_anyio(found["versions"]["anyio"], warned)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        warned.append(
            Warned(
                "SIGINT is ignored, so Ctrl-C ends nothing; a shell does that to programs that it "
                "starts in the background",
                "signal.signal(signal.SIGINT, signal.default_int_handler) at the program's start",
            )
        )
    patched = threads_are_patched()
    if patched:
        warned.append(
            Warned(
                "threads are not threads here, because gevent, eventlet or the like has patched "
                "them: a thread that waits in a portal may stop the loop that would answer",
                "do not patch the process that opens a hub; or leave threads out of it: "
                "gevent.monkey.patch_all(thread=False), eventlet.monkey_patch(thread=False)",
            )
        )
    found["udp_on_loopback"] = udp_works()
    if not found["udp_on_loopback"]:
        warned.append(
            Warned(
                "UDP on loopback does not work: fileno() of a polled hub raises OSError, and no "
                "datagram reaches wake_address",
                "bring the loopback interface up (ip link set lo up), or open the firewall for "
                "127.0.0.1; until then use hub.wait() or hub.poll()",
            )
        )
    found["wake"] = {} if patched else measure(found["udp_on_loopback"], warned)
    return found


def missing() -> list[Warned]:
    """The optional parts that are missing: nothing is wrong without them."""
    notes = [Warned(*each) for each in building.notes()]
    if not is_made_for_this():
        notes.append(
            Warned(
                "the extension module is not made for "
                f"{sys.implementation.name} on {sys.platform}, only for CPython on POSIX systems; "
                "there is no native_sender, and C threads enter Python whenever they send",
                "c_callback and send_callback do the same through Python",
            )
        )
    if find_spec("trio") is None:
        what = "trio is not installed, so hubs run on asyncio only"
        notes.insert(0, Warned(what, f"pip install '{TRIO}', if you want it"))
    return notes


def gil_is_on() -> bool:
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def version_of(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _descriptors() -> int | None:
    """How many file descriptors this process may have. None where there is no such limit."""
    if sys.platform == "win32":
        return None
    import resource

    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return None if limit == resource.RLIM_INFINITY else limit


def _look_at_anyio(found: str | None, warned: list[Warned]) -> None:
    numbers = tuple(int(each) for each in (found or "0").split(".")[:2] if each.isdecimal())
    if numbers < ANYIO_FLOOR:
        floor = ".".join(map(str, ANYIO_FLOOR))
        warned.append(
            Warned(
                f"anyio {found} is older than {floor}, which dss_anyio is made for",
                f"pip install 'anyio>={floor}'",
            )
        )


def threads_are_patched() -> bool:
    """Is the function that starts threads no longer Python's own?"""
    return not isinstance(_thread.start_new_thread, types.BuiltinFunctionType)


def udp_works() -> bool:
    """Does a datagram to ourselves arrive? (Such datagrams wake a polled hub.)"""
    try:
        doorbell = Doorbell()
    except OSError:
        return False
    try:
        return doorbell.ring() and bool(select.select([doorbell], [], [], 1)[0])
    finally:
        doorbell.close()


# -- How long a wake takes -------------------------------------------------------------------------


def measure(by_datagram: bool, warned: list[Warned]) -> dict[str, Any]:
    """The time from a thread's ``send`` to a receiver that was asleep, for each backend."""
    measured: dict[str, Any] = {}
    runs: dict[str, Callable[[], list[float]]] = {"polled": partial(_wake_polled, by_datagram)}
    runs.update({name: partial(_wake_loop, *BACKENDS[name]) for name in BACKENDS})
    for name, run in runs.items():
        if name in ("trio", "uvloop") and find_spec(name) is None:
            continue
        try:
            if name in BACKENDS:
                _import(name, warned)
            times = sorted(run())
            measured[name] = {
                "median_us": _microseconds(times, 0.5),
                "p99_us": _microseconds(times, 0.99),
                "items": len(times),
            }
        except Exception as exc:
            error = f"{type(exc).__name__}: {exc}".splitlines()[0]
            measured[name] = {"error": error}
            warned.append(
                Warned(
                    f"a hub does not work here with {name}: {error}",
                    f"pip install --upgrade anyio {name}"
                    if name in ("trio", "uvloop")
                    else "the error says what is missing; it may be file descriptors (ulimit -n)",
                )
            )
    return measured


def _import(name: str, warned: list[Warned]) -> None:
    before = gil_is_on()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python's own warning about the GIL
        importlib.import_module(name)
    if gil_is_on() and not before:
        warned.append(
            Warned(
                f"importing {name} {version_of(name)} switches the GIL on, for the whole process",
                f"pip install --upgrade {name} (uvloop 0.23 leaves it off), or use another backend",
            )
        )


def _microseconds(times: list[float], part: float) -> float:
    return round(times[min(len(times) - 1, int(len(times) * part))] * 1e6, 1)


def _send(portal: Portal[float], received: threading.Event) -> None:
    """Send the time, again and again, each time to a receiver that is asleep."""
    end = time.perf_counter() + AT_MOST
    with portal:
        for _ in range(ITEMS):
            received.clear()
            time.sleep(PAUSE)
            portal.send(time.perf_counter())
            if not received.wait(5) or time.perf_counter() > end:
                return


def _wake_loop(backend: str, options: dict[str, Any]) -> list[float]:
    async def main() -> list[float]:
        times: list[float] = []
        received = threading.Event()
        async with open_hub[float]() as hub:
            start_daemon(lambda: _send(hub.portal, received), "dss_anyio: doctor")
            async for sent in hub:
                times.append(time.perf_counter() - sent)
                received.set()
        return times

    return anyio.run(main, backend=backend, backend_options=options)


def _wake_polled(by_datagram: bool) -> list[float]:
    times: list[float] = []
    received = threading.Event()
    with open_polled_hub[float]() as hub:
        start_daemon(lambda: _send(hub.portal, received), "dss_anyio: doctor")
        try:
            while True:
                if by_datagram:
                    select.select([hub], [], [])
                else:
                    hub.wait()
                for sent in hub.poll():
                    times.append(time.perf_counter() - sent)
                    received.set()
        except anyio.EndOfStream:
            return times
