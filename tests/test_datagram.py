"""The datagram that wakes a ``select()`` loop: real sockets, and strangers that send to them."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import select
import socket
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import count
from types import FrameType
from typing import Any

import pytest
from bytecodes import run_interrupted

import dss_anyio as dss
from dss_anyio import _native
from dss_anyio._loops.datagram import Doorbell, Notifier, check_address
from dss_anyio.testing import threads

needs_ipv6 = pytest.mark.skipif(
    not os.path.exists("/proc/net/if_inet6"), reason="this machine has no IPv6"
)


@contextmanager
def udp_socket(host: str = "127.0.0.1", port: int = 0) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.bind((host, port))
        yield sock


def address_of(sock: socket.socket) -> tuple[str, int]:
    host, port, *_ = sock.getsockname()
    return host, port


def drained(sock: socket.socket) -> int:
    """How many datagrams were there."""
    for received in count():
        try:
            sock.recv(64)
        except BlockingIOError:
            return received
    raise AssertionError


def readable(file: Any, timeout: float = 0) -> bool:
    return bool(select.select([file], [], [], timeout)[0])


@contextmanager
def no_more_descriptors() -> Iterator[None]:
    """Within the block, the operating system refuses to open anything."""
    resource = pytest.importorskip("resource", reason="needs a limit for open files")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# -- the address -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "checked"),
    [
        (("127.0.0.1", 1), ("127.0.0.1", 1)),
        (("127.0.0.1", 65535), ("127.0.0.1", 65535)),
        (("127.8.9.10", 4321), ("127.8.9.10", 4321)),
        (("::1", 4321), ("::1", 4321)),
        (("localhost", 4321), ("127.0.0.1", 4321)),
        (("::1", 4321, 0, 0), ("::1", 4321)),
        (("::1", 4321, 7, 1), ("::1", 4321)),
        (("0:0:0:0:0:0:0:1", 4321, 0, 0), ("0:0:0:0:0:0:0:1", 4321)),
        (("::ffff:127.0.0.1", 4321, 0, 0), ("127.0.0.1", 4321)),
    ],
)
def test_an_address_on_loopback_is_accepted(address: object, checked: tuple[str, int]) -> None:
    assert check_address(address) == checked


@pytest.mark.parametrize(
    "host",
    [
        "",
        "0.0.0.0",
        "10.0.0.1",
        "192.168.1.1",
        "8.8.8.8",
        "255.255.255.255",
        "224.0.0.1",
        "::",
        "fe80::1",
        "2001:db8::1",
        "127.0.0.1.example.com",
        "127.0.0.256",
        "localhost.localdomain",
        "example.com",
        "127.0.0.1\n",
        "::ffff:10.0.0.1",
        "::ffff:0.0.0.0",
    ],
)
def test_an_address_that_is_not_on_loopback_is_refused(host: str) -> None:
    """Names are not looked up either: that would block, and what they mean may change."""
    with pytest.raises(ValueError, match="must be on loopback"):
        check_address((host, 4321))


@pytest.mark.parametrize(("host", "here"), [("0.0.0.0", "127.0.0.1"), ("::", "::1")])
def test_a_socket_that_is_bound_to_every_address_is_refused_with_a_remedy(
    host: str, here: str
) -> None:
    address = (host, 4321) if host == "0.0.0.0" else (host, 4321, 0, 0)
    with pytest.raises(ValueError, match=f"every address of this machine: bind .* to '{here}'"):
        check_address(address)


def test_a_socket_that_is_not_bound_has_no_address_and_the_error_says_so() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as unbound:
        with pytest.raises(ValueError, match="bind that socket to '127.0.0.1'"):
            check_address(unbound.getsockname())
    with pytest.raises(ValueError, match="not 0; that socket is not bound"):
        check_address(("127.0.0.1", 0))


def test_a_socket_in_place_of_its_address_is_refused_with_a_remedy() -> None:
    with udp_socket() as sock, pytest.raises(TypeError, match=r"give what its getsockname\(\)"):
        check_address(sock)


def test_four_parts_are_an_address_of_ipv6_only() -> None:
    with pytest.raises(TypeError, match="only an address of IPv6 has four parts"):
        check_address(("127.0.0.1", 4321, 0, 0))


@pytest.mark.parametrize("port", [0, -1, 65536, 1 << 40])
def test_a_port_that_cannot_be_is_refused(port: int) -> None:
    with pytest.raises(ValueError, match="a port must be from 1 to 65535"):
        check_address(("127.0.0.1", port))


@pytest.mark.parametrize(
    "address",
    [
        None,
        "127.0.0.1:4321",
        4321,
        (),
        ("127.0.0.1",),
        ("127.0.0.1", 4321, 0, 0),
        ["127.0.0.1", 4321],
        (b"127.0.0.1", 4321),
        (4321, "127.0.0.1"),
        ("127.0.0.1", "4321"),
        ("127.0.0.1", 4321.0),
        ("127.0.0.1", True),
        (None, 4321),
        ("127.0.0.1", None),
        ("::1", 4321, 0),
        ("::1", 4321, 0, 0, 0),
        ("::1", 4321, 0, None),
        ("::1", 4321, "0", 0),
        ("::1", 4321, True, 0),
        ("::1", True, 0, 0),
        (b"::1", 4321, 0, 0),
    ],
)
def test_what_is_no_address_is_refused_by_its_type(address: object) -> None:
    with pytest.raises(TypeError, match="a wake address must be a tuple"):
        check_address(address)


# -- the notifier ----------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", pytest.param("::1", marks=needs_ipv6)])
def test_each_ring_is_one_datagram(host: str) -> None:
    with udp_socket(host) as listener:
        notifier = Notifier(address_of(listener))
        for _ in range(3):
            assert notifier.ring()
            assert drained(listener) == 1
        notifier.close()


def test_a_ring_that_nobody_hears_does_not_spoil_the_next() -> None:
    """The kernel answers "refused" and tells the next ``send``, which takes a second attempt."""
    with udp_socket() as listener:
        address = address_of(listener)
        notifier = Notifier(address)
    for _ in range(3):
        assert notifier.ring()
    with udp_socket(*address) as listener:
        assert notifier.ring()
        assert drained(listener) == 1
    notifier.close()


def test_a_ring_whose_socket_is_broken_is_sent_from_a_fresh_one() -> None:
    with udp_socket() as listener:
        notifier = Notifier(address_of(listener))
        broken = notifier._socket
        assert broken is not None
        broken.shutdown(socket.SHUT_RDWR)
        assert notifier.ring()
        assert drained(listener) == 1
        assert notifier._socket is not broken
        assert broken.fileno() == -1, "the broken one was left open"
        assert notifier.ring()
        assert drained(listener) == 1
        notifier.close()


@pytest.mark.parametrize("lower", [False, True], ids=["same number", "another number"])
def test_a_ring_whose_descriptor_was_closed_by_somebody_else_is_sent_from_a_fresh_one(
    lower: bool,
) -> None:
    """The fresh socket may get the number of the old one, and must not be closed in its place."""
    with udp_socket() as listener:
        below = os.dup(0)
        notifier = Notifier(address_of(listener))
        assert notifier._socket is not None
        os.close(notifier._socket.fileno())
        if lower:
            os.close(below)
        rung = notifier.ring()
        heard = drained(listener)
        again = notifier.ring()
        heard_again = drained(listener)
        if not lower:
            os.close(below)
        notifier.close()
        assert (rung, heard, again, heard_again) == (True, 1, True, 1)


def test_a_ring_fails_if_the_fresh_socket_fails_too_and_the_next_one_tries_again() -> None:
    with udp_socket() as listener:
        notifier = Notifier(address_of(listener))
        assert notifier._socket is not None
        notifier._socket.shutdown(socket.SHUT_RDWR)
        with no_more_descriptors():
            assert not notifier.ring()
            assert not notifier.ring()
        assert drained(listener) == 0
        assert notifier.ring()
        assert drained(listener) == 1
        notifier.close()


@pytest.mark.skipif(sys.platform == "win32", reason="has no such pair")
def test_a_ring_into_a_full_buffer_is_no_failure_and_takes_no_fresh_socket() -> None:
    """Guards ``except BlockingIOError`` in ``Notifier._send``.

    Linux never says that to UDP on loopback, but throws away what is too much. A pair without
    addresses is told.
    """
    with udp_socket() as listener:
        notifier = Notifier(address_of(listener))
        notifier._discard()
        full, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        notifier._socket = full
        full.setblocking(False)
        full.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the system makes it more
        with other:
            with pytest.raises(BlockingIOError):
                while True:
                    full.send(b"!")
            assert notifier.ring()
            assert notifier._socket is full
            assert drained(listener) == 0
            notifier.close()


def test_a_ring_after_the_close_sends_nothing() -> None:
    with udp_socket() as listener:
        notifier = Notifier(address_of(listener))
        notifier.close()
        notifier.close()
        assert notifier.ring(), "that nobody listens any more is no failure"
        assert drained(listener) == 0


def test_a_notifier_that_could_not_be_made_leaves_no_socket_behind() -> None:
    with udp_socket() as listener:
        number = os.dup(listener.fileno())
        os.close(number)  # the lowest free one: what is opened next gets it
        with pytest.raises(OSError, match=r"\[Errno"):
            Notifier(
                ("240.0.0.1", 9), listener
            )  # it is bound to that address, and no machine has it
        gc.collect()  # a socket left open would complain here
        with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
            os.fstat(number)


@pytest.mark.parametrize("broken", [False, True])
def test_a_notifier_may_be_closed_at_any_bytecode_of_another_threads_ring(broken: bool) -> None:
    """Guards ``with self._in_use`` in ``close``: no socket is closed in use, or made after it.

    At each bytecode the closing thread gets 5 ms: to close, or to find that it has to wait.
    """
    with udp_socket() as listener:
        for at in count():
            notifier = Notifier(address_of(listener))
            if broken:
                assert notifier._socket is not None
                notifier._socket.shutdown(socket.SHUT_RDWR)
            closer = threading.Thread(target=notifier.close, daemon=True)

            def close(closer: threading.Thread = closer) -> None:
                closer.start()
                closer.join(0.005)

            rung: list[bool] = []
            interrupted = run_interrupted(lambda: rung.append(notifier.ring()), close, at)
            if not interrupted:
                closer.start()
            closer.join(10)
            assert rung == [True]
            assert notifier._socket is None
            assert drained(listener) <= 1
            if not interrupted:
                assert at > 20
                return


# -- the doorbell ----------------------------------------------------------------------------------


@pytest.fixture
def doorbell() -> Iterator[Doorbell]:
    bell = Doorbell()
    yield bell
    bell.close()


def test_a_doorbell_is_readable_from_a_ring_until_it_is_drained(doorbell: Doorbell) -> None:
    assert not readable(doorbell)
    for _ in range(3):
        assert doorbell.ring()
        assert readable(doorbell)
        assert readable(doorbell), "looking at it is not draining it"
        doorbell.drain()
        assert not readable(doorbell)


def test_one_drain_takes_all_rings(doorbell: Doorbell) -> None:
    for _ in range(10):
        assert doorbell.ring()
    doorbell.drain()
    assert not readable(doorbell)


def test_rings_that_fill_the_buffer_are_no_failure(doorbell: Doorbell) -> None:
    assert all(doorbell.ring() for _ in range(5000))
    assert readable(doorbell)
    doorbell.drain()
    assert not readable(doorbell)
    assert doorbell.ring()
    assert readable(doorbell)


def test_a_strangers_datagrams_do_not_make_it_readable(doorbell: Doorbell) -> None:
    sockets = [doorbell._listener, doorbell._notifier._socket]
    with udp_socket() as stranger:
        for ours in sockets:
            assert ours is not None
            for _ in range(500):
                stranger.sendto(b"!", address_of(ours))
        assert not readable(doorbell, 0.01)
    for ours in sockets:
        with pytest.raises(BlockingIOError):
            ours.recv(16)  # type: ignore[union-attr]
    assert doorbell.ring()
    assert readable(doorbell)


def test_a_strangers_datagram_that_comes_while_the_doorbell_is_made_does_not_make_it_readable() -> (
    None
):
    """Guards the last line of ``Doorbell.__init__``, for any moment before it."""
    with udp_socket() as stranger:
        sent = 0
        drains = 0

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            nonlocal sent, drains
            if frame.f_globals.get("__name__") != "dss_anyio._loops.datagram":
                return None
            if event == "call" and frame.f_code.co_name == "_take_all":
                drains += 1
            if drains:
                return None
            listener = getattr(frame.f_locals.get("self"), "_listener", None)
            if listener is not None and address_of(listener)[1]:
                stranger.sendto(b"?", address_of(listener))
                sent += 1
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            doorbell = Doorbell()
        finally:
            sys.settrace(before)
        assert sent > 5
        assert drains == 1
        assert not readable(doorbell, 0.01)
        doorbell.close()


def test_a_doorbell_whose_sender_is_broken_rings_from_a_fresh_one(doorbell: Doorbell) -> None:
    broken = doorbell._notifier._socket
    assert broken is not None
    broken.shutdown(socket.SHUT_RDWR)
    assert doorbell.ring()
    assert readable(doorbell)
    doorbell.drain()
    assert not readable(doorbell)
    with udp_socket() as stranger:  # both ends are connected again
        stranger.sendto(b"!", address_of(doorbell._listener))
        assert not readable(doorbell, 0.01)


def test_a_drain_goes_on_after_the_kernel_has_said_that_an_earlier_one_was_refused(
    doorbell: Doorbell,
) -> None:
    """Guards ``except ConnectionError`` in ``Doorbell.drain``."""
    assert doorbell.ring()
    assert readable(doorbell)
    doorbell._notifier._discard()
    doorbell._listener.send(b"!")  # to where nobody is any more, which the next call is told
    doorbell.drain()
    assert not readable(doorbell), "the ring is still there"
    assert doorbell.ring()
    assert readable(doorbell)


def reset_stream() -> socket.socket:
    """Reading from it fails, and then it is at its end."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        one = socket.create_connection(server.getsockname())
        other, _ = server.accept()
    other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    other.close()
    return one


