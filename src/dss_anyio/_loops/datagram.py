"""How to wake a ``select()`` loop: a UDP datagram on loopback. Knows nothing of mailboxes.

A datagram says "not empty, drain", never how much. So it may be lost with a full buffer, be merged
with another, or come for nothing, and no harm is done. Why UDP and not a pipe: DarkSideSync has
used UDP since 2012. A UDP socket is a socket on every platform (``select()`` on Windows takes
nothing else). And it can wake another program, written in any language.

The two sockets of our own pair are connected to each other. The kernel discards the datagrams of
other programs, so these do not even wake us.
"""

from __future__ import annotations

import ipaddress
import math
import select
import socket
from collections import deque
from typing import TypeAlias, cast

Address: TypeAlias = tuple[str, int]
SocketAddress: TypeAlias = "Address | tuple[str, int, int, int]"  # the second one is of IPv6

_WANTED = "a wake address must be a tuple (host, port), or what getsockname() returns, or None"
_DATAGRAM = b"!"

# The user's program may close one of our descriptors by its number. The next file that is opened
# then gets that number. This is a mistake of the program, but such a file must not block us: our
# sockets do not block, and with this flag no other socket does either. (Windows has no such flag,
# and does not use numbers again at once.)
DONT_WAIT: int = getattr(socket, "MSG_DONTWAIT", 0)
_MOST = 10_000  # datagrams in one drain; a buffer of the usual size has room for some hundred


def check_address(address: object) -> Address:
    """Return *address* as ``(ip, port)``, or raise if it is not one on loopback.

    It may be the result of ``getsockname()``. For IPv6 this has a flow and a scope as well, which
    mean nothing on loopback.
    """
    if not isinstance(address, tuple):
        remedy = "; give what its getsockname() returns" if hasattr(address, "getsockname") else ""
        raise TypeError(f"{_WANTED}, not {address!r}{remedy}")
    host, *numbers = cast("tuple[object, ...]", address) or (None,)
    if (
        not isinstance(host, str)
        or len(numbers) not in (1, 3)
        or any(type(number) is not int for number in numbers)
    ):
        raise TypeError(f"{_WANTED}, not {address!r}")
    if len(numbers) == 3 and ":" not in host:
        raise TypeError(f"{_WANTED}, not {address!r}; only an address of IPv6 has four parts")
    host = _on_loopback("127.0.0.1" if host == "localhost" else host)
    port = cast("int", numbers[0])
    if not 1 <= port <= 65535:
        unbound = "; that socket is not bound" if port == 0 else ""
        raise ValueError(f"a port must be from 1 to 65535, not {port}{unbound}")
    return host, port


def _on_loopback(host: str) -> str:
    why = ": the woken program runs on this machine"
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        pass
    else:
        # A socket of IPv6 that takes IPv4 as well may have such an address.
        ip = getattr(ip, "ipv4_mapped", None) or ip
        if ip.is_loopback:
            return host if ":" not in host or ip.version == 6 else str(ip)
        if ip.is_unspecified:
            here = "'127.0.0.1'" if ip.version == 4 else "'::1'"
            why = f", which is every address of this machine: bind that socket to {here}"
    raise ValueError(
        f"a wake address must be on loopback ('127.0.0.1', '::1' or 'localhost'), not {host!r}{why}"
    )


