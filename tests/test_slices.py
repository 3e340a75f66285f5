"""How a thread waits: any number of seconds, in pieces that the platform takes."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import anyio
import pytest
from conftest import BACKENDS, WITHOUT_GIL

import dss_anyio as dss
from dss_anyio._loops import slices
from dss_anyio._loops.slices import acquire, check_limit, check_timeout, join, wait_for
from dss_anyio.testing import CThread, threads, until

SHORT = 49 * 24 * 3600  # seconds; a lock of Windows takes no more
UNLIMITED = [math.inf, 10**400]
HUGE = [1e300, threading.TIMEOUT_MAX + 1, threading.TIMEOUT_MAX, SHORT + 1]


@pytest.mark.parametrize("timeout", [None, *UNLIMITED])
def test_infinity_is_no_limit(timeout: float | None) -> None:
    assert check_timeout(timeout) is None
    if timeout is not None:
        assert check_limit(timeout, "stop_timeout") == math.inf


@pytest.mark.parametrize("timeout", [0, 0.5, 3, *HUGE])
def test_a_number_of_seconds_is_a_limit(timeout: float) -> None:
    assert check_timeout(timeout) == check_limit(timeout, "stop_timeout") == timeout
    assert type(check_timeout(timeout)) is float


@pytest.mark.parametrize(
    ("limit", "error", "message"),
    [
        (-1, ValueError, "limit must not be negative, got -1; math.inf waits for ever"),
        (-(10**400), ValueError, "limit must not be negative"),
        (math.nan, ValueError, "limit must be a number of seconds, got nan"),
        (None, TypeError, "limit must be a number of seconds, not None"),
        ("1", TypeError, "limit must be a number of seconds, not '1'"),
        (True, TypeError, "limit must be a number of seconds, not True"),
    ],
)
def test_what_is_no_number_of_seconds_is_refused(
    limit: Any, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        check_limit(limit, "limit")


class Asked:
    """Stands where the platform waits, and writes down for how long."""

    def __init__(self, happens_at: int) -> None:
        self.seconds: list[float] = []
        self._happens_at = happens_at

    def __call__(self, timeout: float) -> bool:
        self.seconds.append(timeout)
        return len(self.seconds) > self._happens_at

    wait = join = __call__

    def acquire(self, blocking: bool, timeout: float) -> bool:
        assert blocking
        return self(timeout)

    def is_alive(self) -> bool:
        return len(self.seconds) <= self._happens_at


@pytest.mark.parametrize("timeout", [*UNLIMITED[:1], *HUGE])
@pytest.mark.parametrize("wait", [acquire, wait_for, join])
def test_no_wait_of_the_platform_is_longer_than_a_minute(
    wait: Callable[[Any, float], object], timeout: float
) -> None:
    asked = Asked(50)
    assert wait(asked, timeout) in (True, None)
    assert len(asked.seconds) >= 50
    assert 0 < min(asked.seconds) <= max(asked.seconds) <= 60


def lengths(lock: Asked, looks: bool = False) -> list[float]:
    """How long the slices of a wait without limit are."""
    assert acquire(lock, None, (lambda: False) if looks else None)  # type: ignore[arg-type]
    return lock.seconds


@pytest.mark.skipif(WITHOUT_GIL, reason="there an asker looks every second")
@pytest.mark.parametrize("looks", [False, True])
def test_each_slice_is_twice_as_long_as_the_one_before_up_to_a_minute(looks: bool) -> None:
    assert lengths(Asked(8), looks) == [1, 2, 4, 8, 16, 32, 60, 60, 60]


def test_who_has_to_look_goes_on_to_look_every_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slices, "_WITHOUT_GIL", True)
    assert lengths(Asked(8), looks=True) == [1] * 9
    assert lengths(Asked(8))[-1] == 60
    monkeypatch.setattr(slices, "_CTRL_C_WAITS", True)  # on Windows, in the main thread
    assert lengths(Asked(8)) == [1] * 9
    elsewhere: list[float] = []
    with threads(lambda: elsewhere.extend(lengths(Asked(8)))):
        pass
    assert elsewhere[-1] == 60


def test_many_that_wait_look_200_times_a_second_all_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(slices, "_waiting", dict.fromkeys(range(8000)))
    firsts = [lengths(Asked(1))[0] for _ in range(100)]
    share = 8001 / 200  # seconds: it waits as well
    assert share * 0.75 <= min(firsts) < max(firsts) <= share * 1.25
    assert len(slices._waiting) == 8000, "who has waited is counted no more"


@pytest.mark.parametrize("way", ["send", "request"])
def test_thousands_that_are_blocked_are_all_released_at_the_end(way: str) -> None:
    many = 3000
    left: list[BaseException] = []

    def wait() -> None:
        try:
            getattr(hub.portal, way)(1)
        except anyio.BrokenResourceError as exc:
            left.append(exc)

    before = threading.stack_size(1 << 17)
    try:
        with dss.open_polled_hub[Any](1) as hub:
            hub.portal.send(0)
            started = [threading.Thread(target=wait, daemon=True) for _ in range(many)]
            for thread in started:
                thread.start()
            until(lambda: len(hub.blocked()) == many, 30)
            assert len(slices._waiting) >= many
    finally:
        threading.stack_size(before)
    until(lambda: len(left) == many, 30)
    for thread in started:
        thread.join(10)
    assert not slices._waiting


# -- Everywhere a number of seconds is taken -------------------------------------------------------

TIMED: dict[str, Callable[[Any, float], object]] = {
    "send": lambda hub, timeout: hub.portal.send(1, timeout=timeout),
    "send_many": lambda hub, timeout: hub.portal.send_many([1], timeout=timeout),
    "request": lambda hub, timeout: hub.portal.request(1, timeout=timeout),
    "request_callback": lambda hub, timeout: hub.portal.request_callback(timeout=timeout)(1),
}


@pytest.mark.parametrize("timeout", [*UNLIMITED, *HUGE], ids=str)
@pytest.mark.parametrize("way", TIMED)
@pytest.mark.parametrize("backend", [*BACKENDS, "polled"])
def test_a_thread_may_wait_any_number_of_seconds(backend: str, way: str, timeout: float) -> None:
    found: list[Any] = []

    def wait(hub: Any) -> None:
        found.append(TIMED[way](hub, timeout))

    def answer(item: Any) -> None:
        if isinstance(item, dss.Request):
            assert (item.remaining is None) == (timeout in UNLIMITED)
            assert item.remaining is None or item.remaining > SHORT - 60
            item.reply("answer")

    async def main() -> None:
        async with dss.open_hub[Any](1) as hub:
            hub.portal.send(0)
            with threads(lambda: wait(hub)):
                until(hub.blocked)
                assert await hub.receive() == 0
                answer(await hub.receive())

    if backend == "polled":
        with dss.open_polled_hub[Any](1) as hub:
            hub.portal.send(0)
            with threads(lambda: wait(hub)):
                until(hub.blocked)
                assert hub.poll() == [0]
                assert hub.wait(timeout)
                [item] = hub.poll()
                answer(item)
    else:
        name, options = BACKENDS[backend]
        anyio.run(main, backend=name, backend_options=options)
    assert found == (["answer"] if "request" in way else [None])


@pytest.mark.parametrize("timeout", [*UNLIMITED, *HUGE], ids=str)
def test_whoever_takes_from_a_feed_or_joins_for_a_test_may_as_well(timeout: float) -> None:
    taken: list[int] = []
    with dss.open_polled_hub[Any]() as hub:
        feed = hub.open_feed(1)
        with threads(lambda: taken.append(feed.take(timeout=timeout)), timeout=timeout):
            until(hub.blocked)
            feed.send_nowait(1)
        assert taken == [1]
    assert CThread(int).join(timeout) == 0


@pytest.mark.parametrize("seconds", [*UNLIMITED, *HUGE], ids=str)
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_stop_may_take_any_number_of_seconds_also_if_the_hub_ends_meanwhile(
    backend: str, seconds: float
) -> None:
    log: list[str] = []
    stopping = threading.Event()
    go_on = threading.Event()

    def stop(_: object) -> None:
        stopping.set()
        assert go_on.wait(10)
        log.append("stopped")

    def let_it_go_on(hub: Any) -> None:
        # Whoever ends the hub has to wait for the source, which is being ended alone.
        until(lambda: hub._mailbox.ending)
        go_on.set()

    async def use(hub: dss.Hub[int]) -> None:
        async with hub.open_source("library", lambda portal: None, stop, stop_timeout=seconds):
            pass

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            hub = dss.open_hub[int]()
            with threads(lambda: let_it_go_on(hub)):
                async with hub:
                    tasks.start_soon(use, hub)
                    while not stopping.is_set():
                        await anyio.sleep(0)
                log.append("hub left")

    name, options = BACKENDS[backend]
    anyio.run(main, backend=name, backend_options=options)
    assert log == ["stopped", "hub left"]
