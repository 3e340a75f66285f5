"""Clients that mean no good cost a watched program next to nothing."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from watched import (
    Watched,
    ask,
    connect,
    named,
    needs_unix_sockets,
)

import dss_anyio as dss
from dss_anyio._tools.watching import MOST_CLIENTS

pytestmark = needs_unix_sockets


def test_a_client_gets_one_document_for_each_line_whatever_is_in_it(runtime: Path) -> None:
    with dss.serve_statistics(runtime / "s") as served, connect(served.path) as connection:
        connection.sendall(b"\0\xff garbage" * 1000 + b"\n" + b"\n" * 99)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile() as lines:
            assert [json.loads(line)["pid"] for line in lines] == [os.getpid()] * 100


def test_a_client_that_never_reads_costs_one_document_and_holds_up_nobody(runtime: Path) -> None:
    name = "n" * 1_000_000  # more than the system keeps for a client
    with contextlib.ExitStack() as stack:
        stack.enter_context(dss.open_polled_hub[int](name=name))
        served = stack.enter_context(dss.serve_statistics(runtime / "s"))
        greedy = stack.enter_context(connect(served.path))
        greedy.setblocking(False)
        with pytest.raises(BlockingIOError):  # at last nothing of this is read any more
            while True:
                greedy.send(b"\n" * 4096)
        for _ in range(5):
            assert named(ask(served.path), name)["received"] == 0
        with pytest.raises(BlockingIOError):
            greedy.send(b"\n" * 4096)


def test_of_many_clients_those_that_were_silent_for_the_longest_time_are_dropped(
    runtime: Path,
) -> None:
    with contextlib.ExitStack() as stack:
        served = stack.enter_context(dss.serve_statistics(runtime / "s"))
        asks = stack.enter_context(connect(served.path))
        lines = stack.enter_context(asks.makefile())
        silent: list[socket.socket] = []
        for _ in range(100):
            silent.append(stack.enter_context(connect(served.path)))
            asks.sendall(b"\n")
            assert json.loads(lines.readline())["pid"] == os.getpid()
        kept = MOST_CLIENTS - 1
        for each in silent[:-kept]:
            assert each.recv(1) == b""
        for each in silent[-kept:]:
            each.sendall(b"\n")
            assert each.recv(1) == b"{"


def test_a_client_that_leaves_does_not_end_a_program_that_lets_sigpipe_kill_it(
    watched: Callable[[], Watched],
) -> None:
    program = watched()
    program.do("signal.signal(signal.SIGPIPE, signal.SIG_DFL); dss.serve_statistics()")
    for _ in range(50):
        with connect(program.path) as connection:
            connection.sendall(b"\n" * 64)
    assert ask(program.path)["pid"] == program.process.pid


def test_it_goes_on_when_there_are_file_descriptors_again(watched: Callable[[], Watched]) -> None:
    program = watched()
    program.do("dss.serve_statistics(); import resource; limits = resource.RLIMIT_NOFILE")
    with connect(program.path) as early:
        early.sendall(b"\n")
        assert early.recv(1) == b"{"
        program.do("soft, hard = resource.getrlimit(limits); resource.setrlimit(limits, (0, hard))")
        with connect(program.path) as late:
            late.sendall(b"\n")
            while early.recv(4096):
                pass  # it is dropped for the other one, whom that does not help
            program.do("resource.setrlimit(limits, (soft, hard))")
            assert late.recv(1) == b"{"


def test_a_line_without_an_end_is_not_read_to_the_end(runtime: Path) -> None:
    with dss.serve_statistics(runtime / "s") as served, connect(served.path) as endless:
        sent = 0
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while sent < 1 << 30:
                sent += endless.send(b"x" * (1 << 16))
        assert ask(served.path)["pid"] == os.getpid()


def test_who_asks_and_leaves_costs_no_document_and_the_next_one_is_served(
    watched: Callable[[], Watched],
) -> None:
    program = watched()
    program.do("served = dss.serve_statistics(); tell = served._document; told = []")
    program.do("served._document = lambda: told.append(1) or tell()")
    program.process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, program.process.pid, os.WSTOPPED | os.WNOWAIT)
    for _ in range(100):
        with connect(program.path) as gone:
            gone.sendall(b"\n" * 60)
    program.process.send_signal(signal.SIGCONT)
    assert ask(program.path)["pid"] == program.process.pid
    program.do("assert len(told) == 1, told")
    for _ in range(10_000):
        with connect(program.path) as gone:
            gone.sendall(b"\n")
    assert ask(program.path)["pid"] == program.process.pid


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_ten_thousand_clients_cost_a_few_files_and_no_memory(
    watched: Callable[[], Watched],
) -> None:
    program = watched()
    program.do("dss.serve_statistics()")
    proc = Path(f"/proc/{program.process.pid}")

    def resident() -> int:
        return int(re.findall(r"VmRSS:\s+(\d+) kB", (proc / "status").read_text())[0])

    with contextlib.ExitStack() as stack:
        before = resident(), len(list((proc / "fd").iterdir()))
        for number in range(10_000):
            client = connect(program.path)
            if number % 50 == 0:
                stack.enter_context(client)  # stays, silent, with half a line
                client.sendall(b"half")
            else:
                client.close()
        assert ask(program.path)["pid"] == program.process.pid
        assert resident() - before[0] < 8000  # kB
        assert len(list((proc / "fd").iterdir())) - before[1] <= MOST_CLIENTS


def test_the_thread_that_serves_imports_nothing(watched: Callable[[], Watched]) -> None:
    program = watched()
    program.do("dss.serve_statistics(); hub = dss.open_polled_hub(); hub.register('meter')")
    program.do("before = set(sys.modules)")
    assert ask(program.path)["pid"] == program.process.pid
    program.do("assert set(sys.modules) == before, set(sys.modules) - before")