class Notifier:
    """Sends datagrams to one address. ``ring``: any thread; the rest: the receiving thread."""

    def __init__(self, address: Address, listener: socket.socket | None = None) -> None:
        self.address = address
        self._listener = listener
        # A thread that rings enters ``_wanted`` and then tries to take the socket. If another
        # thread has it, the ringing thread goes on, because that other thread looks into
        # ``_wanted`` again afterwards. ``close`` works in the same way: only the thread that has
        # the socket closes it, because the number of a closed socket may be used again at once. (A
        # wait for the socket would never end in a signal handler that has interrupted the thread
        # that has it, nor in a child that was forked meanwhile.)
        self._wanted: deque[None] = deque()
        self._in_use: dict[None, object] = {}
        self._closed = False
        self._socket: socket.socket | None = self._connect()

    def _connect(self) -> socket.socket:
        family = socket.AF_INET6 if ":" in self.address[0] else socket.AF_INET
        sender = socket.socket(family, socket.SOCK_DGRAM)
        try:
            sender.setblocking(False)
            if self._listener is not None:
                sender.bind((self.address[0], 0))
                self._listener.connect(sender.getsockname())
            sender.connect(self.address)
        except BaseException:
            sender.close()
            raise
        return sender

    def ring(self) -> bool:
        """Send one datagram, at the second attempt from a fresh socket. False if both failed."""
        self._wanted.append(None)
        me = object()
        try:
            return self._ring_while_wanted(me)
        finally:
            # A signal handler may raise at any bytecode. If this were a lock, we could not tell
            # whether this thread has taken it.
            if self._in_use.get(None) is me:
                self._in_use.pop(None)

    def _ring_while_wanted(self, me: object) -> bool:
        """A function of its own, or CPython 3.12 and 3.13 leave a jump of this loop out of the
        ``try`` (python/cpython#130279). At that jump, after ``setdefault``, CPython looks for
        signals.
        """
        done = True
        while self._wanted and self._in_use.setdefault(None, me) is me:
            self._wanted.clear()
            if self._closed:
                self._discard()
            else:
                done = self._try_twice()
            self._in_use.pop(None)
        return done

    def _try_twice(self) -> bool:
        if self._socket is not None and self._send(self._socket):
            return True
        self._discard()
        try:
            self._socket = self._connect()
        except OSError:
            return False
        return self._send(self._socket)

    def _discard(self) -> None:
        if self._socket is not None:
            try:
                self._socket.close()
            except OSError:
                pass  # its descriptor was closed by its number; that is why we are here
            self._socket = None

    @staticmethod
    def _send(sender: socket.socket) -> bool:
        try:
            sender.send(_DATAGRAM, DONT_WAIT)
        except BlockingIOError:
            return True  # the buffer is full of datagrams that wake just as well
        except OSError:
            return False
        return True

    def fileno(self) -> int:
        """The descriptor of the socket, to be copied by a bell in C. -1: there is no socket."""
        return -1 if self._socket is None else self._socket.fileno()

    def close(self) -> None:
        self._closed = True
        self.ring()


class Doorbell:
    """A socket that is readable once :meth:`ring` was called, until :meth:`drain`."""

    def __init__(self) -> None:
        self._listener = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            self._listener.setblocking(False)
            self._listener.bind(("127.0.0.1", 0))
            self._notifier = Notifier(self._listener.getsockname(), self._listener)
        except BaseException:
            self._listener.close()
            raise
        self._take_all()  # also datagrams of other programs from before both ends were connected

    def fileno(self) -> int:
        return self._listener.fileno()

    def ring(self) -> bool:
        return self._notifier.ring()

    def rung_from(self) -> int:
        """The descriptor that rings it, to be copied by a bell in C."""
        return self._notifier.fileno()

    def wait(self, timeout: float | None) -> bool:
        """Block until it is readable, at most *timeout* seconds. Return whether it is."""
        poll = select.poll()  # not select(), which knows no large numbers
        poll.register(self._listener, select.POLLIN)
        return bool(poll.poll(None if timeout is None else math.ceil(timeout * 1000)))

    def drain(self) -> None:
        """Take all datagrams that are there.

        This ends also if the descriptor belongs to another file by now. Such a file may have no end
        (a stream that was closed at the other side gives ``b""`` for ever), or fail for ever. Its
        data belong to another part of the program, so we take no more of them.
        """
        self._take_all(_DATAGRAM)

    def _take_all(self, expected: bytes | None = None) -> None:
        """Take datagrams until there are none, or until one is not the *expected* one."""
        for _ in range(_MOST):
            try:
                taken = self._listener.recv(16, DONT_WAIT)
                if expected is not None and taken != expected:
                    return
            except ConnectionError:
                continue  # "refused": the kernel's answer to an earlier datagram, not a datagram
            except OSError:
                return  # nothing there

    def close(self) -> None:
        self._notifier.close()
        try:
            self._listener.close()
        except OSError:
            pass  # its descriptor was closed by its number; the hub must end all the same