def closed_stream() -> socket.socket:
    """It gives ``b""`` for ever."""
    one, other = socket.socketpair()
    other.close()
    return one


def full_stream(data: bytes) -> socket.socket:
    one, other = socket.socketpair()
    other.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            other.send(data * 1024)
    kept.append(other)
    return one


def silent_stream() -> socket.socket:
    """It blocks; and it cannot be written to without waiting, either."""
    one, other = socket.socketpair()
    one.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            one.send(b"?" * 1024)
    one.setblocking(True)
    kept.append(other)
    return one


def pipe() -> Any:
    reading, writing = os.pipe()
    kept.append(open(writing, "wb"))  # noqa: SIM115  # closed at the end of the test
    return open(reading, "rb")


kept: list[Any] = []  # the other ends

OTHERS: dict[str, Callable[[], Any]] = {
    "a stream that was closed": closed_stream,
    "a stream that was reset": reset_stream,
    "a stream full of something": lambda: full_stream(b"?"),
    "a stream full of datagrams": lambda: full_stream(b"!"),
    "a stream on which nothing comes": silent_stream,
    "a pipe": pipe,
    "a file": lambda: open(__file__, "rb"),  # noqa: SIM115
    "a socket that listens": lambda: socket.create_server(("127.0.0.1", 0)),
}


