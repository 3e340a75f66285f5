"""The output of the demo: a live table in a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections import Counter
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.table import Table
from sources import Item

import dss_anyio as dss

if TYPE_CHECKING:
    from typing_extensions import Self


class Screen:
    """Shows the state of a hub when :meth:`update` is called, every *interval* seconds."""

    def __init__(self, console: Console, backend: str) -> None:
        self._console = console
        self._backend = backend
        self.interval = 0.25 if console.is_terminal else 1.0
        self._live = Live(console=console, auto_refresh=False) if console.is_terminal else None
        self._before: Counter[str] = Counter()
        self._latest: dict[str, str] = {}

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, item: Item) -> None:
        """Remember *item* as the latest one of its source."""
        self._latest[item.source] = item.text

    def update(self, hub: dss.Hub[Item], received: Counter[str], busiest: int) -> None:
        """Show the counts, and the rates since the last time."""
        rates = {name: (received[name] - self._before[name]) / self.interval for name in received}
        self._before = received.copy()
        state = hub.statistics()
        if self._live is None:
            rows = ", ".join(f"{name} {received[name]}" for name in sorted(received))
            self._console.print(
                f"{self._backend}: {rows}; queued up to {busiest}; "
                f"{state.wakes} wakes for {state.received} items; {state.dropped} dropped",
                soft_wrap=True,
            )
            return
        table = Table(
            title=f"One hub on {self._backend}", title_justify="left", expand=True, min_width=60
        )
        table.add_column("source", style="bold")
        table.add_column("received", justify="right")
        table.add_column("per second", justify="right")
        table.add_column("latest item", ratio=1, no_wrap=True, style="dim")
        for name in sorted(received):
            table.add_row(
                name, f"{received[name]:,}", f"{rates[name]:,.0f}", self._latest.get(name, "")
            )
        table.caption = (
            f"queued up to {busiest} of {state.max_buffer_size}   "
            f"{state.wakes:,} wakes for {state.received:,} items   {state.dropped:,} dropped"
        )
        table.caption_justify = "left"
        self._live.update(table, refresh=True)
