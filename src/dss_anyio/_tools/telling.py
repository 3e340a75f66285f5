"""The state of a program's hubs, as one line of JSON.

The thread that calls ``serve_statistics()`` imports this file, with all modules that it needs. It
is imported only then, because most programs are never watched. The thread that serves must import
nothing: a child that is forked during an import would find that module locked for ever.
"""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from .._ending.ways_out import open_hubs
from .._hub.base import Face, mailbox_of
from .._hub.looking import SourceStatistics, state_of

MOST_ENDED = 1000  # ended sources of a hub that are listed


def document() -> bytes:
    """The whole line, with the state of all open hubs."""
    told = {
        "pid": os.getpid(),
        "program": sys.argv[:1],
        "time": time.monotonic(),
        "hubs": [_describe(hub) for hub in open_hubs()],
    }
    return json.dumps(told, allow_nan=False).encode() + b"\n"


def _describe(hub: Face[Any]) -> dict[str, Any]:
    counts = Face.statistics(hub)  # not a subclass's method, which would be code of the user
    told: dict[str, Any] = counts._asdict()
    told.update(
        max_buffer_size=_limit(counts.max_buffer_size),
        sources=_sources(counts.sources),
        requests=counts.requests._asdict(),
        feeds={
            name: {**each._asdict(), "max_buffer_size": _limit(each.max_buffer_size)}
            for name, each in counts.feeds.items()
        },
    )
    return {
        "id": id(hub),  # names need not be different
        "name": hub.name,
        "kind": type(hub).__name__,
        "state": state_of(mailbox_of(hub)),
        **told,
        "blocked": [each._asdict() for each in Face.blocked(hub)],
    }


def _limit(size: float) -> float | None:
    return None if size == math.inf else size


def _sources(sources: Mapping[str, SourceStatistics]) -> dict[str, Any]:
    """All registered sources, and the last ``MOST_ENDED`` ended ones, to limit the document."""
    ended = [name for name, each in sources.items() if not each.registered]
    passed_over = set(ended[:-MOST_ENDED])
    return {name: _source(each) for name, each in sources.items() if name not in passed_over}


def _source(counts: SourceStatistics) -> dict[str, Any]:
    """A source. It has "max_buffer_size" only if it has its own bound; null is no limit."""
    told: dict[str, Any] = {**counts._asdict(), "requests": counts.requests._asdict()}
    limit = told.pop("max_buffer_size")
    if limit is not None:
        told["max_buffer_size"] = _limit(limit)
    return told
