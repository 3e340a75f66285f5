"""Each system call of ours fails, whenever it is made, with everything it may fail with.

The sockets are real, and so is all that they do until then. What may come of it: we are refused,
with that very error, and nothing is left open; or nobody notices. Never is anything lost.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Callable
from itertools import count, product
from types import SimpleNamespace
from typing import Any

import anyio
import anyio.to_thread
import pytest
from test_datagram import address_of, drained, readable, udp_socket

import dss_anyio as dss
from dss_anyio._loops import datagram as _datagram
from dss_anyio._loops import short_way as _short_way
from dss_anyio.testing import threads, until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="counts /proc/self/fd")

ERRORS = ["EMFILE", "ENOBUFS", "ENOMEM", "EAGAIN", "EADDRINUSE", "EPERM", "EBADF", "ECONNREFUSED"]
ERRORS += ["EINTR"]


class Fault:
    """Call number *at* fails, and so do *more* that come next; with *only*, of calls like this."""

    def __init__(self, error: str, at: int, more: int = 0, only: str | None = None) -> None:
        self.number: int = getattr(errno, error)
        self.failed: list[str] = []  # these calls
        self._calls = 0
        self._only = only
        self._failing = range(at, at + 1 + more)

    @property
    def is_over(self) -> bool:
        return self._calls >= self._failing.stop

    def __call__(self, call: str) -> None:
        if self._only not in (None, call):
            return
        self._calls += 1
        if self._calls - 1 in self._failing:
            self.failed.append(call)
            raise OSError(self.number, os.strerror(self.number))

    def in_calls_of(self, kind: type[Any], *calls: str) -> type[Any]:
        """A kind of socket of which *calls* may fail."""

        def may_fail(call: str) -> Callable[..., Any]:
            real = getattr(kind, call)

            def method(sock: Any, *args: Any, **kwargs: Any) -> Any:
                if call != "close":
                    self(call)
                    return real(sock, *args, **kwargs)
                if sock.fileno() != -1:
                    real(sock)  # whatever it says, the number is free
                    self(call)

            return method

        return type(kind.__name__, (kind,), {call: may_fail(call) for call in calls})


def open_files() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


# -- The datagram that wakes a polled hub ----------------------------------------------------------


def poll_seven_items(fault: Fault, neighbour: socket.socket | None) -> None:
    before = open_files()
    with dss.open_polled_hub[int]() as hub:
        while True:
            try:
                if neighbour is None:
                    hub.fileno()
                else:
                    hub.wake_address = address_of(neighbour)
            except OSError as exc:
                assert exc.errno == fault.number
                assert hub.wake_address is None
                assert open_files() == before
            else:
                break
        for number in range(3):
            for sent in ([number], [number, number]):
                was_over = fault.is_over
                hub.portal.send(number)
                if fault.number == errno.EAGAIN:
                    continue  # no failure: what has filled the buffer wakes just as well
                if was_over or len(fault.failed) < 2:
                    assert readable(neighbour or hub, 10), f"{sent} has not woken it"
            assert hub.wait(0)
            assert hub.poll() == sent
            if neighbour is not None:
                drained(neighbour)
            elif not fault.failed or fault.number == errno.ECONNREFUSED:
                assert not readable(hub), "that was about an earlier datagram; there are more"
        hub.portal.send(3)
    counts = hub.statistics()
    assert (counts.sent, counts.received, counts.undelivered) == (7, 6, 1)
    assert counts.wake_failures < max(1, len(fault.failed))
    assert open_files() == before


@pytest.mark.parametrize("more", [0, 1, 2])
@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize("listener", ["doorbell", "neighbour"])
def test_a_call_of_the_datagram_may_fail_at_any_time(
    listener: str, error: str, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards ``_datagram`` as a whole: each ``except`` and each ``close`` in it."""
    calls = ["__init__", "setblocking", "bind", "connect", "getsockname", "send", "recv", "close"]
    failed: set[str] = set()
    with udp_socket() as neighbour:
        for at in count():
            fault = Fault(error, at, more)
            kind = fault.in_calls_of(socket.socket, *calls)
            monkeypatch.setattr(
                _datagram, "socket", SimpleNamespace(**{**vars(socket), "socket": kind})
            )
            poll_seven_items(fault, neighbour if listener == "neighbour" else None)
            failed.update(fault.failed)
            if not fault.failed:
                break
    if listener == "neighbour":
        calls = [each for each in calls if each not in ("bind", "getsockname", "recv")]
    assert failed == set(calls)


# -- The short way into trio -----------------------------------------------------------------------


def receive_five_items_in_trio() -> None:
    hubs: list[dss.Hub[int]] = []
    received: list[int] = []

    def send() -> None:
        until(lambda: hubs)
        hub = hubs[0]
        for number in range(5):
            until(lambda: hub.statistics().tasks_waiting_receive or hub._mailbox.ended)
            hub.portal.send(number)

    async def main() -> None:
        async with dss.open_hub[int]() as hub:
            await anyio.to_thread.run_sync(hub.portal.call, int)  # opens the short way
            hubs.append(hub)
            while len(received) < 5:
                received.append(await hub.receive())

    before = open_files()
    with threads(send):
        anyio.run(main, backend="trio")
    assert received == [*range(5)]
    counts = hubs[0].statistics()
    assert (counts.sent, counts.received) == (5, 5)
    assert open_files() == before


@pytest.mark.parametrize("error", ERRORS)
def test_a_call_of_the_short_way_into_trio_may_fail_at_any_time(
    error: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards each ``except`` and each ``suppress`` of ``_short_way``."""
    calls_outside = ["close", "send"]
    if error == "EAGAIN":
        calls_outside.remove("send")  # "it is full, so it has been rung" would not be true
    anyio.run(anyio.to_thread.run_sync, int, backend="trio")  # a first run opens files of its own
    bell = _short_way.Bell
    # How many there are of each, and in which order, depends on the threads; each comes at all.
    for call, at in product(["socketpair", "recv", *calls_outside], range(3)):
        fault = Fault(error, at, only=call)
        kind = fault.in_calls_of(socket.socket, "recv", "close")

        def pair(fault: Fault = fault, kind: type[socket.socket] = kind) -> Any:
            fault("socketpair")
            inside, outside = socket.socketpair()
            return kind(fileno=inside.detach()), outside

        monkeypatch.setattr(
            _short_way, "socket", SimpleNamespace(**{**vars(socket), "socketpair": pair})
        )
        monkeypatch.setattr(_short_way, "Bell", fault.in_calls_of(bell, *calls_outside))
        receive_five_items_in_trio()
        assert fault.failed == [call] or at > 0