@pytest.mark.parametrize("which", ["_listener", "_notifier"])
@pytest.mark.parametrize("other", [*OTHERS, "nothing"])
def test_polling_and_sending_go_on_if_a_descriptor_is_another_files_by_now(
    other: str, which: str
) -> None:
    """Somebody has closed it by its number. Guards the three ends of ``Doorbell._take_all``."""
    polled: list[int] = []
    hub = dss.open_polled_hub[int]()
    hub.fileno()
    doorbell = hub._alarm.doorbell
    assert doorbell is not None
    ours = doorbell._listener if which == "_listener" else doorbell._notifier._socket
    assert ours is not None
    theirs = OTHERS[other]() if other in OTHERS else None
    if theirs is None:
        os.close(ours.fileno())
    else:
        os.dup2(theirs.fileno(), ours.fileno())  # closes ours, and that is its number from now on

    def poll() -> None:
        for number in range(3):
            hub.portal.send(number)
            polled.extend(hub.poll())

    with threads(poll, timeout=10):
        pass
    assert polled == [0, 1, 2]
    hub.close()
    if theirs is not None:
        theirs.close()
    while kept:
        kept.pop().close()


def test_a_drain_ends_although_each_call_fails_and_nothing_can_be_told_from_a_refusal() -> None:
    class Failing(socket.socket):
        def recv(self, *_: Any) -> bytes:
            raise ConnectionRefusedError

    bell = Doorbell()
    real = bell._listener
    bell._listener = Failing(real.family, real.type, real.proto, real.detach())
    bell.drain()
    bell.close()


