"""Let another process of the same user look at the hubs of this one: ``serve_statistics()``.

Rule 1: a client costs only the time of one thread. At most ``MOST_CLIENTS`` are connected. For each
we keep two numbers about the data that it has sent, and at most one document that waits to be
written to it. A client that has left, or sends a line without end, gets no document.
Rule 2: nothing here waits for one client. There is one thread, and it waits for all of them at
once.
Rule 3: no hub calls anything here, and nothing here calls code of the user.
Rule 4: the thread imports nothing: a child that is forked during an import could never import that
module.

A client sends a line, with any content, and gets a line: a JSON document of all open hubs.
"""

from __future__ import annotations

import atexit
import os
import selectors
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from .._loops.slices import join
from .homes import serve_at, serve_somewhere
from .place import check_platform, is_ours

MOST_CLIENTS = 16  # if one more comes, the client that was silent longest is dropped
LONGEST_LINE = 1 << 16  # bytes; a client that sends a longer line is dropped
_CHUNK = 64  # bytes that are read at once, and so the most documents that are owed at once
_NO_SIGNAL = getattr(socket, "MSG_NOSIGNAL", 0)  # SIGPIPE ends a program that has not ignored it


class serve_statistics(AbstractContextManager["serve_statistics"]):  # noqa: N801  # as start_hub
    """Let ``python -m dss_anyio top`` watch the hubs of this process, from now on.

    Call it once, anywhere, from any thread: ``dss.serve_statistics()``. It lasts as long as the
    process; :meth:`close`, or the end of a ``with`` block, ends it sooner. A daemon thread answers
    at a Unix socket, and costs nothing while no client asks. It reads ``statistics()`` and
    ``blocked()`` of each hub; no hub waits for it, and none of your code runs in it.

    The directory of the socket must belong to this user and be closed to all other users. No other
    user may be able to replace it: this is checked, for each directory above it. On Linux the
    socket has mode 0600 as well, and the user of each client is checked: only this user and root
    are served. A forked child does not serve.

    :param path: the path of the socket. Without it: ``<pid>.sock`` in
        ``$XDG_RUNTIME_DIR/dss_anyio``. If that cannot be used: in ``dss_anyio-<uid>`` in
        ``tempfile.gettempdir()``. If another user has taken that name: in a directory there whose
        name no other user can guess. ``top`` finds each of them. Sockets of dead processes there
        are removed
    :raises RuntimeError: on Windows, where Python has no Unix sockets
    :raises PermissionError: if the directory of *path*, or one above it, is another user's or open
        to others, or if the umask would keep this user from connecting
    :raises FileExistsError: if a program serves there already, or it is no socket
    :raises OSError: if the path is too long for a socket, or no socket can be made there; without
        *path*, if no directory can be used. The message says why
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        check_platform()
        from .telling import document

        self._document = document
        with ExitStack() as opened:
            # One end of this pair is shut down to end the thread, which sees that at the other.
            self._until, self._end = map(opened.enter_context, socket.socketpair())
            self._selector = opened.enter_context(selectors.DefaultSelector())
            name = f"{os.getpid()}.sock"
            served = serve_somewhere(name) if path is None else serve_at(Path(path).absolute())
            self._path = served.path
            self._directory = opened.enter_context(served.directory)
            self._listener = opened.enter_context(served.listener)
            self._sockets = opened.pop_all()
        self._open = [served.file]  # the call that takes this out ends it
        self._clients: dict[socket.socket, _Client] = {}  # the one that was silent longest first
        # Not by ``start_daemon``: if no thread can be made, that would serve in this thread.
        self._thread = threading.Thread(
            target=self._serve, name="dss_anyio: serving statistics", daemon=True
        )
        _serving[id(self)] = self
        atexit.register(self.close)
        try:
            self._thread.start()
        except BaseException:
            self.close()
            self._close_sockets()
            raise

    @property
    def path(self) -> Path:
        """The path of the socket. You can pass it to ``python -m dss_anyio top``."""
        return self._path

    def close(self) -> None:
        """Stop serving, and remove the socket. From any thread; a second call does nothing.

        Waits for the serving thread, which does not wait for clients, at most a second. Does
        nothing in a forked child.
        """
        try:
            file = self._open.pop()
        except IndexError:
            return
        atexit.unregister(self.close)
        _serving.pop(id(self), None)
        self._directory.remove(self._path.name, file)
        self._end.shutdown(socket.SHUT_RDWR)  # closing is not enough if a forked child has it, too
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            join(self._thread, 1.0)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()

    # -- in its thread -----------------------------------------------------------------------------

    def _serve(self) -> None:
        for each in (self._until, self._listener):
            self._selector.register(each, selectors.EVENT_READ)
        ready: list[Any] = []
        while self._until not in ready:
            if self._listener in ready:
                self._admit()
            for connection in ready:
                if connection in self._clients:  # else it was dropped for another client
                    self._go_on(connection)
            ready = [key.fileobj for key, _ in self._selector.select()]
        self._close_sockets()

    def _admit(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return  # the client has left again
        except OSError:  # no file descriptor is free, and the listener stays readable
            self._drop_first()
            time.sleep(0.1)
            return
        connection.setblocking(False)
        if not is_ours(connection):
            connection.close()
            return
        if len(self._clients) == MOST_CLIENTS:
            self._drop_first()
        self._clients[connection] = _Client(connection, self._document)
        self._selector.register(connection, selectors.EVENT_READ)

    def _go_on(self, connection: socket.socket) -> None:
        client = self._clients.pop(connection)
        self._clients[connection] = client  # now it is the last client to be dropped
        try:
            client.go_on()
        except BlockingIOError:
            pass
        except Exception:  # it has left; or this process is out of memory
            self._drop(connection)
            return
        # While documents are owed, no further lines are read.
        wanted = selectors.EVENT_WRITE if client.owed else selectors.EVENT_READ
        self._selector.modify(connection, wanted)

    def _drop_first(self) -> None:
        for connection in list(self._clients)[:1]:
            self._drop(connection)

    def _drop(self, connection: socket.socket) -> None:
        del self._clients[connection]
        self._selector.unregister(connection)
        connection.close()

    def _close_sockets(self) -> None:
        for connection in list(self._clients):
            connection.close()
        self._sockets.close()

    def _forget(self) -> None:
        """In a forked child: the socket at the path is the parent's, and so are its clients."""
        self._open.clear()
        self._close_sockets()


