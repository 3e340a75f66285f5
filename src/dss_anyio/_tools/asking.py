"""Ask programs for the state of their hubs: all at once, with a limit of time and of size for each.

We trust the answer of a program only so far that we show it. The program may be of another version,
be stopped, or be hostile: then we show nothing of it, and no other answer waits for it. The result
is, for each program, a dict with a list of dicts "hubs", which can be written as JSON again. The
contents of these dicts are not checked.
"""

from __future__ import annotations

import json
import math
import selectors
import socket
import time
from collections import deque
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeAlias, cast

from .homes import directories
from .place import Directory

Program: TypeAlias = dict[str, Any]

PATIENCE = 2.0  # seconds for a whole answer: the program's thread may have to wait for the GIL
MOST_BYTES = 1 << 23  # of an answer; the answer of a hub with 10,000 sources has 2 MB
MOST_AT_ONCE = 256  # connections, each of which is a file descriptor
_RETRY = 0.01  # seconds until the next try, if many others are connecting to a program


class Told(NamedTuple):
    program: Program
    text: str  # *program* as JSON


def ask(paths: Iterable[Path]) -> list[Told]:
    """Return the answers of the programs at *paths*, in that order. Silent programs have none.

    Takes ``PATIENCE`` seconds if any program is silent, whether it is one or a hundred. If a
    program was killed, its socket is removed, if it is in one of the :func:`directories`.
    """
    questions = [_Question(path) for path in paths]
    later, asked = deque(questions), list[_Question]()
    with selectors.DefaultSelector() as selector:
        try:
            while later or asked:
                while later and len(asked) < MOST_AT_ONCE:
                    asked.append(later.popleft())
                asked = [each for each in asked if not each.ends(selector)]
                if asked:
                    selector.select(min(each.seconds() for each in asked))
        finally:
            for each in asked:
                each.close(selector)
    dead = {each.path.parent for each in questions if each.dead}
    for directory in dead and dead.intersection(directories()):
        with suppress(OSError), Directory(directory) as held:
            held.clear_away()
    return [each.told for each in questions if each.told is not None]


class _Question:
    """The question to one program. No method waits."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.told: Told | None = None
        self.dead = False  # True if no program listens there
        self._connection: socket.socket | None = None
        self._connected = False
        self._deadline = 0.0
        self._received = bytearray()

    def seconds(self) -> float:
        """In how many seconds to try it again, if no data come before."""
        rest = max(0.0, self._deadline - time.monotonic())
        return rest if self._connected else min(rest, _RETRY)

    def ends(self, selector: selectors.BaseSelector) -> bool:
        """Go on with it. If it is over, close it and return True."""
        try:
            if not self._go_on(selector):
                return False
        except ConnectionRefusedError:
            self.dead = True
        except (OSError, ValueError, RecursionError, MemoryError):
            pass  # the program has left, or its answer cannot be shown
        self.close(selector)
        return True

    def close(self, selector: selectors.BaseSelector) -> None:
        if self._connection is not None:
            if self._connected:
                selector.unregister(self._connection)
            self._connection.close()
            self._connection = None

    def _go_on(self, selector: selectors.BaseSelector) -> bool:
        if self._connection is None:
            self._deadline = time.monotonic() + PATIENCE
            self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self._connection.setblocking(False)
        elif time.monotonic() >= self._deadline:  # for the whole answer, not for each byte
            return True
        try:
            if not self._connected:
                self._connection.connect(str(self.path))
                selector.register(self._connection, selectors.EVENT_READ)
                self._connected = True
                self._connection.send(b"\n")
            chunk = self._connection.recv(1 << 16)
            self._received += chunk
            while chunk and b"\n" not in chunk and len(self._received) < MOST_BYTES:
                chunk = self._connection.recv(1 << 16)
                self._received += chunk
        except BlockingIOError:
            return False
        if b"\n" in chunk and len(self._received) <= MOST_BYTES:
            self.told = _understand(self._received, self.path)
        return True


def _understand(received: bytearray, path: Path) -> Told:
    """Return the first line as a program to show. ValueError or RecursionError if it cannot be."""
    line = received.partition(b"\n")[0].decode()
    told: object = json.loads(line, parse_int=_count, parse_float=_finite, parse_constant=_refuse)
    if not isinstance(told, dict):
        raise ValueError("no object")
    program = cast("Program", told)
    program["path"] = str(path)  # replaces a path in the answer
    hubs: object = program.get("hubs")
    if not isinstance(hubs, list) or not all(isinstance(hub, dict) for hub in cast("Any", hubs)):
        raise ValueError("no hubs")
    return Told(program, json.dumps(program))


def _count(digits: str) -> int:
    if len(digits) > 20:  # too long for a count; parsing a number of a million digits takes minutes
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    return number if math.isfinite(number) else _refuse(digits)


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
