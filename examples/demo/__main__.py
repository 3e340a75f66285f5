"""Three libraries with threads of their own send into one hub, on asyncio and then on trio.

Run it with ``make demo``. At the end it stops every library, the newest first, and compares the
counts: each call of a library was received, handed back, or too late.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections import Counter
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import anyio
from rich.console import Console
from screen import Screen
from sources import CPool, Directory, Item, Library, Microphone, NotHereError

import dss_anyio as dss


async def receive(hub: dss.Hub[Item], screen: Screen, received: Counter[str]) -> None:
    """Receive the items of the libraries, and show the counts from time to time."""
    busiest = 0
    due = anyio.current_time()
    while True:
        batch = await hub.receive_many()
        busiest = max(busiest, len(batch))
        for item in batch:
            received[item.source] += 1
        screen.show(batch[-1])
        if anyio.current_time() >= due:
            due = anyio.current_time() + screen.interval
            screen.update(hub, received, busiest)
            busiest = 0


async def run(backend: str, seconds: float, libraries: list[Library], console: Console) -> bool:
    """Run the libraries for some seconds; return whether all counts add up."""
    received: Counter[str] = Counter({library.name: 0 for library in libraries})

    def stop(library: Library, value: None) -> None:
        library.stop(value)
        console.print(f"  stopped {library.name}")

    async with dss.open_hub[Item](2048, name=f"demo on {backend}") as hub:
        async with AsyncExitStack() as sources:
            for library in libraries:
                await sources.enter_async_context(
                    hub.open_source(
                        library.name,
                        library.start,
                        partial(stop, library),
                        decode=library.decode,
                        on_undelivered=library.on_undelivered,
                    )
                )
                if library.native:
                    console.print(f"  the threads of {library.name} never enter Python")
            with Screen(console, backend) as screen, anyio.move_on_after(seconds):
                await receive(hub, screen, received)
            console.print("The time is over. The newest library is stopped first:")
        state = hub.statistics()

    adds_up = True
    counts = {library: next(library.handed_back) for library in libraries}
    # What a thread that does not enter Python has found no room for is counted, not handed back.
    dropped = state.dropped + state.undelivered - sum(counts.values())
    adds_up &= dropped == 0 or any(library.native for library in libraries)
    for library in libraries:
        handed_back = counts[library] + (dropped if library.native else 0)
        sent = received[library.name] + handed_back
        late = library.calls - sent
        adds_up &= library.calls > 0 and 0 <= late <= state.late
        console.print(
            f"  {library.name}: {library.calls:,} calls = {received[library.name]:,} received"
            f" + {handed_back:,} handed back or dropped + {late:,} too late",
            soft_wrap=True,
        )
    calls = sum(library.calls for library in libraries)
    handed_back = state.dropped + state.undelivered
    adds_up &= calls == state.received + handed_back + state.late
    adds_up &= state.received == sum(received.values()) and not hub.blocked()
    console.print(
        f"  The hub has counted {state.received:,} received + {state.dropped:,} dropped + "
        f"{state.undelivered:,} undelivered + {state.late:,} late"
        f" = {state.received + handed_back + state.late:,} of {calls:,} calls: "
        f"{'the counts add up' if adds_up else 'THE COUNTS DO NOT ADD UP'}.\n",
        soft_wrap=True,
    )
    return adds_up


def main() -> int:
    parser = argparse.ArgumentParser(prog="demo", description=__doc__)
    parser.add_argument("--seconds", type=float, default=6.0, help="for each backend (6)")
    parser.add_argument("--backend", choices=["asyncio", "trio"], help="only one of them")
    options = parser.parse_args()
    console = Console(highlight=False)
    good = True
    with tempfile.TemporaryDirectory() as folder:
        backends = [options.backend] if options.backend else ["asyncio", "trio"]
        for backend in backends:
            libraries: list[Library] = [Directory(), Microphone()]
            try:
                libraries.insert(0, CPool(Path(folder)))
            except NotHereError as exc:
                console.print(f"{exc}.")
            names = ", ".join(library.name for library in libraries)
            console.print(f"{names}: {len(libraries)} libraries, one hub on {backend}")
            good &= anyio.run(run, backend, options.seconds, libraries, console, backend=backend)
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (KeyboardInterrupt, asyncio.CancelledError):
        # On Python 3.10, anyio.run turns KeyboardInterrupt into CancelledError.
        sys.exit("interrupted; the libraries were stopped")
