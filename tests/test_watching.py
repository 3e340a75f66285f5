"""A program is watched from outside, by another process."""

from __future__ import annotations

import gc
import json
import math
import os
import stat
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import BACKENDS
from watched import (
    FORK,
    HUBS,
    Watched,
    ask,
    command,
    connect,
    named,
    names,
    needs_unix_sockets,
    serving_threads,
)

import dss_anyio as dss
from dss_anyio.testing import threads, until

pytestmark = needs_unix_sockets

# -- What is told ----------------------------------------------------------------------------------


def test_a_watched_program_tells_the_exact_counts_of_its_hubs(
    watched: Callable[[], Watched], runtime: Path
) -> None:
    program = watched()
    program.do("dss.serve_statistics()")
    program.do(HUBS)
    done = command("top", "--once", "--json", runtime=runtime)
    assert done.stderr == ""
    assert done.returncode == 0
    [told] = json.loads(done.stdout)["programs"]
    assert told["pid"] == program.process.pid
    assert told["path"] == str(program.path)
    one, two, three = told["hubs"]  # in the order in which they were opened

    assert (one["name"], one["kind"], one["state"]) == ("on asyncio", "Hub", "open")
    assert (one["current_buffer_used"], one["max_buffer_size"]) == (2, 4)
    assert (one["received"], one["dropped"], one["undelivered"]) == (2, 0, 0)
    assert one["sources"] == {
        "meter": {
            "received": 2,
            "queued": 1,
            "dropped": 0,
            "undelivered": 0,
            "requests": dict.fromkeys(dss.RequestStatistics._fields, 0),
            "registered": True,
        },
    }
    assert one["blocked"] == []

    assert (two["name"], two["received"], two["current_buffer_used"]) == ("on trio", 0, 2)
    assert two["dropped"] == 3

    assert (three["name"], three["kind"]) == ("polled\x1b[2J", "PolledHub")
    assert (three["current_buffer_used"], three["tasks_waiting_send"]) == (1, 1)
    [blocked] = three["blocked"]
    assert (blocked["source"], blocked["call"]) == ("camera", "send")
    assert blocked["thread_name"] == "shutter"
    assert 0 < blocked["seconds"] < 30

    program.do("three.poll(); waiting.join()")
    three = named(ask(program.path), "polled\x1b[2J")
    assert (three["received"], three["current_buffer_used"]) == (1, 1)
    assert three["blocked"] == []


def test_each_field_of_the_statistics_is_told_under_its_name(runtime: Path) -> None:
    with dss.open_polled_hub[int](math.inf) as hub, dss.serve_statistics(runtime / "s") as served:
        told = named(ask(served.path), hub.name)
        fields = {*dss.HubStatistics._fields, "id", "name", "kind", "state", "blocked"}
        assert set(told) == fields
        assert told["max_buffer_size"] is None  # JSON has no word for infinity
        assert set(told["requests"]) == set(dss.RequestStatistics._fields)


def test_sources_that_have_ended_are_told_and_of_very_many_the_last_ones(runtime: Path) -> None:
    with dss.open_polled_hub[int](math.inf) as hub, dss.serve_statistics(runtime / "s") as served:
        hub.register("here")
        for number in range(2500):
            with hub.register(f"source {number}") as portal:
                portal.send(1)
        hub.register("here, too")
        feed = hub.open_feed(math.inf)
        told = named(ask(served.path), hub.name)
        ended = [f"source {number}" for number in range(1500, 2500)]
        assert list(told["sources"]) == ["here", *ended, "here, too"]
        assert told["sources"]["source 2499"]["queued"] == 1
        assert told["feeds"]["feed-1"]["max_buffer_size"] is None
        assert len(hub.statistics().sources) == 2502
        feed.close()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_hub_is_told_of_as_long_as_its_end_is_not_complete(backend: str, runtime: Path) -> None:
    name, options = BACKENDS[backend]
    stopping, go_on = threading.Event(), threading.Event()

    def cancel() -> None:
        stopping.set()
        assert go_on.wait(10)

    with dss.serve_statistics(runtime / "s") as served:
        assert "mine" not in names(ask(served.path))

        def end() -> None:
            hubs = dss.start_hub(name="mine", backend=name, backend_options=options)
            with hubs as hub:
                hub.register("slow", stop=cancel)
                assert named(ask(served.path), "mine")["state"] == "open"
                hub.close_senders()
                assert named(ask(served.path), "mine")["state"] == "senders closed"

        with threads(end):
            assert stopping.wait(10)
            assert named(ask(served.path), "mine")["state"] == "ended"
            go_on.set()
        assert "mine" not in names(ask(served.path))


def test_hubs_may_open_and_end_while_somebody_looks(runtime: Path) -> None:
    ended = threading.Event()

    def open_and_close() -> None:
        while not ended.is_set():
            with dss.open_polled_hub[int](name="short") as hub:
                hub.register("source").send(1)

    with dss.serve_statistics(runtime / "s") as served, threads(open_and_close, open_and_close):
        try:
            with connect(served.path) as connection, connection.makefile() as lines:
                seen = 0
                for _ in range(50):
                    connection.sendall(b"\n")
                    seen += names(json.loads(lines.readline())).count("short")
        finally:
            ended.set()
    assert seen > 0