def test_a_doorbell_that_cannot_be_made_leaves_no_socket_behind() -> None:
    with no_more_descriptors(), pytest.raises(OSError, match="[Tt]oo many"):
        Doorbell()
    gc.collect()


def test_a_doorbell_that_was_closed_has_no_descriptor_and_rings_for_nobody() -> None:
    doorbell = Doorbell()
    doorbell.close()
    doorbell.close()
    assert doorbell.fileno() == -1
    assert doorbell.ring()
    doorbell.drain()


def test_closing_waits_for_nobody_who_rings() -> None:
    """A signal handler may close it that has interrupted the ring; so may a child forked then."""
    for at in count():
        notifier = Notifier(("127.0.0.1", 9))
        if not run_interrupted(notifier.ring, notifier.close, at):
            notifier.close()
            break
        assert notifier._socket is None  # closed by the one who had it
    assert at > 10


def test_what_was_forked_while_another_thread_rings_can_be_closed() -> None:
    notifier = Notifier(("127.0.0.1", 9))
    notifier._in_use[None] = "a thread that the child has not got"
    notifier.close()
    notifier._in_use.clear()
    notifier.close()
    assert notifier._socket is None


# -- Who listens later than something has happened -------------------------------------------------


def _take_one_back(hub: dss.PolledHub[Any]) -> None:
    portal = hub.register("aborted")
    portal.send("taken back")
    portal.abort()


