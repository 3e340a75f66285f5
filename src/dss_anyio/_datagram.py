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
import socket
from collections import deque
from typing import TypeAlias, cast

Address: TypeAlias = tuple[str, int]

_DATAGRAM = b"!"


def check_address(address: object) -> Address:
    """Return *address* as ``(ip, port)``, or raise if it is not one on loopback."""
    pair = cast("tuple[object, ...]", address) if isinstance(address, tuple) else ()
    host, port = pair if len(pair) == 2 else (None, None)
    if not isinstance(host, str) or not isinstance(port, int) or isinstance(port, bool):
        raise TypeError(f"a wake address must be a tuple (host, port) or None, not {address!r}")
    if host == "localhost":
        host = "127.0.0.1"
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ValueError(
            f"a wake address must be on loopback ('127.0.0.1', '::1' or 'localhost'), not {host!r}"
            ": what is woken runs on this machine"
        )
    if not 1 <= port <= 65535:
        raise ValueError(f"a port must be from 1 to 65535, not {port}")
    return host, port


class Notifier:
    """Sends datagrams to one address. ``ring`` is for any thread, all else for the receiver's."""

    def __init__(self, address: Address, listener: socket.socket | None = None) -> None:
        self.address = address
        self._listener = listener
        # Whoever rings says so in ``_wanted`` and then tries to take the socket. Who finds it taken
        # goes on, because the one who has it looks into ``_wanted`` again after giving it back. So
        # does ``close``: the number of a closed socket may be that of another one the next moment,
        # so whoever has it closes it. (Waiting for it would be for ever in a signal handler that
        # has interrupted the one who has it, and in a child that was forked meanwhile.)
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
        done = True
        self._wanted.append(None)
        me = object()
        try:
            while self._wanted and self._in_use.setdefault(None, me) is me:
                self._wanted.clear()
                if self._closed:
                    self._discard()
                else:
                    done = self._try_twice()
                self._in_use.pop(None)
        finally:
            # A signal handler that raises may strike at any bytecode. A lock would be taken then,
            # and we would not know by whom.
            if self._in_use.get(None) is me:
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
            sender.send(_DATAGRAM)
        except BlockingIOError:
            return True  # the buffer is full of datagrams that wake just as well
        except OSError:
            return False
        return True

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
        self.drain()  # what a stranger may have sent before both ends were connected

    def fileno(self) -> int:
        return self._listener.fileno()

    def ring(self) -> bool:
        return self._notifier.ring()

    def drain(self) -> None:
        while True:
            try:
                self._listener.recv(16)
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
