"""The hub without an event loop, in real ``select()`` loops: ours, and those of other programs."""

from __future__ import annotations

import contextlib
import gc
import itertools
import math
import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import anyio
import pytest
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream
from bytecodes import run_interrupted
from test_datagram import (
    address_of,
    drained,
    needs_ipv6,
    no_more_descriptors,
    readable,
    udp_socket,
)

import dss_anyio as dss
from dss_anyio.testing import threads, until

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup


@pytest.fixture
def neighbour() -> Iterator[socket.socket]:
    """The UDP socket of somebody else."""
    with udp_socket() as sock:
        yield sock


def waited(hub: dss.PolledHub[Any]) -> bool:
    """Has ``wait`` returned True because it was told? (At its timeout it looks by itself.)"""
    begun = time.monotonic()
    return hub.wait(6) and time.monotonic() - begun < 5


# -- poll ------------------------------------------------------------------------------------------


def test_poll_returns_what_is_there_in_its_order_and_never_blocks() -> None:
    with dss.open_polled_hub[int]() as hub:
        assert hub.poll() == []
        hub.portal.send_many([1, 2, 3])
        assert hub.poll() == [1, 2, 3]
        assert hub.poll() == []
        assert hub.statistics().received == 3


def test_poll_returns_at_most_as_many_as_it_is_asked_for() -> None:
    with dss.open_polled_hub[int]() as hub:
        hub.portal.send_many(range(7))
        assert hub.poll(3) == [0, 1, 2]
        assert hub.poll(max_items=1) == [3]
        assert hub.poll(100) == [4, 5, 6]
        assert hub.poll(1) == []


@pytest.mark.parametrize(
    ("max_items", "error"),
    [
        (0, ValueError),
        (-1, ValueError),
        (1.0, TypeError),
        (math.inf, TypeError),
        (True, TypeError),
        ("1", TypeError),
    ],
)
def test_poll_refuses_a_number_that_makes_no_sense(max_items: Any, error: type[Exception]) -> None:
    with dss.open_polled_hub[int]() as hub:
        hub.portal.send(1)
        with pytest.raises(error, match="max_items must be"):
            hub.poll(max_items)
        assert hub.poll() == [1]


def test_poll_says_when_the_stream_is_over() -> None:
    with dss.open_polled_hub[int]() as hub:
        hub.portal.send_many([1, 2])
        hub.portal.close()
        assert hub.poll(1) == [1]
        assert hub.poll() == [2]
        for _ in range(2):
            with pytest.raises(EndOfStream):
                hub.poll()


def test_a_hub_that_was_closed_does_nothing_more() -> None:
    hub = dss.open_polled_hub[int]()
    hub.close()
    calls: list[Callable[[], object]] = [hub.poll, hub.wait, hub.fileno]
    for call in calls:
        with pytest.raises(ClosedResourceError):
            call()
    for address in (None, ("127.0.0.1", 4321)):
        with pytest.raises(ClosedResourceError):
            hub.wake_address = address
    hub.close()


def test_the_thread_that_polls_becomes_the_hubs_own() -> None:
    with dss.open_polled_hub[int](1) as hub:
        hub.portal.send(0)
        with pytest.raises(RuntimeError, match="would block"):
            hub.portal.send(1)
        polled = threading.Event()
        go_on = threading.Event()
        errors: list[Exception] = []

        def poll() -> None:
            assert hub.poll() == [0]
            hub.portal.send(2)
            try:
                hub.portal.send(3)
            except RuntimeError as exc:
                errors.append(exc)
            polled.set()
            assert go_on.wait(10)
            assert hub.poll() == [2]

        with threads(poll):
            assert polled.wait(10)
            with pytest.raises(TimeoutError):  # this thread is foreign now
                hub.portal.send(4, timeout=0)
            go_on.set()
        assert len(errors) == 1


def test_a_thread_that_has_ended_is_nobodys_own_even_if_its_number_is_used_again() -> None:
    hubs: list[dss.PolledHub[int]] = []

    def open_hub() -> None:
        hubs.append(dss.open_polled_hub(1))
        hubs[0].portal.send(1)

    def send() -> None:
        with pytest.raises(TimeoutError):
            hubs[0].portal.send(2, timeout=0)

    with threads(open_hub):
        pass
    for _ in range(10):  # one of them gets the number of the first
        with threads(send):
            pass
    hubs[0].close()


# -- wait ------------------------------------------------------------------------------------------


def test_wait_returns_at_once_if_there_is_something() -> None:
    with dss.open_polled_hub[int]() as hub:
        hub.portal.send(1)
        assert hub.wait()
        assert hub.wait(0), "waiting takes nothing"
        assert hub.wait(math.inf)
        assert hub.poll() == [1]


@pytest.mark.parametrize("timeout", [0, 0.0, 0.01, 1e-9])
def test_wait_returns_false_if_nothing_comes_in_time(timeout: float) -> None:
    with dss.open_polled_hub[int]() as hub:
        begun = time.monotonic()
        assert hub.wait(timeout) is False
        assert timeout <= time.monotonic() - begun < 5
        hub.portal.send(1)
        hub.poll()
        assert hub.wait(timeout) is False, "what was polled is no news any more"


