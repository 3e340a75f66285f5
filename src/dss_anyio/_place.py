"""Where the socket is at which a program is watched, and who may come there.

The directory is the user's own and closed to all others. That alone keeps strangers away on every
platform; it also means that nobody else can put a socket of theirs in the place of ours.
"""

from __future__ import annotations

import os
import socket
import stat
import struct
import sys
from pathlib import Path

_PEER = struct.Struct("3i")  # pid, uid, gid


def directories() -> list[Path]:
    """Where the sockets of this user's programs are, the best place first."""
    import tempfile  # takes longer to import than all of this; most programs are never watched

    found = [Path(tempfile.gettempdir(), f"dss_anyio-{os.geteuid()}")]
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    # Not that of another user, whose environment was kept by "su" or "sudo -E".
    if runtime and Path(runtime).is_dir() and Path(runtime).stat().st_uid == os.geteuid():
        found.insert(0, Path(runtime, "dss_anyio"))
    return found


def check_directory(directory: Path) -> None:
    """Raise ``PermissionError`` unless *directory* is this user's, and closed to everybody else."""
    found = directory.lstat()  # a link might lead to where somebody else wants us
    remedy = "give serve_statistics() a path in a directory of your own, with mode 0700"
    if not stat.S_ISDIR(found.st_mode):
        raise PermissionError(f"{directory} is no directory; {remedy}")
    if found.st_uid != os.geteuid():
        raise PermissionError(
            f"{directory} belongs to user {found.st_uid}, not to {os.geteuid()}; {remedy}"
        )
    if found.st_mode & 0o077:
        raise PermissionError(
            f"{directory} is open to others (mode {stat.S_IMODE(found.st_mode):04o}); {remedy}"
        )


def check_platform() -> None:
    if sys.platform == "win32" or not hasattr(socket, "AF_UNIX"):
        raise RuntimeError("watching needs Unix sockets, which Python has not on this platform")


def listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.setblocking(False)
        _remove_stale(path)
        try:
            listener.bind(os.fspath(path))
        except OSError as exc:
            if exc.errno is not None:
                raise
            raise OSError(  # Python itself has refused it
                f"{path} is too long for a Unix socket, which takes about 100 bytes: give "
                "serve_statistics() a shorter path, or set XDG_RUNTIME_DIR to one"
            ) from None
        path.chmod(0o600)
        listener.listen(128)  # whoever finds this line full is told to try again
    except BaseException:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    """Remove the socket at *path* if nobody listens there any more."""
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(f"{path} exists, and is no socket; choose another path")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as visitor:
        visitor.setblocking(False)
        try:
            visitor.connect(os.fspath(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
            return
        except BlockingIOError:
            pass  # many others are connecting
    raise FileExistsError(f"somebody serves {path} already; close that one, or choose another path")


def is_ours(connection: socket.socket) -> bool:
    """Is the other end this user, or root? Only Linux tells."""
    if sys.platform != "linux":
        return True
    peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    return _PEER.unpack(peer)[1] in (0, os.geteuid())