@pytest.mark.filterwarnings("ignore:Unclosed:ResourceWarning")
def test_who_is_watched_is_not_kept_alive(runtime: Path) -> None:
    with dss.serve_statistics(runtime / "s") as served:
        hub = dss.open_polled_hub[int](name="forgotten")
        assert named(ask(served.path), "forgotten")
        forgotten, portal = weakref.ref(hub), hub.portal
        del hub
        gc.collect()
        until(lambda: forgotten() is None)
        assert "forgotten" not in names(ask(served.path))
        assert not portal.offer(1)  # it was kept, and has not kept the hub


# -- The end ---------------------------------------------------------------------------------------


def test_close_removes_the_socket_and_ends_the_thread_and_its_clients(runtime: Path) -> None:
    served = dss.serve_statistics(runtime / "s")
    with connect(served.path) as connection:
        connection.sendall(b"\n")
        while connection.recv(4096)[-1:] != b"\n":
            pass
        assert serving_threads() == ["dss_anyio: serving statistics"]
        served.close()
        assert not served.path.exists()
        assert serving_threads() == []
        assert connection.recv(1) == b""
    served.close()


def refuses(path: Path) -> bool:
    try:
        connect(path).close()
    except ConnectionRefusedError:
        return True
    return False


def test_close_leaves_what_another_one_has_put_there(runtime: Path) -> None:
    served = dss.serve_statistics(runtime / "s")
    served.path.rename(runtime / "away")
    with dss.serve_statistics(runtime / "s") as other:
        served.close()
        assert ask(other.path)["pid"] == os.getpid()


def test_without_a_block_it_lasts_as_long_as_the_process_and_leaves_nothing(
    watched: Callable[[], Watched],
) -> None:
    program = watched()
    program.do("dss.serve_statistics()\nimport gc; gc.collect()")
    assert ask(program.path)["pid"] == program.process.pid
    assert program.leave() == 0
    assert list(program.path.parent.iterdir()) == []


def test_a_program_that_was_never_asked_to_has_no_thread_for_it() -> None:
    with dss.open_polled_hub[int]():
        assert serving_threads() == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_leaves_the_socket_to_its_parent(watched: Callable[[], Watched]) -> None:
    program = watched()
    program.do("import warnings; warnings.simplefilter('ignore')  # of forking with threads")
    program.do("served = dss.serve_statistics()")
    program.do(FORK.format(child="served.close()"))
    program.do("os.write(w, b'!'); assert os.waitpid(child, 0)[1] == 0")
    assert ask(program.path)["pid"] == program.process.pid
    program.do(FORK.format(child="os.read(r, 1)"))
    program.do("served.close(); assert len(threading.enumerate()) == 1")
    assert not program.path.exists()
    program.do("served = dss.serve_statistics()")
    program.do(FORK.format(child="os.read(r, 1)"))
    with connect(program.path) as connection:
        connection.sendall(b"\n")
        assert connection.recv(1) == b"{"
        program.process.kill()  # the child lives on, until the pipe's other end is closed: now
        program.process.wait(10)
        until(lambda: refuses(program.path))  # the child, too, has closed what it got


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_that_was_forked_during_the_first_look_can_import_what_that_needs(
    watched: Callable[[], Watched],
) -> None:
    """Where the thread imports it, this finds json locked by a thread that the child has not."""
    program = watched()
    program.do("import warnings; warnings.simplefilter('ignore'); looked = threading.Event()")
    slow = (
        "class Slow:\n"
        " def find_spec(self, name, path=None, target=None):\n"
        "  if name == 'json' and threading.current_thread() is not threading.main_thread():\n"
        "   looked.set(); time.sleep(3)\n"
    )
    program.do(f"exec({slow!r})")
    program.do("sys.meta_path.insert(0, Slow()); served = dss.serve_statistics()")
    with connect(program.path) as connection:
        connection.sendall(b"\n")
        program.do("while not looked.is_set() and 'json' not in sys.modules: time.sleep(0.001)")
        child = "(signal.alarm(10), __import__('json').dumps(1), os._exit(7))"
        program.do(f"child = os.fork() or {child}")
        program.do("assert os.waitpid(child, 0)[1] == 7 << 8")
        assert connection.recv(1) == b"{"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_child_may_serve_for_itself(watched: Callable[[], Watched]) -> None:
    program = watched()
    program.do("import warnings; warnings.simplefilter('ignore')")
    program.do("served = dss.serve_statistics()")
    program.do(FORK.format(child="dss.serve_statistics(), os.read(r, 1)"))
    program.do("os.write(w, b'!')")
    others = lambda: [each for each in program.path.parent.iterdir() if each != program.path]  # noqa: E731
    until(others)
    [path] = others()
    until(lambda: stat.S_IMODE(path.stat().st_mode) == 0o600)
    assert ask(path)["pid"] == int(path.stem)
    program.do("os.write(w, b'!'); assert os.waitpid(child, 0)[1] == 0")
    assert others() == []
