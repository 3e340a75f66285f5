"""Errors that no waiting caller receives, on their way to ``on_error`` or to logging.

Invariants: each error is passed on ("told") once, in the hub's thread. Telling is done in turns, so
a library that makes errors faster than we can tell them holds up nothing else. Telling one error
does not cause the next.

If ``MOST_REPORTS`` errors wait already, the next one is only counted (``Books.report`` counts all).
An error that telling itself has caused, in the thread that tells, is only counted, too. Think of a
logging handler that sends into the hub, with a ``pack`` that fails for such a record: each error
told would cause the next one, without end.
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

MOST_REPORTS = 256  # errors that wait for their telling

_logger = logging.getLogger("dss_anyio")


# The threads that are telling errors: the ident of each, and the ``id`` of the list that it tells.
_tellers: dict[tuple[int, int], None] = {}


class Reports(list["tuple[str | None, BaseException]"]):
    """The errors of one hub that wait for their telling, each with its source's name."""

    __slots__ = ()

    def add(self, bell: Bell, source: str | None, exc: BaseException) -> None:
        """Add *exc*, and ring the hub's *bell*. From any thread; never waits."""
        if (get_ident(), id(self)) in _tellers:
            return  # caused by telling another error
        if len(self) < MOST_REPORTS:
            self.append((source, exc))
        if bell.last is None:  # else the bell's function may be the caller
            bell.ring()

    def tell(self, on_error: OnError | None, books: Books) -> bool:
        """Pass one turn of errors to *on_error*; return whether more are left. In the hub's thread.

        A turn ends after 128 errors or a quarter of a millisecond, but not before the first error.
        Then the caller lets other work have its turn, and calls again. Does nothing if this thread
        is in the middle of telling (in a nested loop that polls, in ``on_error``): that turn goes
        on.

        Raises only KeyboardInterrupt and SystemExit, if *on_error* does; the next call tells the
        rest.
        """
        return self._tell(on_error, books, TURN, TURN_SECONDS)

    def tell_all(self, on_error: OnError | None, books: Books) -> BaseException | None:
        """Tell all errors that are there now. For the end of the hub: no further turn comes.

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
            # Look and take in one step: another thread may tell as well.
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
        # A logging handler or a filter has raised, or the ``repr`` of the exception has raised an
        # exception that is no ``Exception``. There is no place left to report it, and it must not
        # escape into the polling thread.
        pass


def _because_of(again: BaseException, exc: BaseException) -> BaseException:
    """*again*, which was raised while *exc* was told."""
    try:
        again.__cause__ = exc
    except BaseException:
        pass  # its class does not allow that
    return again