@pytest.mark.parametrize("timeout", [None, 20, math.inf, 1e300])
def test_wait_returns_true_as_soon_as_something_comes(timeout: float | None) -> None:
    with dss.open_polled_hub[int]() as hub:

        def send() -> None:
            until(lambda: hub.statistics().tasks_waiting_receive == 1)
            hub.portal.send(1)

        for _ in range(3):
            begun = time.monotonic()
            with threads(send):
                assert hub.wait(timeout) is True
            assert time.monotonic() - begun < 5
            assert hub.poll() == [1]
            assert hub.statistics().tasks_waiting_receive == 0


def test_wait_refuses_a_timeout_that_cannot_be() -> None:
    with dss.open_polled_hub[int]() as hub:
        hub.portal.send(1)
        for timeout in (-1, -0.001, -math.inf):
            with pytest.raises(ValueError, match="timeout must not be negative"):
                hub.wait(timeout)
        with pytest.raises(ValueError, match="timeout must be a number of seconds, got nan"):
            hub.wait(math.nan)
        for wrong in ("1", [], True, object()):
            with pytest.raises(TypeError, match="timeout must be a number"):
                hub.wait(wrong)  # type: ignore[arg-type]


def test_wait_returns_true_when_the_stream_is_over() -> None:
    with dss.open_polled_hub[int]() as hub:

        def close() -> None:
            until(lambda: hub.statistics().tasks_waiting_receive == 1)
            hub.portal.close()

        with threads(close):
            assert waited(hub)
        with pytest.raises(EndOfStream):
            hub.poll()
        assert hub.wait()


