"""What code of the user's raises in the middle of an end: that is completed, and then it leaves."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import anyio
import pytest
from c_threads import send
from conftest import BACKENDS, registered

import dss_anyio as dss
from dss_anyio import _native
from dss_anyio.testing import threads, until

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup


class Bare(BaseException):
    """Neither an Exception nor one that ends the program."""


RAISED = [ValueError, Bare, SystemExit, KeyboardInterrupt]
FACES = [*BACKENDS, "polled"]


def end(face: str, begin: Callable[[Any], None], on_error: Callable[..., object]) -> None:
    """Open a hub, call *begin* with it, and leave its block."""
    if face == "polled":
        with dss.open_polled_hub[Any](4, on_error=on_error) as hub:
            begin(hub)
        return

    async def main() -> None:
        async with dss.open_hub[Any](4, on_error=on_error) as hub:
            begin(hub)

    name, options = BACKENDS[face]
    anyio.run(main, backend=name, backend_options=options)


class World:
    """A hub with all that its end has to see to, and one thing in it that raises."""

    def __init__(self, place: str, raised: type[BaseException]) -> None:
        self.place, self.raised = place, raised
        self.stopped: list[str] = []
        self.back: list[tuple[str, object]] = []
        self.told: list[type[BaseException]] = []
        self.futures: list[Future[Any]] = []
        self.released: list[type[BaseException]] = []
        self.called: list[str] = []
        self._thread: Any = None
        self._hold: list[Any] = []

    def trouble(self, place: str) -> None:
        if place == self.place:
            self.called.append(place)
            raise self.raised

    def begin(self, hub: Any) -> None:
        for name in ("older", "newer"):
            source = hub.register(
                name,
                stop=lambda name=name: self.stop(name),
                on_undelivered=lambda item, name=name: self.hand_back(name, item),
            )
            source.send(self.item())
        source.send_callback(lambda: 1 / 0)()  # nobody tells it before the end
        ask = hub.portal.clone()
        self._hold.append(ask)
        for _ in range(4):  # two are queued, two wait for a place
            future = ask.request_soon(0)
            future.add_done_callback(lambda _: self.trouble("future"))
            self.futures.append(future)

        def blocked() -> None:
            try:
                ask.request(1)
            except BaseException as exc:
                self.released.append(type(exc))

        self._thread = threading.Thread(target=blocked, daemon=True)
        self._thread.start()
        until(lambda: len(hub.blocked()) == 5)

    def item(self) -> object:
        item = Item(self)
        self._hold.append(weakref.ref(item, lambda _: self.trouble("weakref")))
        return item

    def stop(self, name: str) -> None:
        self.stopped.append(name)
        self.trouble("stop")

    def hand_back(self, name: str, item: object) -> None:
        self.back.append((name, type(item)))
        self.trouble("on_undelivered")

    def on_error(self, exc: BaseException, _: str | None) -> None:
        self.told.append(type(exc))
        self.trouble("on_error")

    def check(self) -> None:
        self._thread.join(10)
        assert self.released == [anyio.BrokenResourceError]
        assert [type(each.exception(0)) for each in self.futures] == [anyio.BrokenResourceError] * 4
        assert self.stopped == ["newer", "older"]
        assert sorted(name for name, _ in self.back) == ["newer", "older"]
        assert ZeroDivisionError in self.told
        assert self.called


class Item:
    def __init__(self, world: World) -> None:
        self._world = world

    def __del__(self) -> None:
        self._world.trouble("__del__")


def flat(exc: BaseException | None) -> list[type[BaseException]]:
    if isinstance(exc, BaseExceptionGroup):
        return [each for one in exc.exceptions for each in flat(one)]
    return [] if exc is None else [type(exc)]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("raised", RAISED)
@pytest.mark.parametrize(
    "place", ["future", "weakref", "__del__", "on_undelivered", "on_error", "stop"]
)
@pytest.mark.parametrize("face", FACES)
def test_an_end_in_which_something_raises_is_completed_and_then_it_leaves_once(
    face: str, place: str, raised: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    world = World(place, raised)
    left: BaseException | None = None
    try:
        end(face, world.begin, world.on_error)
    except BaseException as exc:
        left = exc
    gc.collect()
    world.check()
    leaves = flat(left)
    wants_to_leave = raised in (SystemExit, KeyboardInterrupt)
    if place == "stop":
        assert leaves == [raised, raised]  # each source has one, and they come together
    elif (place == "future" and raised is not ValueError) or (
        place == "on_error" and wants_to_leave
    ):
        assert leaves == [raised]
    else:
        assert leaves == []  # it was reported, or is Python's to print
    if place == "on_undelivered":
        assert world.told.count(raised) == 2


@pytest.mark.parametrize("face", FACES)
def test_the_exception_of_the_body_and_one_of_the_end_leave_together_once(face: str) -> None:
    world = World("future", SystemExit)

    def begin(hub: Any) -> None:
        world.begin(hub)
        raise LookupError

    with pytest.raises(BaseException) as caught:  # noqa: B017
        end(face, begin, world.on_error)
    assert flat(caught.value) == [SystemExit]
    assert isinstance(caught.value.__context__, (LookupError, BaseExceptionGroup))
    world.check()


@pytest.mark.parametrize("raised", [Bare, SystemExit])
def test_a_future_whose_callback_raises_keeps_nobody_in_when_a_portal_is_closed(
    raised: type[BaseException],
) -> None:
    def strike(_: object) -> None:
        raise raised

    for act in ("close", "abort", "close_senders"):
        with dss.open_polled_hub[Any](1, on_error=lambda *_: None) as hub:
            hub.portal.send(0)
            back: list[object] = []
            portal = hub.register("library", on_undelivered=back.append)
            futures = [portal.request_soon(number) for number in range(3)]
            for each in futures:
                each.add_done_callback(strike)
            with pytest.raises(raised):
                getattr(hub if act == "close_senders" else portal, act)()
            for each in futures:
                assert type(each.exception(0)) is anyio.ClosedResourceError
            assert hub.statistics().open_send_streams == (0 if act == "close_senders" else 1)
            assert ("library" in registered(hub)) is (act == "close_senders")


@pytest.mark.parametrize("raised", [Bare, SystemExit])
def test_what_the_callback_of_a_dropped_request_raises_stays_out_of_the_senders_thread(
    raised: type[BaseException],
) -> None:
    def strike(_: object) -> None:
        raise raised

    told: list[type[BaseException]] = []
    with dss.open_polled_hub[Any](
        1, overflow="drop_oldest", on_error=lambda exc, _: told.append(type(exc))
    ) as hub:
        hub.portal.request_soon(0).add_done_callback(strike)
        assert hub.portal.offer(1) is True
        assert hub.poll() == [1]
    assert told == [raised]


def test_ctrl_c_while_a_polled_hub_stops_a_library_stops_the_others_first() -> None:
    stopped: list[str] = []
    back: list[object] = []
    inside = threading.Event()
    leave = threading.Event()

    def newest() -> None:
        inside.set()
        assert leave.wait(10)
        stopped.append("newest")

    def strike() -> None:
        assert inside.wait(10)
        interrupt_main()

    hub = dss.open_polled_hub[Any]()
    hub.register("older", stop=lambda: stopped.append("older"), on_undelivered=back.append)
    hub.source("older").send(1)

    def failing() -> None:
        stopped.append("failing")
        leave.set()
        raise LookupError

    hub.register("failing", stop=failing)
    hub.register("newest", stop=newest)
    with threads(strike), pytest.raises(KeyboardInterrupt):
        hub.close()
    until(lambda: len(stopped) == 3)
    assert back == [1]


def interrupt_main() -> None:
    signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)


# -- What leaves a decode while others have items in hand ------------------------------------------


def _fail(item: object) -> Any:
    raise SystemExit("decode")


def _refuse_husks(item: object) -> object:
    if item == b"husk":
        raise ValueError
    return item


@pytest.mark.parametrize("first", ["native", "plain", "refused"])
@pytest.mark.parametrize("then", ["native", "plain"])
@pytest.mark.parametrize("most", [None, 2])
def test_what_ends_the_program_in_a_decode_loses_no_item_of_another_source(
    first: str, then: str, most: int | None
) -> None:
    if _native.dss is None and "native" in (first, then):
        pytest.skip("the extension module is not there")
    with dss.open_polled_hub[Any](on_error=lambda *_: None) as hub:
        failing = hub.register("failing", decode=_fail)
        good = hub.register("good", decode=_refuse_husks)
        later = failing.native_sender() if then == "native" else None
        if first == "native":
            sender = good.native_sender()
            send(sender, b"1")
            send(sender, b"2")
        else:
            good.send_many([b"1", b"2" if first == "plain" else b"husk"])
        if later is None:
            failing.send(b"x")
        else:
            send(later, b"x")
        received: list[Any] = []
        struck = 0
        for _ in range(4):
            try:
                received += hub.poll(most)
            except SystemExit:
                struck += 1
        assert (received, struck) == ([b"1", b"2"] if first != "refused" else [b"1"], 1)
        statistics = hub.statistics()
        assert statistics.received == len(received)
        assert statistics.undelivered == 3 - len(received)


@pytest.mark.parametrize("backend", ["asyncio", "uvloop"])
def test_a_loop_that_is_closed_before_it_watches_leaves_no_descriptor(backend: str) -> None:
    if _native.dss is None:
        pytest.skip("the extension module is not there")
    import asyncio

    def break_off() -> None:
        loop = asyncio.new_event_loop() if backend == "asyncio" else uvloop.new_event_loop()

        async def body() -> None:
            async with dss.open_hub() as hub:
                kept.append(hub.portal.native_sender())
                loop.stop()
                await asyncio.sleep(1)

        kept.append(loop.create_task(body()))
        loop.run_forever()
        loop.close()

    if backend == "uvloop":
        uvloop = pytest.importorskip("uvloop")
    kept: list[Any] = []
    break_off()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(3):
        break_off()
    assert len(os.listdir("/proc/self/fd")) == before
    for task in kept:
        if isinstance(task, asyncio.Task):
            task.get_coro().close()
