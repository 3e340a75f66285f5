"""Errors that no waiting caller receives, on their way to ``on_error`` or to logging.

Invariants: an error is told once, in the hub's thread. Telling is done in turns, so a library that
makes errors faster than they can be told holds up nothing else. Telling does not feed on itself.

If ``MOST_REPORTS`` errors wait already, the next one is only counted (``Books.report`` counts all).
So is one that telling itself has caused, in the thread that tells: a logging handler that sends
into the hub, with a ``pack`` that fails for such a record, would make the next error of each.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from threading import get_ident
from time import monotonic
from typing import TYPE_CHECKING, TypeAlias

from .bell import Bell
from .errors import named
from .steps import TURN, TURN_SECONDS

if TYPE_CHECKING:
    from .books import Books

OnError: TypeAlias = Callable[[BaseException, "str | None"], object]

MOST_REPORTS = 256  # errors that wait to be told

_logger = logging.getLogger("dss_anyio")


# Who tells just now: the thread's ident, and the ``id`` of the list it tells.
_tellers: dict[tuple[int, int], None] = {}


class Reports(list["tuple[str | None, BaseException]"]):
    """The errors of one hub that wait to be told, each with its source's name."""

    __slots__ = ()

    def add(self, bell: Bell, source: str | None, exc: BaseException) -> None:
        """From any thread; never waits. *bell* is that of the hub."""
        if (get_ident(), id(self)) in _tellers:
            return  # caused by telling another one
        if len(self) < MOST_REPORTS:
            self.append((source, exc))
        if bell.last is None:  # else the bell's function may be what reports
            bell.ring()

    def tell(self, on_error: OnError | None, books: Books) -> bool:
        """Tell *on_error* what was reported: one turn. Are there more? In the hub's thread.

        A turn takes 128 errors or a quarter of a millisecond, and at least one error; so the caller
        lets everything else have its turn, and comes back. Does nothing if this thread is in the
        middle of telling (a nested loop that polls, in ``on_error``): that turn goes on.

        Raises only KeyboardInterrupt and SystemExit, if *on_error* does; the next call tells the
        rest.
        """
        return self._tell(on_error, books, TURN, TURN_SECONDS)

    def tell_all(self, on_error: OnError | None, books: Books) -> BaseException | None:
        """Tell all that is there now. For the end of the hub, after which nobody comes back.

        Returns the first KeyboardInterrupt or SystemExit that *on_error* has raised.
        """
        struck: BaseException | None = None
        for _ in range(len(self)):
            try:
                self._tell(on_error, books, 1, 0.0)
            except (KeyboardInterrupt, SystemExit) as exc:
                struck = exc if struck is None else struck
        return struck

    def _tell(self, on_error: OnError | None, books: Books, most: int, seconds: float) -> bool:
        me = get_ident(), id(self)
        if me in _tellers:
            return False
        try:
            _tellers[me] = None
            self._tell_some(on_error, books, most, seconds)
        finally:
            _tellers.pop(me, None)
        return len(self) > 0

    def _tell_some(self, on_error: OnError | None, books: Books, most: int, seconds: float) -> None:
        """A loop by itself: see ``_acquire_in_slices``."""
        begun = monotonic()
        for _ in range(most):
            # Looking and taking are one step: another thread may tell as well.
            try:
                source, exc = self.pop(0)
            except IndexError:
                return
            tell(on_error, exc, source, books)
            if monotonic() - begun > seconds:
                return


def tell(on_error: OnError | None, exc: BaseException, source: str | None, books: Books) -> None:
    """Hand *exc* to the user's hook, or to logging. *books* name the hub.

    Raises only KeyboardInterrupt and SystemExit, if one of these does.
    """
    try:
        if on_error is not None:
            on_error(exc, source)
            return
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as again:
        exc = _because_of(again, exc)
    try:
        _logger.error("error in %s: %r", named(source, books), exc, exc_info=exc)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException:
        # A handler or a filter has raised, or the ``repr`` of the exception something that is no
        # Exception. It cannot be reported anywhere, and the polling thread must not suffer for it.
        pass


def _because_of(again: BaseException, exc: BaseException) -> BaseException:
    """*again*, which was raised while *exc* was told."""
    try:
        again.__cause__ = exc
    except BaseException:
        pass  # its class does not allow that
    return again
