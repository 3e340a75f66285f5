"""Where the socket of a program is, so that ``top`` finds those of all programs of this user.

In a directory in $XDG_RUNTIME_DIR, or in the folder for temporary files. There everybody may write,
and so may take the name that is expected. Then it is another name, which only begins like that one.
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
    """Listen at *name* in the best directory that there is, which is made if need be.

    One that cannot be used is passed over: what somebody else has done to it must not keep a
    program from starting.

    :raises FileExistsError: if somebody listens at *name* already
    :raises OSError: if there is no directory that can be used; it says of each why
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
    """Where the sockets of this user's programs are, the best place first."""
    return [path for base, title in _homes() for path in _found(base, title)]


def _homes() -> Iterator[tuple[Path, str]]:
    """In which directories those are, and how they are called there."""
    runtime = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    with suppress(OSError):
        # Not that of another user, whose environment was kept by "su" or "sudo -E".
        if runtime.is_absolute() and runtime.stat().st_uid == os.geteuid():
            yield runtime, "dss_anyio"
    import tempfile  # takes longer to import than all of this; most programs are never watched

    with suppress(OSError):  # there is none
        yield Path(tempfile.gettempdir()), f"dss_anyio-{os.geteuid()}"


def _found(base: Path, title: str) -> list[Path]:
    """Those in *base* that can be used. Where *title* was taken, its name only begins with it."""
    names = {title}
    with suppress(OSError), os.scandir(base) as entries:
        for entry in entries:
            if entry.name.startswith(f"{title}-"):
                with suppress(OSError):  # it has gone meanwhile
                    # Most of what others have put there costs this one look.
                    if entry.stat(follow_symlinks=False).st_uid == os.geteuid():
                        names.add(entry.name)
    return [base / name for name in sorted(names) if _refusal(base / name) is None]


def passed_over() -> list[str]:
    """Which directories have the right name and cannot be used, and why."""
    refusals = [_refusal(base / title) for base, title in _homes()]
    return [str(each) for each in refusals if isinstance(each, PermissionError)]


def _refusal(path: Path) -> OSError | None:
    try:
        Directory(path).close()
    except OSError as exc:
        return exc
    return None


def _make(base: Path, title: str) -> Path:
    """A new one in *base*; if *title* is taken, with a name that nobody can have taken before."""
    try:
        return make(base, title)
    except FileExistsError:
        if _refusal(base / title) is None:  # another program has just made it
            return base / title
        return make(base, f"{title}-{os.urandom(8).hex()}")
