"""Faults on purpose: what the system refuses, what strikes a thread, what users' functions raise.

On all faces. What could spoil the other tests, a limit or a storm, has a process of its own: it
runs one function of this module, named ``..._here``.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import math
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
import trio
from conftest import BACKENDS, WITHOUT_GIL, strike

import dss_anyio as dss
from dss_anyio._loops import slices as _waiting
from dss_anyio._loops.way import call_soon_here
from dss_anyio.testing import threads, until

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

FACES = [*BACKENDS, "polled"]

on_linux = pytest.mark.skipif(sys.platform != "linux", reason="counts /proc/self/fd")
with_signals = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no interval timer")


class Trouble(Exception):  # noqa: N818
    pass


class Bare(BaseException):
    """Neither an error, nor what ends a program, nor a loop's own."""


def run(call: str, timeout: float = 40) -> str:
    """What a call of a function of this module prints, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", f"import test_faults; test_faults.{call}"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, sys.path))},
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, f"{done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@contextlib.contextmanager
def serving(
    face: str, handle: Callable[[Any], Any], size: float = 1024, on_error: Any = None
) -> Iterator[dss.Hub[Any] | dss.PolledHub[Any]]:
    """A hub in a thread of its own, that calls *handle* with each item, and answers with it."""
    if face != "polled":
        backend, options = BACKENDS[face]

        def start() -> None:
            hub.task_group.start_soon(hub.serve, handle)

        with dss.start_hub(
            size, on_error=on_error, backend=backend, backend_options=options
        ) as hub:
            hub.portal.call(start)
            yield hub
        return
    hubs: list[dss.PolledHub[Any]] = []

    def serve() -> None:
        with dss.open_polled_hub[Any](size, on_error=on_error) as hub:
            hubs.append(hub)
            with contextlib.suppress(anyio.EndOfStream):
                while True:
                    hub.wait()
                    for item in hub.poll():
                        if isinstance(item, dss.Request):
                            with item:
                                item.reply(handle(item.item))
                        else:
                            handle(item)

    with threads(serve):
        until(lambda: hubs)
        try:
            yield hubs[0]
        finally:
            hubs[0].close_senders()


def adds_up(hub: dss.Hub[Any] | dss.PolledHub[Any], accepted: int) -> None:
    until(lambda: not hub.statistics().requests.open)  # counted after the asker was woken
    counts = hub.statistics()
    assert counts.sent == accepted == counts.received + counts.dropped + counts.undelivered
    assert counts.queued == counts.tasks_waiting_send == 0
    assert hub.blocked() == []


# -- What the operating system refuses -------------------------------------------------------------


@on_linux
@pytest.mark.parametrize("face", FACES)
def test_with_few_descriptors_a_hub_works_or_is_refused(face: str) -> None:
    """For any number of free descriptors. A hub in a loop needs none but those of its loop.

    The two for the short way into trio it can do without. What it has opened it has closed.
    """
    outcomes = [
        line.split(":") for line in run(f"open_with_few_descriptors_here({face!r})").split()
    ]
    assert len(outcomes) == 9
    needed = 3 if face == "polled" else [loop for loop, _ in outcomes].index("works")
    assert 0 < needed <= 7
    assert [hub for _, hub in outcomes] == ["EMFILE"] * needed + ["works"] * (9 - needed)


def open_with_few_descriptors_here(face: str) -> None:
    for free in range(9):
        print(":".join(in_a_fork(lambda: attempt(use, face, free)) for use in (use_loop, use_hub)))


def in_a_fork(act: Callable[[], str]) -> str:
    """What *act* returns, in a fork of this process, which has one thread and has opened nothing.

    Only there are all open files ours: a loop that could not be opened leaves its own to the
    collector, which without the GIL leaves them to the thread that opened them, until that is gone.
    """
    reads, writes = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(reads)
            os.write(writes, act().encode())
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    os.close(writes)
    with open(reads) as said:
        text = said.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return text


def attempt(use: Callable[[str], None], face: str, free: int) -> str:
    """What comes of *use* where so many descriptors are free."""
    import resource

    use(face)  # some files are opened once
    before = open_files()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = [number for number in range(1000) if number not in before][free]
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        use(face)
    except OSError as exc:
        outcome = errno.errorcode[exc.errno or 0]
    else:
        outcome = "works"
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    if use is use_hub and (outcome == "works" or face == "polled"):
        assert open_files() == before  # else it was the loop that was refused: not ours to close
    use(face)
    return outcome


def open_files() -> set[int]:
    found: set[int] = set()
    for number in range(64):  # to list those in /proc would need one itself
        with contextlib.suppress(OSError):
            os.fstat(number)
            found.add(number)
    return found


def use_loop(face: str) -> None:
    if face != "polled":
        backend, options = BACKENDS[face]
        with threads(lambda: anyio.run(anyio.sleep, 0, backend=backend, backend_options=options)):
            pass  # as a hub's: in the main thread uvloop needs more, for signals


def use_hub(face: str) -> None:
    if face == "polled":
        with dss.open_polled_hub[int](wake_address=("127.0.0.1", 9)) as hub:
            hub.fileno()
            with threads(lambda: hub.portal.send(1)):
                pass
            assert hub.poll() == [1]
        return
    with serving(face, lambda item: item + 1) as started:
        assert started.portal.request(1) == 2
        assert started.portal.call(int) == 0


@on_linux
@pytest.mark.parametrize("which", ["sender", "listener", "neighbour"])
def test_a_socket_that_is_closed_under_senders_costs_no_item(which: str) -> None:
    """By number, again and again, while four threads send. The end of the hub is complete."""
    stopped: list[bool] = []
    with contextlib.ExitStack() as files:
        # What a socket of ours may get is a number that nobody else opens meanwhile.
        hub = files.enter_context(dss.open_polled_hub[int](math.inf))
        hub.register("library", stop=lambda: stopped.append(True))
        if which == "neighbour":
            hub.wake_address = ("127.0.0.1", 9)
        else:
            hub.fileno()
        received: list[int] = []
        portal = hub.portal

        def send() -> None:
            for number in range(500):
                assert portal.offer(number)

        def break_it() -> None:
            alarm = hub._alarm
            if which == "listener":
                assert alarm.doorbell is not None
                os.close(alarm.doorbell._listener.fileno())
                return
            notifier = alarm.neighbour if alarm.doorbell is None else alarm.doorbell._notifier
            assert notifier is not None
            # Not in the hands of a sender, or it hits a fresh one.
            until(lambda: notifier._in_use.setdefault(None, "the test") == "the test")
            if notifier._socket is not None:
                os.close(notifier._socket.fileno())
            notifier._in_use.clear()
            notifier.ring()  # as whoever gives it back does, for those who have found it taken

        with threads(*[send] * 4):
            break_it()
            while len(received) < 2000:
                if hub.wait(10):
                    received += hub.poll()
                if which != "listener" and len(received) % 7 == 0:
                    break_it()
        assert Counter(received) == dict.fromkeys(range(500), 4)
        adds_up(hub, 2000)
    assert stopped == [True]


@on_linux
@pytest.mark.parametrize("who", ["a task", "who sleeps"])
@pytest.mark.parametrize("which", ["_inside", "_outside"])
def test_the_short_way_into_trio_may_be_cut_and_the_long_one_goes_on(which: str, who: str) -> None:
    """Guards what ``ShortWay.listen`` does when nobody hears the bell, or hears nothing else."""
    received: list[int] = []
    rounds: list[float] = []

    class Rounds(trio.abc.Instrument):
        def before_io_wait(self, timeout: float) -> None:
            rounds.append(timeout)

    async def main() -> None:
        async with dss.open_hub[int]() as hub:
            way_in: Any = hub._mailbox.home.way_in
            await anyio.to_thread.run_sync(hub.portal.call, int)
            if who == "a task":
                await anyio.to_thread.run_sync(hub.portal.call, int)

            def send() -> None:
                for number in range(20):
                    # What has rung and was not heard would be lost with the sockets.
                    until(lambda number=number: len(received) == number)
                    until(lambda: hub.statistics().tasks_waiting_receive)
                    if number == 10:
                        until(lambda: way_in.bell is not None)
                        os.close(getattr(way_in, which).fileno())
                    hub.portal.send(number)

            with threads(send), anyio.fail_after(10):
                for _ in range(20):
                    received.append(await hub.receive())
            assert received == [*range(20)]
            adds_up(hub, 20)
            trio.lowlevel.add_instrument(Rounds())
            with anyio.move_on_after(0.2):
                await hub.receive()
            assert len(rounds) < 20, "it hears something all the time"

    anyio.run(main, backend="trio")


# -- An exception that is set in a thread ----------------------------------------------------------


class Waiting:
    """Each method waits, in a thread, until it is struck."""

    def __init__(self, hub: Any, way: str) -> None:
        self.hub = hub
        self.portal = hub.portal
        self.way = way
        self.ident = 0
        self.struck_at = self.out_at = 0.0
        self.out = threading.Event()
        self.inside = threading.Event()  # a task of the hub for which it waits
        self.left = threading.Event()

    def in_thread(self) -> contextlib.AbstractContextManager[Any]:
        return threads(self.wait)

    def wait(self) -> None:
        self.ident = threading.get_ident()
        with pytest.raises(Trouble):
            try:
                getattr(self, self.way)()
            finally:
                self.out_at = time.monotonic()
                self.out.set()

    def strike(self) -> None:
        self.struck_at = strike(self.ident, Trouble, self.out)

    def send(self) -> None:
        self.portal.send("no room")

    def send_many(self) -> None:
        self.portal.send_many(["no room", "either"])

    def source(self) -> None:
        self.hub.source("library").send("no room")

    def feed(self) -> None:
        self.hub.open_feed(1, name="library").take()

    def entering(self) -> None:
        with self.portal.wrap_async_context_manager(_Slow("enter", self)):
            raise AssertionError

    def leaving(self) -> None:
        with self.portal.wrap_async_context_manager(_Slow("exit", self)):
            pass


class _Slow:
    def __init__(self, slow: str, waiting: Waiting) -> None:
        self._slow = slow
        self._waiting = waiting

    async def _wait(self, where: str) -> None:
        if where == self._slow:
            self._waiting.inside.set()
            try:
                await anyio.sleep_forever()
            finally:
                self._waiting.left.set()

    async def __aenter__(self) -> None:
        await self._wait("enter")

    async def __aexit__(self, *_: object) -> None:
        await self._wait("exit")


@pytest.mark.parametrize("face", FACES)
def test_threads_that_wait_are_struck_and_leave(face: str) -> None:
    """By ``PyThreadState_SetAsyncExc``, which no lock wait sees before it has ended.

    All at once, so one slice of waiting is enough. Guards the slices and the ``cancel`` of
    ``_Wrapped.__exit__``, among others.
    """
    busy, go_on = threading.Event(), threading.Event()

    def handle(item: object) -> None:
        if item == "first":
            busy.set()
            assert go_on.wait(20)

    with serving(face, handle, size=1) as hub, contextlib.ExitStack() as at_last:
        at_last.callback(go_on.set)
        library = hub.register("library")
        ways = [Waiting(hub, way) for way in ("send", "send_many", "source", "feed")]
        if face != "polled":  # which has no tasks
            ways += [Waiting(hub, way) for way in ("entering", "leaving")]
        for each in ways[4:]:
            at_last.enter_context(each.in_thread())  # while the event loop runs
        until(lambda: all(each.inside.is_set() for each in ways[4:]))
        # The futures of two tasks, and the one who waits until its task has begun. The other one's
        # short call, by which its task was told to end, may not have returned yet.
        in_tasks = 3 if face != "polled" else 0
        until(lambda: len(hub.blocked()) == in_tasks)
        hub.portal.send("first")
        assert busy.wait(10)
        filled = 1 + fill(hub.portal.offer)
        for each in ways[:4]:
            at_last.enter_context(each.in_thread())
        until(lambda: len(hub.blocked()) == in_tasks + 4)
        with threads(*[each.strike for each in ways]):
            pass
        for each in ways:
            assert each.out_at - each.struck_at < 4, each.way
        go_on.set()
        for each in ways[4:]:
            assert each.left.wait(5), "its task was not cancelled"
        until(lambda: hub.blocked() == [])
        hub.portal.send("last")
        until(lambda: hub.statistics().received == filled + 1)
        adds_up(hub, filled + 1)
        library.close()


def fill(offer: Callable[[Any], bool]) -> int:
    """Until there is no room any more; how many went in."""
    many = 0
    while offer("filler"):
        many += 1
    return many


def is_in(function: str) -> bool:
    """Is some thread in that *function* of the library's?"""
    return any(
        each.f_code.co_name == function and each.f_globals["__name__"].startswith("dss_anyio.")
        for frame in sys._current_frames().values()
        for each, _ in traceback.walk_stack(frame)
    )


