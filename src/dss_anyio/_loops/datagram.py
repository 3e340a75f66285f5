"""How to wake a ``select()`` loop: a UDP datagram on loopback. Knows nothing of mailboxes.

A datagram says "not empty, drain", never how much. So it may be lost with a full buffer, be merged
with another, or come for nothing, and no harm is done. Why UDP and not a pipe: it is what
DarkSideSync has used since 2012, it is a socket on every platform (``select()`` on Windows takes
nothing else), and somebody else's program in any language can be the one that is woken.

Both sockets of our own pair are connected to each other: the kernel discards what a stranger sends
to either, so it does not even wake us.
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

# Somebody may close a descriptor of ours by its number, which is the next file's then. That is a
# mistake of theirs, but what waits in such a file must not hold up us: a socket of ours does not
# block, and with this flag no other one does either. (Windows has neither the flag nor the numbers
# that are used again at once.)
DONT_WAIT: int = getattr(socket, "MSG_DONTWAIT", 0)
_MOST = 10_000  # datagrams in one drain; a buffer of the usual size has room for some hundred


def check_address(address: object) -> Address:
    """Return *address* as ``(ip, port)``, or raise if it is not one on loopback.

    It may be what ``getsockname()`` returns: for IPv6 that has a flow and a scope, which say
    nothing on loopback.
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
    why = ": what is woken runs on this machine"
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
    """Sends datagrams to one address. ``ring`` is for any thread, all else for the receiver's."""

    def __init__(self, address: Address, listener: socket.socket | None = None) -> None:
        self.address = address
        self._listener = listener
        # A thread that rings says so in ``_wanted`` and then tries to take the socket. If it is
        # taken, the thread goes on, because its holder looks into ``_wanted`` again afterwards. So
        # does ``close``: the number of a closed socket may be that of another one the next moment,
        # so the thread that has it closes it. (Waiting for it would be for ever in a signal handler
        # that has interrupted that thread, and in a child that was forked meanwhile.)
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
            # A signal handler that raises may strike at any bytecode. A lock would be taken then,
            # and we would not know by whom.
            if self._in_use.get(None) is me:
                self._in_use.pop(None)

    def _ring_while_wanted(self, me: object) -> bool:
        """In a function of its own, or CPython 3.12 and 3.13 leave a jump of this loop out of the
        ``try`` (python/cpython#130279): a signal is looked for at that jump, after ``setdefault``.
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
                pass  # somebody has closed its descriptor; that is why we are here
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
        """The descriptor of the socket, for who rings in C with a copy of it. -1: there is none."""
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
        self._take_all()  # also what a stranger may have sent before both ends were connected

    def fileno(self) -> int:
        return self._listener.fileno()

    def ring(self) -> bool:
        return self._notifier.ring()

    def rung_from(self) -> int:
        """The descriptor that rings it, for who does so in C with a copy of it."""
        return self._notifier.fileno()

    def wait(self, timeout: float | None) -> bool:
        """Block until it is readable, at most *timeout* seconds. Is it?"""
        poll = select.poll()  # not select(), which knows no large numbers
        poll.register(self._listener, select.POLLIN)
        return bool(poll.poll(None if timeout is None else math.ceil(timeout * 1000)))

    def drain(self) -> None:
        """Take all that is there. It ends also if the descriptor belongs to another file by now.

        That file may have no end (a stream that was closed at the other side gives ``b""`` for
        ever), or fail for ever; and what it has is somebody else's, so we take no more of it.
        """
        self._take_all(_DATAGRAM)

    def _take_all(self, expected: bytes | None = None) -> None:
        """Until there is nothing, or what was not *expected*."""
        for _ in range(_MOST):
            try:
                taken = self._listener.recv(16, DONT_WAIT)
                if expected is not None and taken != expected:
                    return
            except ConnectionError:
                continue  # "refused": the kernel's answer to an earlier datagram, not one of ours
            except OSError:
                return  # nothing there

    def close(self) -> None:
        self._notifier.close()
        try:
            self._listener.close()
        except OSError:
            pass  # somebody has closed its descriptor; the end of the hub must not stop at that
