"""A directory for the socket at which a program is watched, closed to all other users.

Rule 1: the directory is the user's own and closed to all others. That alone keeps strangers away on
every platform. It also means that no other user can replace our socket.
Rule 2: no other user can replace the directory. Each directory above it belongs to the user or to
root. Others may not write there; or it is sticky, as /tmp is, and they may not rename our entries.
Rule 3: we use the very directory that we have checked. We hold it open, and work in it through its
descriptor: no path is looked up again, no link is followed, no mode is changed.
"""

from __future__ import annotations

import errno
import os
import re
import socket
import stat
import struct
import sys
import time
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import NoReturn, TypeAlias

if sys.platform != "win32":
    import fcntl

LONGEST_PATH = 107 if sys.platform == "linux" else 103  # bytes of a Unix socket's address
LOCK_PATIENCE = 1.0  # seconds for another program to unlock the directory: it needs microseconds
_PEER = struct.Struct("3i")  # pid, uid, gid
_OF_A_PROGRAM = re.compile(r"\d+\.sock")
_PASS = (
    getattr(os, "O_PATH", os.O_RDONLY)  # a directory may be passed through that cannot be read
    | getattr(os, "O_DIRECTORY", 0)
    | getattr(os, "O_NOFOLLOW", 0)
)
REMEDY = "give serve_statistics() a path in a directory of your own, with mode 0700"


def check_platform() -> None:
    if sys.platform == "win32" or not hasattr(socket, "AF_UNIX"):
        raise RuntimeError("watching needs Unix sockets, which Python has not on this platform")


File: TypeAlias = tuple[int, int]  # device and inode


class Directory(AbstractContextManager["Directory"]):
    """A directory that belongs to this user alone, held open.

    :raises PermissionError: if it, or a directory above it, is another user's or open to others
    :raises OSError: if there is no directory, or it cannot be reached
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        way = _walk(path)
        try:
            _check_own(os.fstat(way), path)
            # Unlike *way*, this descriptor can be locked and listed; "." is the same directory.
            self._fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=way)
        finally:
            os.close(way)

    def close(self) -> None:
        os.close(self._fd)

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self.close()

    def listen(self, name: str) -> tuple[socket.socket, File]:
        """Return a socket that listens at *name*, and the file by which :meth:`remove` knows it.

        :raises FileExistsError: if a program listens there, or it is no socket
        :raises PermissionError: if the umask would keep this user away from it
        :raises OSError: if the path is too long, or the file system takes no socket
        """
        path = self.path / name
        if len(os.fsencode(path)) > LONGEST_PATH:
            raise OSError(
                f"{path} is too long for a Unix socket, which takes {LONGEST_PATH} bytes: give "
                "serve_statistics() a shorter path, or set XDG_RUNTIME_DIR to one"
            )
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listener.setblocking(False)
            with suppress(OSError):  # only Linux can; elsewhere the directory alone must suffice
                # Before there is a file: so its mode is right from the first moment.
                os.fchmod(listener.fileno(), 0o600)
            # Between "bind" and "listen" no program may take the file for that of a dead program.
            with self._alone():
                if not self._free(name):
                    raise FileExistsError(
                        f"a program serves {path} already; end that, or choose another path"
                    )
                try:
                    listener.bind(self._address(name))
                except OSError as exc:
                    what = f"no socket can be made there: {exc.strerror or exc}"
                    raise OSError(exc.errno or errno.EINVAL, what, str(path)) from None
                listener.listen(128)  # a client that finds this line full has to try again
                found = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
            if found.st_mode & 0o600 != 0o600:
                os.unlink(name, dir_fd=self._fd)
                raise PermissionError(
                    f"the umask of this process leaves {path} with mode "
                    f"{stat.S_IMODE(found.st_mode):04o}, so that nobody could connect; "
                    "set a umask that leaves the user's own rights alone"
                )
        except BaseException:
            listener.close()
            raise
        return listener, (found.st_dev, found.st_ino)

    def remove(self, name: str, file: File) -> None:
        """Remove the socket that *listen* has made, unless another file is there now."""
        with self._alone(), suppress(OSError):
            found = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
            if (found.st_dev, found.st_ino) == file:
                os.unlink(name, dir_fd=self._fd)

    def clear_away(self) -> None:
        """Remove the sockets of programs that were killed."""
        with self._alone(patience=0) as alone, suppress(OSError):
            for name in os.listdir(self._fd) if alone else ():  # noqa: PTH208  # of a descriptor
                if _OF_A_PROGRAM.fullmatch(name):
                    with suppress(FileExistsError):
                        self._free(name)

    def _free(self, name: str) -> bool:
        """Remove a dead program's socket. False if a program listens at *name*."""
        try:
            found = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return True
        if not stat.S_ISSOCK(found.st_mode):
            raise FileExistsError(
                f"{self.path / name} exists, and is no socket; choose another path"
            )
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as visitor:
            visitor.setblocking(False)
            try:
                visitor.connect(self._address(name))
            except ConnectionRefusedError:
                with suppress(FileNotFoundError):
                    os.unlink(name, dir_fd=self._fd)
                return True
            except OSError:
                pass  # many others are connecting, or it is a socket of another kind
        return False

    def _address(self, name: str) -> str:
        """A path to *name* in the directory that is held open, whatever is at its path by now.

        "bind" and "connect" take no descriptor. Linux has paths that stand for descriptors. We use
        the thread's path, because the process's path is gone once its main thread has ended. On
        other systems rule 2 must suffice.
        """
        there = f"/proc/thread-self/fd/{self._fd}"
        with suppress(OSError):
            if os.path.samestat(Path(there).stat(), os.fstat(self._fd)):
                address = f"{there}/{name}"
                if len(os.fsencode(address)) <= LONGEST_PATH:
                    return address
        return str(self.path / name)

    @contextmanager
    def _alone(self, patience: float = LOCK_PATIENCE) -> Generator[bool]:
        """Keep other programs from changing the directory meanwhile. False if that did not work.

        A program that was stopped at this point, or a file system without locks, must not keep this
        program from starting: it goes on after *patience* seconds. ``clear_away`` does not go on.
        """
        deadline = time.monotonic() + patience
        while not (locked := self._lock()) and time.monotonic() < deadline:
            time.sleep(0.01)
        try:
            yield locked
        finally:
            if locked:  # closing is not enough: a child that was forked meanwhile has the lock, too
                fcntl.flock(self._fd, fcntl.LOCK_UN)

    def _lock(self) -> bool:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return False
        return True