def struck_in(wait: Callable[[], object], waits: Callable[[], object]) -> float:
    """How many seconds it took a thread to leave *wait* after it was struck in there."""
    left: list[float] = []
    out = threading.Event()
    started: list[int] = []

    def call() -> None:
        started.append(threading.get_ident())
        try:
            with pytest.raises(Trouble):
                try:
                    wait()
                finally:
                    out.set()
        finally:
            left.append(time.monotonic())

    with threads(call):
        try:
            until(lambda: started and waits())
        finally:
            struck = strike(started[0], Trouble, out)
    return left[0] - struck


@pytest.mark.parametrize("how", ["ctrl_c", "an exception set in the thread"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_an_asker_that_is_struck_cancels_the_handler_that_works_for_it(
    backend: str, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Guards what ``_wait_for`` does with an exception that comes while it waits."""
    if how == "ctrl_c" and sys.platform == "win32":
        pytest.skip("Windows has no pthread_kill")
    monkeypatch.setattr(_waiting, "SLICE", 0.02)
    inside, cancelled, out = threading.Event(), threading.Event(), threading.Event()
    here = threading.get_ident()

    async def handle(_: object) -> None:
        inside.set()
        try:
            await anyio.sleep_forever()
        except BaseException:
            cancelled.set()
            raise

    def strike_it() -> None:
        assert inside.wait(10)
        if how == "ctrl_c":
            signal.pthread_kill(here, signal.SIGINT)
        else:
            strike(here, Trouble, out)

    with serving(backend, handle) as hub:
        with threads(strike_it), pytest.raises(KeyboardInterrupt if how == "ctrl_c" else Trouble):
            try:
                hub.portal.request("question")
            finally:
                out.set()
        assert cancelled.wait(10)
        assert hub.statistics().requests == (0, 0, 0, 0, 1, 0)
        adds_up(hub, 1)


def test_a_thread_that_polls_is_struck_in_its_wait_and_polls_on() -> None:
    hubs: list[dss.PolledHub[int]] = []

    def wait() -> None:
        with dss.open_polled_hub[int]() as hub:
            hubs.append(hub)
            try:
                hub.wait()
            except Trouble:
                hub.portal.send(1)
                assert hub.wait(0)
                assert hub.poll() == [1]
                adds_up(hub, 1)
                raise

    assert struck_in(wait, lambda: hubs and hubs[0].statistics().tasks_waiting_receive) < 4


def test_a_thread_that_waits_for_a_stop_is_struck_and_completes_the_end_first() -> None:
    """Guards the slices in which ``_ending.order.stop`` waits."""
    may_stop, stopping = threading.Event(), threading.Event()
    older: list[str] = []
    handed_back: list[int] = []
    hub = dss.open_polled_hub[int]()
    hub.register("older", stop=lambda: older.append("stopped"))

    def stop() -> None:
        stopping.set()
        assert may_stop.wait(20)

    library = hub.register("library", stop=stop, on_undelivered=handed_back.append)
    library.send(1)

    def close() -> None:
        try:
            hub.close()
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None

    try:
        assert struck_in(close, lambda: stopping.is_set() and is_in("join")) < 4
    finally:
        may_stop.set()
    assert older == ["stopped"]
    assert handed_back == [1]
    adds_up(hub, 1)


@pytest.mark.anyio
@pytest.mark.parametrize("anyio_backend", ["trio"])  # the thread is of the same kind in all
async def test_a_library_that_is_struck_in_its_start_has_failed_to_start() -> None:
    inside: list[int] = []
    out = threading.Event()

    def start(portal: dss.Portal[int]) -> None:
        inside.append(threading.get_ident())
        try:
            portal.request(1)
        finally:
            out.set()

    def strike_it() -> None:
        until(lambda: inside and hub.blocked())
        strike(inside[0], Trouble, out)

    async with dss.open_hub[Any]() as hub:
        with threads(strike_it):
            with pytest.raises(Trouble):
                async with hub.open_source("library", start, lambda _: pytest.fail("stopped")):
                    raise AssertionError
        assert hub.blocked() == []
        with pytest.raises(LookupError):
            hub.source("library")


# -- What users' functions raise -------------------------------------------------------------------

RAISED = [Trouble, Bare, SystemExit, KeyboardInterrupt]


@pytest.mark.parametrize("raised", [Trouble, Bare])
@pytest.mark.parametrize("face", FACES)
def test_an_on_error_that_raises_costs_nobody_a_wake(
    face: str, raised: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    """Guards ``_face.tell``. The report comes while the hub sleeps, and is all that it is woken by.

    In what it raises, the one that it was told of is to be seen as the cause.
    """

    def on_error(exc: BaseException, _: str | None) -> None:
        raise raised("on_error")

    received: list[Any] = []
    with serving(face, received.append, on_error=on_error) as hub:
        failing = hub.portal.send_callback(lambda: 1 / 0)
        for number in range(5):
            until(lambda: hub.statistics().tasks_waiting_receive)
            failing()
            until(lambda: len(caplog.records) == number + 1)
            hub.portal.send(number)
            until(lambda: len(received) == number + 1)
        assert received == [*range(5)]
        assert hub.statistics().errors == 5
    for record in caplog.records:
        assert record.name == "dss_anyio"
        assert record.exc_info is not None
        exc = record.exc_info[1]
        assert type(exc) is raised
        assert type(exc.__cause__) is ZeroDivisionError


@pytest.mark.parametrize("backend", BACKENDS)
def test_who_wants_to_leave_in_on_error_leaves_by_a_task_of_the_hub(backend: str) -> None:
    """Guards ``Sleepers.report_errors``: in a wake it would end trio's run as an error of trio."""

    def on_error(exc: BaseException, _: str | None) -> None:
        raise SystemExit(3)

    stopped: list[bool] = []

    async def main() -> None:
        call_soon = call_soon_here()
        async with dss.open_hub[int](on_error=on_error) as hub:
            hub.register("library", stop=lambda: stopped.append(True))
            failing = hub.portal.send_callback(lambda: 1 / 0)

            def fail() -> None:
                until(lambda: hub.statistics().tasks_waiting_receive)
                back = threading.Event()  # it is about to sleep; when the loop is back, it sleeps
                call_soon(back.set)
                assert back.wait(10)
                failing()

            with threads(fail):
                await hub.receive()

    name, options = BACKENDS[backend]
    try:
        anyio.run(main, backend=name, backend_options=options)
    except BaseException as exc:
        caught = exc
    while isinstance(caught, BaseExceptionGroup):
        caught = caught.exceptions[0]
    assert type(caught) is SystemExit
    assert stopped == [True], "the end was not complete"


@pytest.mark.parametrize("raised", RAISED)
@pytest.mark.parametrize("face", FACES)
def test_what_hooks_raise_arrives_where_it_should_and_the_others_work_on(
    face: str, raised: type[BaseException]
) -> None:
    """``pack`` and ``on_undelivered`` in a library's thread, and ``cancel`` at the end."""
    errors: list[tuple[type[BaseException], str | None]] = []
    received: list[Any] = []
    others: list[str] = []

    def fail(*_: Any) -> Any:
        raise raised

    def on_error(exc: BaseException, source: str | None) -> None:
        errors.append((type(exc), source))

    with pytest.raises(BaseExceptionGroup) as caught:
        with serving(face, received.append, on_error=on_error) as hub:
            hub.register("older", stop=lambda: others.append("stopped"))
            library = hub.register("library", stop=fail, on_undelivered=fail)
            callback = library.send_callback(fail)
            asking = library.request_callback(fail, timeout=5, default="default")
            bare_asking = library.request_callback(fail, timeout=5)
            with threads(lambda: callback("item")):
                pass
            with pytest.raises(dss.NoReplyError):
                bare_asking()
            assert asking() == "default"
            clone = library.clone()
            hub._mailbox.books.undeliver(clone._lane.source, "item")
            del hub._mailbox.books.counts["undelivered"]
            clone.close()
            until(lambda: len(errors) == 4)
            hub.portal.send("works on")
            until(lambda: received == ["works on"])
    assert errors == [(raised, "library")] * 4
    assert [type(exc) for exc in caught.value.exceptions] == [raised]
    assert others == ["stopped"]
    adds_up(hub, 1)


class Decoding:
    """A library that sends, or asks, three times; the second time it cannot be decoded."""

    def __init__(
        self, hub: dss.Hub[Any] | dss.PolledHub[Any], raised: type[BaseException], asks: bool
    ) -> None:
        self._hub = hub
        self._raised = raised
        self._handed_back: list[int] = []
        library = hub.register(
            "library", decode=self._decode, on_undelivered=self._handed_back.append
        )
        self._futures = [library.request_soon(number) for number in range(3)] if asks else []
        if not asks:
            library.send_many(range(3))

    def _decode(self, number: int) -> str:
        if number == 1:
            raise self._raised
        return f"decoded {number}"

    def check(self, seen: list[Any], at_once: bool) -> None:
        """What was taken with it in one lot is received before it is raised."""
        items = ["decoded 0", "decoded 2"]
        items.insert(1 if at_once else 2, self._raised.__name__)
        for index, item in enumerate(seen):
            if isinstance(item, dss.Request):
                assert item.reply("answer")
                seen[index] = item.item
        assert seen == items
        counts = self._hub.statistics()
        assert (counts.received, counts.undelivered, counts.queued) == (2, 1, 0)
        assert counts.sources["library"][:4] == (2, 0, 0, 1)
        assert counts.errors == 0, "it was raised, so it is nobody else's"
        if self._futures:
            one, failed, other = self._futures
            assert one.result(0) == other.result(0) == "answer"
            assert type(failed.exception(0)) is self._raised
            assert counts.requests == (2, 1, 0, 0, 0, 0)
        else:
            assert self._handed_back == [1]
        assert self._hub.blocked() == []
        self._hub.portal.send("works on")


@pytest.mark.anyio
@pytest.mark.parametrize("asks", [False, True], ids=["items", "requests"])
@pytest.mark.parametrize("raised", [Bare, SystemExit])
@pytest.mark.parametrize("way", ["receive", "async for", "receive_many", "receive_many(1)"])
async def test_a_decode_that_raises_no_error_raises_it_where_it_is_received_and_costs_no_other(
    way: str, raised: type[BaseException], asks: bool
) -> None:
    seen: list[Any] = []

    async def receive() -> None:
        if way == "receive":
            seen.append(await hub.receive())
        elif way == "receive_many":
            seen.extend(await hub.receive_many())
        elif way == "receive_many(1)":
            seen.extend(await hub.receive_many(1))
        else:
            async for item in hub:
                seen.append(item)
                if len(seen) == 3:
                    break

    async with dss.open_hub[Any]() as hub:
        decoding = Decoding(hub, raised, asks)
        with anyio.fail_after(10):
            while len(seen) < 3:
                try:
                    await receive()
                except (Bare, SystemExit) as exc:
                    seen.append(type(exc).__name__)
        decoding.check(seen, at_once=way != "receive_many")
        assert await hub.receive() == "works on"


@pytest.mark.parametrize("asks", [False, True], ids=["items", "requests"])
@pytest.mark.parametrize("raised", [Bare, SystemExit])
@pytest.mark.parametrize("most", [None, 1])
def test_a_decode_that_raises_no_error_raises_it_in_a_poll_and_costs_no_other(
    most: int | None, raised: type[BaseException], asks: bool
) -> None:
    seen: list[Any] = []
    with dss.open_polled_hub[Any]() as hub:
        decoding = Decoding(hub, raised, asks)
        while len(seen) < 3:
            try:
                seen.extend(hub.poll(most))
            except (Bare, SystemExit) as exc:
                seen.append(type(exc).__name__)
        decoding.check(seen, at_once=most == 1)
        assert hub.poll() == ["works on"]


@pytest.mark.parametrize("raised", RAISED)
@pytest.mark.parametrize("face", FACES)
def test_what_a_called_function_raises_is_its_callers(
    face: str, raised: type[BaseException]
) -> None:
    """What ends a program ends a polled hub as well, which runs it in ``poll``: see there."""
    if face == "polled" and raised is not Trouble:
        hub = dss.open_polled_hub[Any]()
        outcomes: list[type[BaseException]] = []

        def call() -> None:
            try:
                hub.portal.call(fail)
            except BaseException as exc:
                outcomes.append(type(exc))

        def fail() -> None:
            raise raised

        with threads(call):
            assert hub.wait(10)
            if raised is Bare:
                assert hub.poll() == []
            else:
                with pytest.raises(raised):
                    hub.poll()
        hub.close()
        assert outcomes == [raised]
        return

    def fail_there() -> None:
        raise raised

    with serving(face, lambda item: item) as served:
        with pytest.raises(raised):
            served.portal.call(fail_there)
        with pytest.raises(raised):
            served.portal.start_task_soon(fail_there).result(10)
        assert served.portal.request("works on") == "works on"
        adds_up(served, 1)


@pytest.mark.parametrize("kind", ["plain", "coroutine"])
@pytest.mark.parametrize("raised", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_handler_that_wants_to_leave_ends_serve_and_leaves_no_asker_behind(
    backend: str, raised: type[BaseException], kind: str
) -> None:
    outcomes: list[type[BaseException] | None] = []
    stopped: list[bool] = []

    def plain(item: object) -> None:
        raise raised

    async def coroutine(item: object) -> None:
        raise raised

    def ask(portal: dss.Portal[Any]) -> None:
        try:
            portal.request("question")
        except BaseException as exc:
            outcomes.append(type(exc))

    async def main() -> None:
        async with dss.open_hub[Any]() as hub:
            hub.register("library", stop=lambda: stopped.append(True))
            asker = threading.Thread(target=ask, args=(hub.portal,))
            askers.append(asker)
            asker.start()
            await hub.serve(plain if kind == "plain" else coroutine)

    askers: list[threading.Thread] = []
    name, options = BACKENDS[backend]
    with pytest.raises(BaseException) as caught:
        anyio.run(main, backend=name, backend_options=options)
    exc: BaseException = caught.value
    while isinstance(exc, BaseExceptionGroup):
        exc = exc.exceptions[0]
    assert type(exc) is raised
    askers[0].join(10)
    assert len(outcomes) == 1
    assert outcomes[0] in (raised, dss.NoReplyError, anyio.BrokenResourceError)
    assert stopped == [True]


@pytest.mark.anyio
@pytest.mark.parametrize("kind", ["plain", "coroutine"])
async def test_what_is_no_error_and_leaves_nothing_is_for_the_asker_and_serve_goes_on(
    kind: str,
) -> None:
    def plain(item: str) -> str:
        if item == "fail":
            raise Bare
        return item

    async def coroutine(item: str) -> str:
        return plain(item)

    outcomes: list[object] = []

    def ask(portal: dss.Portal[Any]) -> None:
        try:
            portal.request("fail")
        except BaseException as exc:
            outcomes.append(type(exc))
        outcomes.append(portal.request("works on"))
        portal.close()

    async with dss.open_hub[Any]() as hub:
        asker = threading.Thread(target=ask, args=(hub.portal,))
        asker.start()
        with anyio.fail_after(10):
            await hub.serve(plain if kind == "plain" else coroutine)
        asker.join(10)
    assert outcomes == [Bare, "works on"]


@pytest.mark.parametrize("face", FACES)
def test_an_item_whose_repr_raises_is_an_item(face: str) -> None:
    """Also one that is not received: nobody looks at it but its source."""

    class Item:
        def __repr__(self) -> str:
            raise Bare

        def __eq__(self, other: object) -> bool:
            raise Bare

        __hash__ = None  # type: ignore[assignment]

    received: list[Any] = []
    handed_back: list[Any] = []
    with serving(face, received.append) as hub:
        hub.portal.send(Item())
        library = hub.register("library", on_undelivered=handed_back.append)
        library.send_many([Item(), Item()])
        assert hub.portal.request(Item(), timeout=10) is None
        until(lambda: len(received) == 4)
        assert "Hub" in repr(hub)
        library.abort()
        adds_up(hub, 4)
    hub.portal.offer(Item())
    assert handed_back == []


# -- Out of memory ---------------------------------------------------------------------------------


def test_a_send_without_memory_was_accepted_or_has_raised() -> None:
    """One allocation of CPython's fails, each one in turn.

    If two fail in a row, in a wake and where it is put back into the bell, an item may be received
    although its call has failed: the price of not losing it. What a *receive* has in hand then is
    lost, with its place, as if by Ctrl-C; nobody waits for it beyond the end of the hub.
    """
    set_nomemory_or_skip()
    counts = dict(line.rsplit(" ", 1) for line in run("send_without_memory_here()").splitlines())
    for call in ("send", "send_nowait", "offer", "reply", "poll"):
        assert int(counts[f"{call} failed"]) > 0
        assert int(counts[f"{call} worked"]) > 0
    assert counts["wrong"] == "0"


def set_nomemory_or_skip() -> Any:
    testcapi = pytest.importorskip("_testcapi", reason="this CPython came without _testcapi")
    if not hasattr(testcapi, "set_nomemory"):
        pytest.skip("this CPython cannot let an allocation fail")
    return testcapi


def send_without_memory_here() -> None:
    import _testcapi  # type: ignore[import-not-found,unused-ignore]

    # CPython 3.10 gives a function its cache of globals at its 1024th call; without memory for
    # that it leaves the function without any exception, and says so in a SystemError.
    no_memory = (MemoryError, SystemError) if sys.version_info < (3, 11) else MemoryError

    def without_memory(act: Callable[[], Any], start: int) -> Any:
        _testcapi.set_nomemory(start, start + 1)
        try:
            outcome = act()
        except no_memory:
            outcome = MemoryError
        finally:
            _testcapi.remove_mem_hooks()
        return outcome

    counts: Counter[str] = Counter({"wrong": 0})

    def check(call: str, there: bool, right: bool, said: object) -> None:
        counts[f"{call} {'worked' if there else 'failed'}"] += 1
        if not right:
            counts["wrong"] += 1
            print(f"{call} said {said!r}:", 1)

    # A deque makes room for 64 at once: begin so that the next one needs some, and so that not.
    for before, lane, start in (
        (before, lane, start)
        for before in (0, 31, 32, 95, 96)
        for lane in ("own", "source")
        for start in range(60)
    ):
        for call in ("send", "send_nowait", "offer"):
            hub = dss.open_polled_hub[int](before + 3)
            portal = hub.portal if lane == "own" else hub.register("library")
            for number in range(before):
                portal.send(number)
            act = getattr(portal, call)
            outcome = without_memory(lambda: act(-1), start)  # noqa: B023
            accepted = outcome in (None, True)
            told = hub.wait(0)
            right = hub.poll() == [*range(before)] + [-1] * accepted
            right = right and told == bool(before or accepted)
            right = right and fill(portal.offer) == before + 3
            right = right and hub.poll() == ["filler"] * (before + 3)
            hub.close()
            check(call, accepted, right, outcome)
        hub = dss.open_polled_hub[Any](3)
        portal = hub.portal if lane == "own" else hub.register("library")
        asker = portal.request_soon("question")
        [token] = hub.poll()
        outcome = without_memory(lambda: token.reply("answer"), start)  # noqa: B023
        again = token.reply("again")
        token = None
        right = asker.done() and asker.result() == ("again" if again else "answer")
        right = right and not (again and outcome is True)
        if outcome is not MemoryError:  # which may mean that nothing but the counting has failed
            right = right and hub.statistics().requests.open == 0
        check("reply", outcome is True, right, outcome)
        hub.close()
        hub = dss.open_polled_hub[Any](3)
        handed_back: list[int] = []
        portal = hub.register("library", on_undelivered=handed_back.append)
        for number in range(2):
            portal.send(number)
        outcome = without_memory(hub.poll, start)
        got = outcome if isinstance(outcome, list) else []
        hub.close()  # nobody is kept, and nothing comes twice
        check("poll", bool(got), not set(got) & set(handed_back), (outcome, handed_back))
    for name, many in counts.items():
        print(name, many)


def test_send_many_without_memory_says_how_many_were_accepted_and_costs_no_place() -> None:
    set_nomemory_or_skip()
    lines = run("send_many_without_memory_here()").splitlines()
    assert lines[-1].startswith("failed ")
    assert int(lines[-1].removeprefix("failed ")) > 0
    assert lines[:-1] == []


def send_many_without_memory_here() -> None:
    """A deque makes room for 64 items at once, so the memory may end in the middle of a batch."""
    import _testcapi  # type: ignore[import-not-found,unused-ignore]

    many, failed = 300, 0
    for lane, start in ((lane, start) for lane in ("own", "source") for start in range(60)):
        with dss.open_polled_hub[int](1000) as hub:
            portal = hub.portal if lane == "own" else hub.register("library")
            portal.send_many([-1])  # makes what is made once
            hub.poll()
            said = f"({many} of"
            _testcapi.set_nomemory(start, start + 1)
            try:
                portal.send_many(range(many))
            except MemoryError as exc:
                said = str(exc)
            finally:
                _testcapi.remove_mem_hooks()
            received = hub.poll()
            free = len(fill_up(portal))
            failed += f"({many} of" not in said
            # With no memory for the batch itself nothing is said of a number.
            accepted = f"({len(received)} of" in said or not received
            if received != [*range(len(received))] or not accepted or free < 999:
                print(lane, start, said, len(received), free)
    print("failed", failed)


def fill_up(portal: dss.Portal[int]) -> list[int]:
    numbers: list[int] = []
    while portal.offer(0):
        numbers.append(0)
    return numbers


# -- Storms ----------------------------------------------------------------------------------------


@with_signals
@pytest.mark.parametrize("face", FACES)
def test_a_storm_of_signals_sends_into_the_hub_that_it_interrupts(face: str) -> None:
    """Every half millisecond a handler, in the main thread: which sends, asks, polls meanwhile."""
    line = run(f"storm_here({face!r})")
    signals, main, errors = map(int, line.split())
    assert signals >= 50
    assert main >= 150
    assert errors == 0


def storm_here(face: str) -> None:
    """The main thread asks a hub elsewhere, and serves one of its own; the handler uses both."""
    received: list[Any] = []
    polled: list[Any] = []
    sent: Counter[str] = Counter()
    numbers = iter(range(10**9))
    others: list[dss.Portal[Any]] = []

    def on_alarm(*_: Any) -> None:
        for portal, where in zip(others, ("elsewhere", "here"), strict=True):
            number = next(numbers)
            if portal.offer(("signal", number)):
                sent[where] += 1

    def handle(item: Any) -> Any:
        received.append(item)
        return item

    def use(portal: dss.Portal[Any], own: dss.Portal[Any], number: int) -> None:
        portal.send(("main", number))
        assert portal.request(("asked", number), timeout=20) == ("asked", number)
        own.send_nowait(("main", number))

    def go_on(number: int) -> bool:
        return number < 150 or sent["elsewhere"] < 50

    async def main() -> None:
        async with dss.open_hub[Any](math.inf) as own:
            others.append(own.portal)
            signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
            number = 0
            while go_on(number):
                use(others[0], own.portal, number)
                polled.extend(await own.receive_many())
                number += 1
            signal.setitimer(signal.ITIMER_REAL, 0)
            done.append(number)
            while len(own):
                polled.extend(await own.receive_many())

    done: list[int] = []
    signal.signal(signal.SIGALRM, on_alarm)
    with serving(face, handle, size=16) as served:
        others.append(served.portal)
        if face == "polled":
            with dss.open_polled_hub[Any](math.inf) as own:
                others.append(own.portal)
                own.fileno()
                signal.setitimer(signal.ITIMER_REAL, 0.0005, 0.0005)
                number = 0
                while go_on(number):
                    use(others[0], own.portal, number)
                    if own.wait(5):
                        polled.extend(own.poll())
                    number += 1
                signal.setitimer(signal.ITIMER_REAL, 0)
                done.append(number)
                polled.extend(own.poll())
        else:
            backend, options = BACKENDS[face]
            anyio.run(main, backend=backend, backend_options=options)
        until(lambda: not len(served))
        until(lambda: len(received) == served.statistics().received)
    kinds = Counter(kind for kind, _ in received)
    errors = 0
    errors += len(received) != len(set(received)) or len(polled) != len(set(polled))
    errors += kinds != {"main": done[0], "asked": done[0], "signal": sent["elsewhere"]}
    here = Counter(kind for kind, _ in polled)
    errors += here != {"main": done[0], "signal": sent["here"]}
    errors += [n for kind, n in received if kind == "main"] != [*range(done[0])]
    print(sent["elsewhere"], done[0], errors)


@pytest.mark.parametrize("face", FACES)
def test_finalizers_at_every_allocation_send_ask_and_answer(face: str) -> None:
    """With a collection after every object or two, in all threads; in a process of its own."""
    finalized, answered, errors = map(int, run(f"litter_here({face!r})").split())
    assert finalized > 100
    assert answered > 100
    assert errors == 0


def litter_here(face: str) -> None:
    received: list[Any] = []
    accepted: list[int] = []
    finalized: list[int] = []
    numbers = iter(range(10**9))
    futures: list[Any] = []
    questions: list[Any] = []
    kept: list[Any] = []  # nobody but a finalizer answers these
    over = threading.Event()

    class Litter:
        def __init__(self, portal: dss.Portal[Any]) -> None:
            self.portal = portal
            self.myself = self

        def __del__(self) -> None:
            number = next(numbers)
            finalized.append(number)
            if self.portal.offer(number):
                accepted.append(number)
            with contextlib.suppress(Exception):
                if number % 8 == 0:
                    futures.append(self.portal.request_soon(-1))
                elif number % 8 == 1:
                    number = next(numbers)
                    self.portal.send_nowait(number)
                    accepted.append(number)
            while kept:
                with contextlib.suppress(IndexError):
                    kept.pop().reply("late")

    errors = 0

    def handle(item: Any) -> Any:
        Litter(portals[0]) if not over.is_set() and len(accepted) < 3000 else None
        if item != -1:
            received.append(item)
        return item

    def work() -> None:
        for _ in range(60):
            Litter(portals[0])
            if WITHOUT_GIL:  # where the collector waits until a quarter of all there is is new
                gc.collect()
            questions.append(asked.portal.request_soon("when?"))
            number = next(numbers)
            portals[0].send(number, timeout=20)
            accepted.append(number)
            assert portals[0].request(-1, timeout=20) == -1

    portals: list[dss.Portal[Any]] = []
    thresholds = gc.get_threshold()
    handed_back: list[int] = []
    with serving(face, handle, size=64) as hub, dss.open_polled_hub[Any](math.inf) as asked:
        portals.append(hub.register("library", on_undelivered=handed_back.append))
        gc.set_threshold(1)
        with threads(work, work):
            for _ in range(120):
                assert asked.wait(20)
                kept.extend(asked.poll(1))
        meanwhile = len(finalized)
        over.set()
        Litter(portals[0])
        gc.collect()
        answered = [future.result(0) for future in questions].count("late")
    gc.set_threshold(*thresholds)
    gc.collect()
    ends = received + handed_back
    errors += sorted(ends) != sorted(accepted)
    errors += any(not future.done() for future in futures)
    errors += hub.blocked() != []
    counts = hub.statistics()
    errors += counts.sent != counts.received + counts.queued + counts.dropped + counts.undelivered
    errors += counts.requests.open
    print(meanwhile, answered, errors)


# -- A consumer that never comes back --------------------------------------------------------------


@pytest.mark.parametrize("face", FACES)
def test_a_consumer_that_never_comes_back_keeps_nobody_who_has_a_limit(face: str) -> None:
    """In a process of its own, that exits although its hub's thread is blocked for ever."""
    assert run(f"never_come_back_here({face!r})").splitlines() == [
        "TimeoutError",
        "TimeoutError",
        "TimeoutError",
        "blocked: ['request', 'send']",
        "full: WouldBlock",
        "released: ['BrokenResourceError', 'BrokenResourceError']",
    ]


def never_come_back_here(face: str) -> None:
    busy = threading.Event()

    def handle(item: object) -> None:
        busy.set()
        threading.Event().wait()

    hubs: list[Any] = []
    released: list[str] = []

    def serve() -> None:
        with serving(face, handle, size=1) as hub:
            hubs.append(hub)
            threading.Event().wait()

    threading.Thread(target=serve, daemon=True).start()
    until(lambda: hubs)
    hub = hubs[0]
    hub.portal.send("first")
    assert busy.wait(10)
    if not len(hub):
        hub.portal.send("second")
    for wait in (hub.portal.send, hub.portal.request, lambda item, **limit: send_many(hub, limit)):
        begun = time.monotonic()
        try:
            wait("item", timeout=0.05)
        except TimeoutError:
            print("TimeoutError")
        assert time.monotonic() - begun < 5

    def blocked(call: str) -> None:
        try:
            getattr(hub.portal, call)("item")
        except anyio.BrokenResourceError as exc:
            released.append(type(exc).__name__)

    waiting = [threading.Thread(target=blocked, args=(each,)) for each in ("send", "request")]
    for thread in waiting:
        thread.start()
    until(lambda: len(hub.blocked()) == 2)  # a watchdog's look
    print("blocked:", sorted(each.call for each in hub.blocked()))
    try:
        hub.portal.send_nowait("item")
    except anyio.WouldBlock:
        print("full: WouldBlock")
    hub._mailbox.end(dss._core.errors.hub_gone)  # type: ignore[attr-defined]
    for thread in waiting:
        thread.join(10)
    print("released:", released, flush=True)


def send_many(hub: Any, limit: dict[str, float]) -> None:
    hub.portal.send_many(["item"], **limit)