class _Client:
    def __init__(self, connection: socket.socket, document: Callable[[], bytes]) -> None:
        self._connection = connection
        self._document = document
        self._line = 0  # bytes of a line whose end has not come
        self._rest = b""  # of the document that is being sent
        self.owed = 0  # documents to send, including the one that is being sent

    def go_on(self) -> None:
        """Read lines, or send part of a document. Raises if it has left, or is not ready."""
        if not self.owed:
            received = self._connection.recv(_CHUNK)
            if not received:
                raise EOFError
            self.owed = received.count(b"\n")
            self._line = len(received) - 1 - received.rfind(b"\n") + self._line * (not self.owed)
            if self._line > LONGEST_LINE:
                raise EOFError
        if self.owed:
            if not self._rest:
                # If the client has left, this raises. So clients that ask and leave cost no
                # documents, and do not delay the next client. (Reading until the end would not
                # tell: a client that has only closed its half still waits for the answer.)
                self._connection.send(b"", _NO_SIGNAL)
                self._rest = self._document()
            self._rest = self._rest[self._connection.send(self._rest, _NO_SIGNAL) :]
            if not self._rest:
                self.owed -= 1


_serving: dict[int, serve_statistics] = {}  # keeps the servers alive


def _after_fork_in_child() -> None:
    for server in list(_serving.values()):
        server._forget()  # pyright: ignore[reportPrivateUsage]  # of one room
    _serving.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_fork_in_child)