def test_wait_goes_on_if_it_was_an_error_that_came_and_tells_of_it() -> None:
    told: list[threading.Thread] = []

    def on_error(exc: BaseException, source: str | None) -> None:
        told.append(threading.current_thread())

    with dss.open_polled_hub[int](on_error=on_error) as hub:
        callback = hub.portal.send_callback(lambda number: 1 // number)

        def send() -> None:
            until(lambda: hub.statistics().tasks_waiting_receive == 1)
            callback(0)
            until(lambda: told)
            callback(1)

        with threads(send):
            assert waited(hub)
        assert told == [threading.current_thread()]
        assert hub.poll() == [1]


def test_wait_goes_on_if_what_came_was_taken_back() -> None:
    with dss.open_polled_hub[int]() as hub:
        source = hub.register("source")

        def send() -> None:
            source.send(1)
            source.abort()

        with threads(send):
            pass
        assert hub.wait(0) is False
        with threads(lambda: hub.portal.send(2)):
            assert waited(hub)
        assert hub.poll() == [2]


def test_wait_is_released_when_another_thread_closes_the_hub() -> None:
    hub = dss.open_polled_hub[int]()

    def close() -> None:
        until(lambda: hub.statistics().tasks_waiting_receive == 1)
        hub.close()

    with threads(close), pytest.raises(ClosedResourceError):
        hub.wait()


@pytest.mark.skipif(sys.platform == "win32", reason="needs pthread_kill")
def test_wait_sees_what_a_signal_handler_sends_that_interrupts_it() -> None:
    with dss.open_polled_hub[str]() as hub:
        main = threading.get_ident()

        def interrupt() -> None:
            until(lambda: hub.statistics().tasks_waiting_receive == 1)
            signal.pthread_kill(main, signal.SIGTERM)

        before = signal.signal(signal.SIGTERM, lambda *_: hub.portal.send("handled"))
        try:
            with threads(interrupt):
                assert waited(hub)
        finally:
            signal.signal(signal.SIGTERM, before)
        assert hub.poll() == ["handled"]


@pytest.mark.skipif(sys.platform == "win32", reason="needs pthread_kill")
def test_ctrl_c_ends_a_wait_and_the_hub_goes_on() -> None:
    with dss.open_polled_hub[int](0) as hub:
        main = threading.get_ident()

        def interrupt() -> None:
            until(lambda: hub.statistics().tasks_waiting_receive == 1)
            signal.pthread_kill(main, signal.SIGINT)

        with threads(interrupt), pytest.raises(KeyboardInterrupt):
            hub.wait()
        assert hub.statistics().tasks_waiting_receive == 0
        assert not hub.portal.offer(1), "nobody waits any more"
        assert hub.wait(0) is False


def test_a_rendezvous_takes_place_while_the_hub_waits() -> None:
    with dss.open_polled_hub[int](0) as hub:
        outcomes: list[bool] = []

        def send() -> None:
            until(lambda: hub.statistics().tasks_waiting_receive == 1)
            until(lambda: hub.portal.offer(1))
            outcomes.append(hub.portal.offer(2))

        assert not hub.portal.offer(0)
        with threads(send):
            assert waited(hub)
        assert hub.poll() == [1]
        assert outcomes == [False]
        assert hub.wait(0) is False
        assert not hub.portal.offer(3), "nobody waits any more"


def test_a_blocked_sender_meets_a_hub_that_waits() -> None:
    with dss.open_polled_hub[int](0) as hub, threads(lambda: hub.portal.send(1)):
        until(hub.blocked)
        assert waited(hub)
        assert hub.poll() == [1]


# -- a descriptor for select() ---------------------------------------------------------------------


def test_the_descriptor_is_readable_from_the_first_item_until_the_last_was_polled() -> None:
    with dss.open_polled_hub[int]() as hub:
        assert not readable(hub)
        hub.portal.send_many([1, 2, 3])
        assert readable(hub)
        assert readable(hub), "looking is not polling"
        for item in (1, 2):
            assert hub.poll(1) == [item]
            assert readable(hub), "something is left"
        assert hub.poll(1) == [3]
        assert not readable(hub)
        assert hub.poll() == []
        assert not readable(hub)
        hub.portal.send(4)
        assert readable(hub)
        assert hub.poll() == [4]


def test_the_descriptor_is_the_same_all_the_time() -> None:
    with dss.open_polled_hub[int]() as hub:
        number = hub.fileno()
        hub.portal.send(1)
        hub.poll()
        assert hub.fileno() == number


def test_a_descriptor_that_is_asked_for_late_knows_what_was_sent_before() -> None:
    with dss.open_polled_hub[int]() as hub:
        hub.portal.send_many([1, 2])
        assert readable(hub)
        hub.poll(1)
        assert readable(hub)
        hub.poll()
        assert not readable(hub)
    with dss.open_polled_hub[int]() as hub:
        hub.close_senders()
        assert readable(hub), "the end is something to poll as well"


def test_the_descriptor_is_readable_at_the_end_of_the_stream_and_stays_so() -> None:
    with dss.open_polled_hub[int]() as hub:
        assert not readable(hub)
        hub.portal.send(1)
        hub.portal.close()
        assert hub.poll() == [1]
        for _ in range(3):
            assert readable(hub, 1)
            with pytest.raises(EndOfStream):
                hub.poll()


def test_the_descriptor_is_readable_if_there_is_an_error_to_be_told() -> None:
    told: list[BaseException] = []
    with dss.open_polled_hub[int](on_error=lambda exc, _: told.append(exc)) as hub:
        assert not readable(hub)
        hub.portal.send_callback(lambda: 1 // 0)()
        assert readable(hub)
        assert hub.poll() == []
        assert len(told) == 1
        assert not readable(hub)


@pytest.mark.parametrize("times", [1, 2])
def test_a_select_that_waits_is_woken_from_another_thread(times: int) -> None:
    with dss.open_polled_hub[int]() as hub:
        hub.fileno()
        for item in range(times):
            with threads(lambda item=item: hub.portal.send(item)):
                assert readable(hub, 20)
            assert hub.poll() == [item]


@pytest.mark.parametrize(
    "selector",
    [
        getattr(selectors, name)
        for name in ("SelectSelector", "PollSelector", "EpollSelector", "KqueueSelector")
        if hasattr(selectors, name)
    ],
)
def test_a_selector_gets_everything_from_two_hubs_and_a_socket(
    selector: type[selectors.BaseSelector], neighbour: socket.socket
) -> None:
    with (
        dss.open_polled_hub[int](8) as one,
        dss.open_polled_hub[int](8) as other,
        selector() as loop,
    ):
        received: dict[object, list[int]] = {one: [], other: [], neighbour: []}
        for file in (one, other, neighbour):
            loop.register(file, selectors.EVENT_READ)

        def stranger() -> None:
            with udp_socket() as sock:
                sock.sendto(b"\x05", address_of(neighbour))

        with threads(
            lambda: one.portal.send_many(range(100), timeout=20),
            lambda: other.portal.send_many(range(100), timeout=20),
            stranger,
        ):
            while sum(map(len, received.values())) < 201:
                events = loop.select(20)
                assert events, "something is on its way and nobody is told"
                for key, _ in events:
                    if key.fileobj is neighbour:
                        received[neighbour] += neighbour.recv(16)
                    else:
                        received[key.fileobj] += key.fileobj.poll(5)  # type: ignore[union-attr]
        assert received == {one: list(range(100)), other: list(range(100)), neighbour: [5]}
        for hub in (one, other):
            assert hub.poll() == []  # a wake may have come for what was polled already
        assert loop.select(0) == []


def test_the_descriptor_is_closed_with_the_hub() -> None:
    hub = dss.open_polled_hub[int]()
    number = hub.fileno()
    hub.portal.send(1)
    hub.close()
    with pytest.raises(OSError, match="[Bb]ad file descriptor"):
        os.fstat(number)
    with pytest.raises(ClosedResourceError):
        hub.fileno()


def test_where_no_socket_can_be_made_there_is_no_descriptor_but_all_else_works() -> None:
    with dss.open_polled_hub[int]() as hub:
        hub.portal.send(1)
        with no_more_descriptors(), pytest.raises(OSError, match="[Tt]oo many"):
            hub.fileno()
        with no_more_descriptors():
            assert hub.wait(0)
            assert hub.poll() == [1]
        hub.portal.send(2)
        assert readable(hub)


def test_a_strangers_datagrams_wake_nothing() -> None:
    with dss.open_polled_hub[int]() as hub, udp_socket() as stranger:
        with socket.socket(fileno=os.dup(hub.fileno())) as ours:
            addresses = [address_of(ours), ours.getpeername()]
        for _ in range(1000):
            for address in addresses:
                stranger.sendto(b"!", address)
        assert not readable(hub, 0.01)
        assert hub.wait(0) is False
        assert hub.poll() == []
        assert hub.statistics().wakes == 0
        hub.portal.send(1)
        assert readable(hub)
        for _ in range(1000):
            stranger.sendto(b"!", addresses[0])
        assert hub.poll() == [1]
        assert not readable(hub, 0.01)
        assert hub.statistics().wakes == 1


# -- somebody else's socket ------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", pytest.param("::1", marks=needs_ipv6)])
def test_a_neighbour_is_told_once_however_many_items_come(host: str) -> None:
    with udp_socket("127.0.0.1" if host == "localhost" else host) as neighbour:
        port = address_of(neighbour)[1]
        with dss.open_polled_hub[int](wake_address=(host, port)) as hub:
            assert hub.wake_address == address_of(neighbour)
            assert drained(neighbour) == 0
            for _ in range(3):
                hub.portal.send_many(range(100))
                for item in range(100, 200):
                    hub.portal.send(item)
                assert drained(neighbour) == 1
                assert hub.poll() == list(range(200))
                assert drained(neighbour) == 0
            assert hub.statistics().wakes == 3


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
def test_a_neighbour_is_woken_at_what_its_getsockname_returns(host: str) -> None:
    with udp_socket(host) as neighbour, udp_socket(host) as another:
        assert len(neighbour.getsockname()) == (4 if ":" in host else 2)
        with dss.open_polled_hub[int](wake_address=neighbour.getsockname()) as hub:
            assert hub.wake_address == address_of(neighbour)
            hub.portal.send(1)
            assert drained(neighbour) == 1
            hub.wake_address = another.getsockname()
            assert hub.wake_address == address_of(another)
            assert drained(another) == 1, "something waits to be polled"
            assert hub.poll() == [1]
            hub.portal.send(2)
            assert (drained(neighbour), drained(another)) == (0, 1)


@needs_ipv6
def test_a_neighbour_of_both_versions_is_woken_by_ipv4() -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as neighbour:
        neighbour.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        neighbour.setblocking(False)
        neighbour.bind(("::ffff:127.0.0.1", 0))
        with dss.open_polled_hub[int](wake_address=neighbour.getsockname()) as hub:
            hub.portal.send(1)
            assert drained(neighbour) == 1


def test_a_neighbour_that_drains_before_it_polls_misses_nothing(neighbour: socket.socket) -> None:
    """An item is sent at each bytecode of that: it is polled, or its datagram is still there."""
    for at in itertools.count():
        with dss.open_polled_hub[int](wake_address=neighbour.getsockname()) as hub:
            hub.portal.send(1)
            polled: list[int] = []

            def drain_and_poll() -> None:
                drained(neighbour)
                polled.extend(hub.poll())

            interrupted = run_interrupted(
                drain_and_poll,
                lambda: hub.portal.send(2),
                at,
                inside_of=("dss_anyio.", "test_datagram"),
            )
            assert 1 in polled
            assert not interrupted or 2 in polled or readable(neighbour)
            drained(neighbour)
        if not interrupted:
            break
    assert at > 100


def test_a_neighbour_that_polls_before_it_drains_may_sleep_beside_an_item(
    neighbour: socket.socket,
) -> None:
    """Why the docs say in which order: the datagram means the item that the poll did not see."""
    with dss.open_polled_hub[int](wake_address=neighbour.getsockname()) as hub:
        hub.portal.send(1)
        assert hub.poll() == [1]
        hub.portal.send(2)  # comes in between
        assert drained(neighbour) == 2
        assert not readable(neighbour)
        assert len(hub) == 1


def test_a_neighbour_is_told_again_after_a_poll_that_has_left_something(
    neighbour: socket.socket,
) -> None:
    with dss.open_polled_hub[int](wake_address=address_of(neighbour)) as hub:
        hub.portal.send_many(range(3))
        assert drained(neighbour) == 1
        assert hub.poll(1) == [0]
        assert drained(neighbour) == 1
        assert hub.poll(1) == [1]
        assert drained(neighbour) == 1
        assert hub.poll(1) == [2]
        assert drained(neighbour) == 0


@pytest.mark.parametrize("left", [0, 1], ids=["", "and leaves something"])
def test_no_datagram_is_lost_if_the_neighbour_makes_us_poll_at_any_bytecode_of_its_being_sent(
    left: int, neighbour: socket.socket
) -> None:
    """Guards ``Alarm``: a poll may come when the datagram is out, but the wake is not over yet.

    We poll for a datagram only, as in the loop of a program that knows of nothing else.
    """
    for at in itertools.count():
        with dss.open_polled_hub[int](wake_address=address_of(neighbour)) as hub:
            polled: list[int] = []

            def serve(
                max_items: int | None = None,
                hub: dss.PolledHub[int] = hub,
                polled: list[int] = polled,
            ) -> None:
                if drained(neighbour):
                    polled += hub.poll(max_items)

            interrupted = run_interrupted(
                lambda hub=hub: hub.portal.send_many(range(1 + left)),  # type: ignore[misc]
                lambda serve=serve: serve(1),  # type: ignore[misc]
                at,
            )
            for _ in range(3):
                serve()
            assert polled == list(range(1 + left))
            hub.portal.send(2)
            serve()
            assert polled == [*range(1 + left), 2]
        if not interrupted:
            assert at > 20
            return


def test_a_neighbour_is_never_told_twice_between_two_polls(
    neighbour: socket.socket, switching_fast: None
) -> None:
    """However many threads send, and however soon it polls: at most one datagram is under way."""
    with dss.open_polled_hub[int](64, wake_address=address_of(neighbour)) as hub:
        received: list[int] = []
        datagrams = 0
        polls = 0

        def send() -> None:
            hub.portal.send_many(range(1000), timeout=8)

        with threads(send, send, send):
            while len(received) < 3000:
                assert readable(neighbour, 5), "items are there and nobody is told"
                heard = drained(neighbour)
                assert heard <= 1
                datagrams += heard
                received += hub.poll()
                polls += 1
        datagrams += drained(neighbour)
        assert datagrams <= polls + 1
        assert hub.statistics().wake_failures == 0


def test_a_neighbour_is_told_when_the_stream_is_over(neighbour: socket.socket) -> None:
    with dss.open_polled_hub[int](wake_address=address_of(neighbour)) as hub:
        hub.portal.close()
        assert drained(neighbour) == 1


def test_a_descriptor_and_a_neighbour_are_told_both(neighbour: socket.socket) -> None:
    with dss.open_polled_hub[int](wake_address=address_of(neighbour)) as hub:
        assert not readable(hub)
        for _ in range(3):
            hub.portal.send_many([1, 2])
            assert readable(hub)
            assert drained(neighbour) == 1
            assert hub.poll() == [1, 2]
            assert not readable(hub)
            assert drained(neighbour) == 0


def test_a_new_neighbour_is_told_what_is_there_and_the_old_one_no_more(
    neighbour: socket.socket,
) -> None:
    with udp_socket() as other, dss.open_polled_hub[int]() as hub:
        assert hub.wake_address is None
        hub.wake_address = address_of(neighbour)
        assert drained(neighbour) == 0, "there is nothing to tell"
        hub.portal.send(1)
        assert drained(neighbour) == 1
        hub.wake_address = address_of(other)
        assert hub.wake_address == address_of(other)
        assert (drained(neighbour), drained(other)) == (0, 1)
        hub.portal.send(2)
        assert (drained(neighbour), drained(other)) == (0, 0), "it was told, and has not polled"
        assert hub.poll() == [1, 2]
        hub.portal.send(3)
        assert (drained(neighbour), drained(other)) == (0, 1)
        hub.wake_address = None
        assert hub.wake_address is None
        assert hub.poll() == [3]
        hub.portal.send(4)
        assert (drained(neighbour), drained(other)) == (0, 0)
        hub.wake_address = address_of(neighbour)
        assert (drained(neighbour), drained(other)) == (1, 0)
        assert hub.poll() == [4]


def test_a_new_neighbour_is_told_that_the_stream_is_over(neighbour: socket.socket) -> None:
    with dss.open_polled_hub[int]() as hub:
        hub.close_senders()
        hub.wake_address = address_of(neighbour)
        assert drained(neighbour) == 1


@pytest.mark.parametrize(
    ("address", "error"),
    [
        (("192.168.1.1", 4321), ValueError),
        (("0.0.0.0", 4321), ValueError),
        (("example.com", 4321), ValueError),
        (("127.0.0.1", 0), ValueError),
        (("127.0.0.1", 65536), ValueError),
        (("127.0.0.1", "4321"), TypeError),
        (("127.0.0.1", True), TypeError),
        (["127.0.0.1", 4321], TypeError),
        ("127.0.0.1:4321", TypeError),
        (4321, TypeError),
        (False, TypeError),
    ],
)
def test_an_address_that_cannot_be_woken_is_refused_and_changes_nothing(
    address: Any, error: type[Exception], neighbour: socket.socket
) -> None:
    with pytest.raises(error):
        dss.open_polled_hub(wake_address=address)
    with dss.open_polled_hub[int](wake_address=address_of(neighbour)) as hub:
        with pytest.raises(error):
            hub.wake_address = address
        assert hub.wake_address == address_of(neighbour)
        hub.portal.send(1)
        assert drained(neighbour) == 1
    gc.collect()  # nothing is left open by the hub that was refused


def test_an_address_for_which_there_is_no_socket_changes_nothing(
    neighbour: socket.socket,
) -> None:
    with no_more_descriptors(), pytest.raises(OSError, match="[Tt]oo many"):
        dss.open_polled_hub(wake_address=address_of(neighbour))
    gc.collect()
    with udp_socket() as other, dss.open_polled_hub[int](wake_address=address_of(other)) as hub:
        with no_more_descriptors(), pytest.raises(OSError, match="[Tt]oo many"):
            hub.wake_address = address_of(neighbour)
        assert hub.wake_address == address_of(other)
        hub.portal.send(1)
        assert (drained(neighbour), drained(other)) == (0, 1)


def test_a_neighbours_socket_is_closed_with_the_hub(neighbour: socket.socket) -> None:
    before = len(os.listdir("/dev/fd"))
    with dss.open_polled_hub[int](wake_address=address_of(neighbour)) as hub:
        hub.wake_address = address_of(neighbour)
        hub.fileno()
        assert len(os.listdir("/dev/fd")) == before + 3
    assert len(os.listdir("/dev/fd")) == before


# -- notifications that fail -----------------------------------------------------------------------


def sending_socket(hub: dss.PolledHub[Any], which: str) -> socket.socket:
    doorbell, neighbour = hub._alarm.doorbell, hub._alarm.neighbour
    notifier = neighbour if which == "neighbour" else doorbell and doorbell._notifier
    assert notifier is not None
    assert notifier._socket is not None
    return notifier._socket


@contextlib.contextmanager
def woken_by(which: str) -> Iterator[tuple[dss.PolledHub[int], Callable[[], bool]]]:
    """A hub, and a function that tells whether the one it wakes was woken since it was asked."""
    with udp_socket() as neighbour, dss.open_polled_hub[int]() as hub:
        if which == "neighbour":
            hub.wake_address = address_of(neighbour)
            yield hub, lambda: drained(neighbour) > 0
        else:
            hub.fileno()
            yield hub, lambda: readable(hub)


@pytest.mark.parametrize("which", ["neighbour", "descriptor"])
@pytest.mark.parametrize("how", ["shut down", "closed by somebody"])
def test_a_notification_that_fails_is_sent_again_from_a_fresh_socket(how: str, which: str) -> None:
    with woken_by(which) as (hub, woken):
        for item in range(3):
            if how == "shut down":
                sending_socket(hub, which).shutdown(socket.SHUT_RDWR)
            else:
                os.close(sending_socket(hub, which).fileno())
            hub.portal.send(item)
            assert woken()
            assert hub.poll() == [item]
            hub.portal.send(item)
            assert woken(), "the fresh one stays"
            assert hub.poll() == [item]
        assert hub.statistics().wake_failures == 0
        assert hub.statistics().wakes == 6


@pytest.mark.parametrize("which", ["neighbour", "descriptor"])
def test_a_notification_that_fails_twice_is_counted_and_its_item_stays_delivered(
    which: str,
) -> None:
    with woken_by(which) as (hub, woken):
        sending_socket(hub, which).shutdown(socket.SHUT_RDWR)
        with no_more_descriptors():
            hub.portal.send(1)
            assert hub.portal.offer(2), "the next one tries again"
            assert hub.portal.send_callback()(3) is None
            assert hub.statistics().wake_failures == 3
            assert hub.wait(0), "who waits in wait() is told all the same"
        assert not woken()
        hub.portal.send(4)
        assert woken()
        assert hub.poll() == [1, 2, 3, 4]
        hub.portal.send(5)
        assert woken()
        assert hub.poll() == [5]
        statistics = hub.statistics()
        assert (statistics.wake_failures, statistics.errors) == (3, 0)
        assert (statistics.sent, statistics.received) == (5, 5)


def test_wait_is_released_although_a_notification_fails(neighbour: socket.socket) -> None:
    """Guards ``Alarm.__call__``: whatever becomes of the datagrams, the lock is released."""
    with dss.open_polled_hub[int](wake_address=address_of(neighbour)) as hub:

        def send() -> None:
            until(lambda: hub.statistics().tasks_waiting_receive == 1)
            sending_socket(hub, "neighbour").shutdown(socket.SHUT_RDWR)
            with no_more_descriptors():
                hub.portal.send(1)

        with threads(send):
            assert waited(hub)
        assert hub.statistics().wake_failures == 1


def test_a_neighbour_that_has_gone_is_no_failure_and_is_told_when_it_is_back() -> None:
    with udp_socket() as neighbour:
        address = address_of(neighbour)
    with dss.open_polled_hub[int](wake_address=address) as hub:
        for item in range(4):
            hub.portal.send(item)
            assert hub.poll() == [item]
        with udp_socket(*address) as neighbour:
            hub.portal.send(4)
            assert drained(neighbour) == 1
        assert hub.statistics().wake_failures == 0


# -- the end ---------------------------------------------------------------------------------------


def test_the_end_of_the_block_ends_the_hub_in_order() -> None:
    happened: list[object] = []
    with dss.open_polled_hub[str]() as hub:
        for name in ("first", "second"):
            hub.register(
                name,
                stop=lambda name=name: happened.append(f"cancel {name}"),
                on_undelivered=happened.append,
            ).send(f"item of {name}")
    assert happened == ["cancel second", "cancel first", "item of first", "item of second"]
    hub.close()
    assert len(happened) == 4
    assert hub.statistics().undelivered == 2


def test_a_source_may_join_a_thread_that_is_blocked_in_send_when_it_is_cancelled() -> None:
    hub = dss.open_polled_hub[int](1)
    released: list[BaseException] = []

    def work() -> None:
        try:
            for item in itertools.count():
                source.send(item)
        except BrokenResourceError as exc:
            released.append(exc)

    library = threading.Thread(target=work, daemon=True)
    source = hub.register("library", stop=library.join)
    library.start()
    until(hub.blocked)
    hub.close()
    assert not library.is_alive()
    assert len(released) == 1
    assert hub.blocked() == []


class OopsError(Exception):
    pass


def fail(error: BaseException) -> Callable[[], object]:
    def cancel() -> None:
        raise error

    return cancel


def test_an_error_of_the_body_alone_is_not_wrapped() -> None:
    error = OopsError("body")
    with pytest.raises(OopsError) as raised, dss.open_polled_hub[int]() as hub:
        hub.register("source", stop=lambda: None)
        raise error
    assert raised.value is error
    assert error.__context__ is None


def test_errors_of_cancel_are_raised_together_newest_source_first() -> None:
    first, third = OopsError("first"), LookupError("third")
    cancelled: list[str] = []
    with pytest.raises(ExceptionGroup, match="errors at the end of sensors") as raised:
        with dss.open_polled_hub[int](name="sensors") as hub:
            hub.register("first", stop=fail(first))
            hub.register("second", stop=lambda: cancelled.append("second"))
            hub.register("third", stop=fail(third))
    assert raised.value.exceptions == (third, first)
    assert cancelled == ["second"]


def test_errors_of_cancel_are_raised_together_with_that_of_the_body() -> None:
    body, cancel = OopsError("body"), OopsError("cancel")
    with pytest.raises(ExceptionGroup) as raised, dss.open_polled_hub[int]() as hub:
        hub.register("source", stop=fail(cancel))
        raise body
    assert raised.value.exceptions == (body, cancel)


def test_errors_of_cancel_join_the_group_of_the_body() -> None:
    one, two, cancel = OopsError("one"), OopsError("two"), OopsError("cancel")
    with pytest.raises(ExceptionGroup) as raised, dss.open_polled_hub[int]() as hub:
        hub.register("source", stop=fail(cancel))
        raise ExceptionGroup("body", [one, two])
    assert raised.value.exceptions == (one, two, cancel)


@pytest.mark.parametrize("leaving", [KeyboardInterrupt, SystemExit])
def test_who_wants_to_leave_is_not_wrapped_and_the_errors_are_told(
    leaving: type[BaseException],
) -> None:
    told: list[tuple[BaseException, str | None]] = []
    body, cancel = leaving("body"), OopsError("cancel")
    with pytest.raises(leaving) as raised:
        with dss.open_polled_hub[int](on_error=lambda *args: told.append(args)) as hub:
            hub.register("source", stop=fail(cancel))
            raise body
    assert raised.value is body
    assert [exc for exc, _ in told] == [cancel]


def test_a_library_that_raises_system_exit_in_cancel_does_not_end_the_program() -> None:
    with pytest.raises(BaseExceptionGroup) as raised, dss.open_polled_hub[int]() as hub:
        hub.register("source", stop=fail(SystemExit("library")))
    assert [type(exc) for exc in raised.value.exceptions] == [SystemExit]


def test_close_raises_what_the_callbacks_have_raised_once() -> None:
    hub = dss.open_polled_hub[int]()
    hub.register("source", stop=fail(OopsError("cancel")))
    with pytest.raises(ExceptionGroup, match="errors at the end of"):
        hub.close()
    hub.close()


def test_errors_that_come_up_at_the_end_are_told() -> None:
    told: list[tuple[str, str | None]] = []
    with dss.open_polled_hub[int](
        on_error=lambda exc, source: told.append((type(exc).__name__, source))
    ) as hub:
        hub.register("source", on_undelivered=lambda item: 1 // item).send(0)
        hub.portal.send_callback(lambda: 1 // 0)()
    assert told == [("ZeroDivisionError", None), ("ZeroDivisionError", "source")]


def test_two_threads_may_close_at_once(switching_fast: None) -> None:
    for _ in range(30):
        hub = dss.open_polled_hub[int]()
        hub.fileno()
        calls: list[object] = []
        hub.register(
            "source", stop=lambda calls=calls: calls.append("cancel"), on_undelivered=calls.append
        ).send(1)
        with threads(hub.close, hub.close):
            pass
        assert sorted(map(str, calls)) == ["1", "cancel"]


def test_a_hub_that_was_forgotten_is_loud_and_ends() -> None:
    hubs = [dss.open_polled_hub[int](name="forgotten")]
    portal = hubs[0].portal
    ended = threading.Event()
    back: list[int] = []
    hubs[0].register("source", stop=ended.set, on_undelivered=back.append).send(1)
    with pytest.warns(ResourceWarning, match="Unclosed <PolledHub 'forgotten': open, 1 of 1024"):
        hubs.clear()
    assert ended.wait(10)
    until(lambda: back == [1])
    with pytest.raises(BrokenResourceError):
        portal.send(2)


@pytest.mark.parametrize("call", ["poll", "poll one", "wait"])
@pytest.mark.parametrize("overflow", ["block", "drop_oldest"])
def test_an_item_on_its_way_goes_back_if_the_hub_is_closed_at_any_bytecode_of(
    overflow: Any, call: str
) -> None:
    """Guards ``Mailbox.arm``: who arms the bell of a mailbox that was swept sweeps it again.

    One thread receives, one closes the hub, and one has looked whether the hub is open before and
    puts its item only now.
    """
    calls: dict[str, Callable[[dss.PolledHub[Any]], object]] = {
        "poll": lambda hub: hub.poll(),
        "poll one": lambda hub: hub.poll(1),
        "wait": lambda hub: hub.wait(0),
    }
    for at in itertools.count():
        hub = dss.open_polled_hub[str](4, overflow=overflow)
        back: list[str] = []
        source = hub.register("source", on_undelivered=back.append)

        def receive(hub: dss.PolledHub[str] = hub) -> None:
            with contextlib.suppress(ClosedResourceError, EndOfStream):
                calls[call](hub)

        closed = run_interrupted(receive, hub.close, at)
        if not closed:
            hub.close()
        assert source._lane.places.put(source._lane, "late")
        assert back == ["late"]
        assert hub.statistics().queued == 0
        if not closed:
            assert at > 20
            return


# -- a program in another language -----------------------------------------------------------------

LUA_PROGRAM = """
local socket = require("socket")
local udp = assert(socket.udp())
assert(udp:setsockname("127.0.0.1", 0))
local _, port = udp:getsockname()
io.write(port, "\\n"); io.flush()
local heard = 0
while true do
    local ready = socket.select({udp}, nil, 5)
    if not ready[udp] then error("nothing was heard") end
    local datagram = udp:receive()
    if datagram == "quit" then break end
    heard = heard + 1
    io.write("poll\\n"); io.flush()
end
io.write(heard, "\\n")
"""


@pytest.mark.skipif(shutil.which("lua5.1") is None, reason="needs lua5.1 and lua-socket")
def test_a_lua_program_in_its_own_select_is_notified() -> None:
    lua = subprocess.Popen(
        ["lua5.1", "-e", LUA_PROGRAM],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=1,
    )
    with lua, udp_socket() as ours:
        assert lua.stdout is not None
        assert lua.stderr is not None
        line = lua.stdout.readline()
        assert line.strip().isdigit(), lua.stderr.read()
        port = int(line)
        with dss.open_polled_hub[int](64, wake_address=("127.0.0.1", port)) as hub:
            received: list[int] = []
            polls = 0
            with threads(lambda: hub.portal.send_many(range(1000), timeout=8)):
                while len(received) < 1000:
                    assert lua.stdout.readline() == "poll\n", "it was not notified"
                    received += hub.poll(100)
                    polls += 1
            assert received == list(range(1000))
            if hub.statistics().wakes > polls:  # one may have come for what was polled already
                assert lua.stdout.readline() == "poll\n"
            assert hub.poll() == []
            for item in range(50):
                assert hub.portal.offer(item)
            assert lua.stdout.readline() == "poll\n"
            assert hub.poll() == list(range(50))
            ours.sendto(b"quit", ("127.0.0.1", port))
            assert lua.stdout.readline() == f"{hub.statistics().wakes}\n"
            assert lua.wait(10) == 0, lua.stderr.read()
            assert hub.statistics().wake_failures == 0


# -- together with an event loop -------------------------------------------------------------------


@pytest.mark.anyio
async def test_an_event_loop_may_wait_for_the_descriptor_too() -> None:
    with dss.open_polled_hub[int]() as hub:
        with threads(lambda: hub.portal.send(1)):
            with anyio.fail_after(10):
                await anyio.wait_readable(hub.fileno())
        assert hub.poll() == [1]
        with pytest.raises(RuntimeError, match="asend"):
            for item in range(2000):
                hub.portal.send(item)


def test_the_datagram_of_a_wake_that_is_late_is_no_reason_to_select_for_nothing_twice() -> None:
    """A wake that was being called during a poll: at most one poll finds nothing."""
    for at in itertools.count():
        with dss.open_polled_hub[int]() as hub:
            hub.fileno()
            polled: list[int] = []
            closed = run_interrupted(
                lambda hub=hub: hub.portal.send(1),  # type: ignore[misc]
                lambda hub=hub, polled=polled: polled.extend(hub.poll()),  # type: ignore[misc]
                at,
            )
            for _ in range(2):
                if readable(hub):
                    polled += hub.poll()
            assert polled == [1]
            assert not readable(hub)
        if not closed:
            assert at > 20
            return


# -- an exception that comes at the wrong time -----------------------------------------------------


def test_a_poll_that_raises_leaves_what_is_queued_readable() -> None:
    """The datagram was read by then, so there has to be another one."""

    def leave(exc: BaseException, _: str | None) -> None:
        raise SystemExit from exc

    with dss.open_polled_hub[int](on_error=leave) as hub:
        descriptor = hub.fileno()
        hub.portal.send_callback(lambda: 1 // 0)()
        hub.portal.send(1)
        assert readable(descriptor)
        with pytest.raises(SystemExit):
            hub.poll()
        assert readable(descriptor)
        assert hub.poll() == [1]
        assert not readable(descriptor)

        def interrupt(_: int) -> int:
            raise KeyboardInterrupt

        hub.register("source", decode=interrupt).send(2)
        hub.portal.send(3)
        with pytest.raises(KeyboardInterrupt):
            hub.poll(1)
        assert readable(descriptor)
        assert hub.poll() == [3]


class Struck(BaseException):
    pass


@pytest.mark.parametrize("how", ["send", "send_nowait", "offer", "send_many", "send_callback"])
@pytest.mark.parametrize("own", [True, False], ids=["hub.portal", "a source"])
def test_wherever_a_signal_handler_raises_in_a_sender_the_hub_is_not_deaf(
    how: str, own: bool
) -> None:
    """Guards ``ring_anyway``: the function may be out of the bell, and not called yet."""

    def strike() -> None:
        raise Struck

    for at in itertools.count():
        with dss.open_polled_hub[int](math.inf, on_error=lambda *_: None) as hub:
            portal = hub.portal if own else hub.register("source")
            descriptor = hub.fileno()
            hub.poll()
            # (What strikes a callback is reported, in the hub's thread.)
            send = portal.send_callback() if how == "send_callback" else getattr(portal, how)
            item: Any = [1] if how == "send_many" else 1
            try:
                struck = run_interrupted(lambda: send(item), strike, at)  # noqa: B023
            except Struck:
                struck = True
            else:
                assert not struck or how == "send_callback"
            if len(hub):
                assert readable(descriptor)  # it was not even lost
            portal.send(2)
            assert readable(descriptor)
            assert 2 in hub.poll()
        if not struck:
            break
    assert at > 10


def test_who_begins_to_wait_while_somebody_looks_has_not_waited_for_less_than_nothing() -> None:
    """Guards the order in ``blocked``: first who is there, then what time it is."""
    for at in itertools.count():
        seconds: list[float] = []
        with dss.open_polled_hub[str]() as hub:
            interrupted = run_interrupted(
                lambda: seconds.extend(each.seconds for each in hub.blocked()),  # noqa: B023
                lambda: hub.portal.request_soon("question"),  # noqa: B023
                at,
            )
        assert all(each >= 0 for each in seconds)
        if not interrupted:
            break
    assert at > 10