def _report(hub: dss.PolledHub[Any]) -> None:
    hub.portal.send_callback(lambda: 1 / 0)()


@pytest.mark.parametrize("before", [_take_one_back, _report])
@pytest.mark.parametrize("how", ["fileno", "wake_address", "native"])
def test_who_begins_to_listen_hears_of_the_next_item_whatever_came_before(
    before: Callable[[dss.PolledHub[Any]], None], how: str
) -> None:
    """The bell has rung for nothing that could be polled, and was not armed again."""
    if how == "native" and _native.dss is None:
        pytest.skip("the extension module is not there")
    errors: list[Any] = []
    with dss.open_polled_hub[Any](on_error=lambda *error: errors.append(error)) as hub:
        before(hub)
        with udp_socket() as neighbour:
            if how == "fileno":
                readable: Any = hub
                hub.fileno()
            elif how == "wake_address":
                readable = neighbour
                hub.wake_address = address_of(neighbour)
            else:
                readable = None
                hub.portal.native_sender()
            if before is _report and readable is not None:
                assert select.select([readable], [], [], 10)[0], "of the error"
            with threads(lambda: hub.portal.send("item")):
                pass
            if readable is None:
                assert hub.wait(10)
            else:
                assert select.select([readable], [], [], 10)[0]
            assert hub.poll() == ["item"]
    assert len(errors) == (before is _report)