def make(base: Path, name: str) -> Path:
    """Make a directory that belongs to this user alone; raises as :class:`Directory` does."""
    way = _walk(base)
    try:
        _check_on_the_way(os.fstat(way), base)
        os.mkdir(name, 0o700, dir_fd=way)
    finally:
        os.close(way)
    return base / name


# -- The checks ------------------------------------------------------------------------------------


def _walk(path: Path) -> int:
    """Return a descriptor of the directory at *path*, which no other user can replace.

    Links on the way are followed if no other user could have made them. The last name must not be a
    link.
    """
    todo = [*reversed(path.absolute().parts[1:])]
    at, here, links = Path("/"), os.open("/", _PASS), 0
    try:
        while todo:
            _check_on_the_way(os.fstat(here), at)
            name = todo.pop()
            found = os.stat(name, dir_fd=here, follow_symlinks=False)
            if stat.S_ISLNK(found.st_mode) and todo:
                _check_owner(found, at / name)
                links += 1
                if links > 40:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
                # If its target begins with "/", "stat" and "open" go there, wherever we are.
                todo.extend(reversed(Path(os.readlink(name, dir_fd=here)).parts))
                continue
            if not stat.S_ISDIR(found.st_mode):
                _refuse(f"{at / name} is no directory")
            below = os.open(name, _PASS, dir_fd=here)
            os.close(here)
            at, here = at / name, below
    except BaseException:
        os.close(here)
        raise
    return here


def _check_own(found: os.stat_result, at: Path) -> None:
    if found.st_uid != os.geteuid():
        _refuse(f"{at} belongs to user {found.st_uid}, not to {os.geteuid()}")
    if found.st_mode & 0o077:
        _refuse(f"{at} is open to others (mode {stat.S_IMODE(found.st_mode):04o})")
    if found.st_mode & 0o700 != 0o700:
        _refuse(f"{at} is closed to its owner (mode {stat.S_IMODE(found.st_mode):04o})")


def _check_on_the_way(found: os.stat_result, at: Path) -> None:
    _check_owner(found, at)
    if found.st_mode & 0o022 and not found.st_mode & stat.S_ISVTX:
        mode = stat.S_IMODE(found.st_mode)
        _refuse(f"others may rename the entries of {at} (mode {mode:04o})")


def _check_owner(found: os.stat_result, at: Path) -> None:
    if found.st_uid not in (0, os.geteuid()) and found.st_uid != _unmapped():
        _refuse(f"{at} belongs to user {found.st_uid}, who may put something else there")


def _unmapped() -> int | None:
    """In a user namespace, the uid that stands for root and all other users outside; else None."""
    try:
        spans = Path("/proc/self/uid_map").read_bytes().split()[2::3]
        if sum(map(int, spans)) >= 0xFFFFFFFF:
            return None
        return int(Path("/proc/sys/kernel/overflowuid").read_bytes())
    except (OSError, ValueError):
        return None


def _refuse(what: str) -> NoReturn:
    raise PermissionError(f"{what}; {REMEDY}")


def is_ours(connection: socket.socket) -> bool:
    """Is the other end a process of this user, or of root? (On other systems than Linux: True.)"""
    if sys.platform != "linux":
        return True
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    return _PEER.unpack(peer)[1] in (0, os.geteuid())
