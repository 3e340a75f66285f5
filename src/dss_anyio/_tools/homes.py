"""Where the socket of a program is, so that ``top`` finds the sockets of all programs of a user.

In a directory in $XDG_RUNTIME_DIR, or in the folder for temporary files. All users may write in the
latter, so another user may take the expected name of the directory. Then our directory gets a
longer name, which only begins with the expected one.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from .place import REMEDY, Directory, File, make


class Served(NamedTuple):
    path: Path
    directory: Directory
    listener: socket.socket
    file: File


def serve_at(path: Path) -> Served:
    """Listen at *path*. Raises as :class:`Directory` and :meth:`Directory.listen` do."""
    directory = Directory(path.parent)
    try:
        return Served(path, directory, *directory.listen(path.name))
    except BaseException:
        directory.close()
        raise


def serve_somewhere(name: str) -> Served:
    """Listen at *name* in the best directory that can be used. Make the directory if need be.

    A directory that cannot be used is passed over: another user who has tampered with it must not
    keep a program from starting.

    :raises FileExistsError: if a program listens at *name* already
    :raises OSError: if no directory can be used; the message says for each of them why
    """
    refused: list[str] = []
    for base, title in _homes():
        try:
            path = next(iter(_found(base, title)), None) or _make(base, title)
            with Directory(path) as directory:
                directory.clear_away()
            return serve_at(path / name)
        except FileExistsError:
            raise
        except OSError as exc:
            refused.append(f"in {base}: {exc}")
    raise OSError(
        f"there is no place for a socket ({'; '.join(refused) or 'none at all'}); {REMEDY}"
    )


def directories() -> list[Path]:
    """The directories with the sockets of this user's programs, the best one first."""
    return [path for base, title in _homes() for path in _found(base, title)]


def _homes() -> Iterator[tuple[Path, str]]:
    """The parents of these directories, each with the name that a directory has in it."""
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    with suppress(OSError):
        # Not the folder of another user, whose environment "su" or "sudo -E" has kept.
        if runtime.is_absolute() and runtime.stat().st_uid == os.geteuid():
            yield runtime, "dss_anyio"
    import tempfile  # takes longer to import than all of this; most programs are never watched

    with suppress(OSError):  # there is no such folder
        yield Path(tempfile.gettempdir()), f"dss_anyio-{os.geteuid()}"


def _found(base: Path, title: str) -> list[Path]:
    """The directories in *base* that can be used: *title*, and names that begin with *title*."""
    names = {title}
    with suppress(OSError), os.scandir(base) as entries:
        for entry in entries:
            if entry.name.startswith(f"{title}-"):
                with suppress(OSError):  # it has gone meanwhile
                    # Directories of other users cost no more than this one look.
                    if entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                        names.add(entry.name)
    return [base / name for name in sorted(names) if _refusal(base / name) is None]


def passed_over() -> list[str]:
    """The directories that have the right name and cannot be used, and why."""
    refusals = [_refusal(base / title) for base, title in _homes()]
    return [str(each) for each in refusals if isinstance(each, PermissionError)]


def _refusal(path: Path) -> OSError | None:
    try:
        Directory(path).close()
    except OSError as exc:
        return exc
    return None


def _make(base: Path, title: str) -> Path:
    """Make a directory in *base*; if *title* is taken, with a name that no user can guess."""
    try:
        return make(base, title)
    except FileExistsError:
        if _refusal(base / title) is None:  # another program has just made it
            return base / title
        return make(base, f"{title}-{os.urandom(8).hex()}")
