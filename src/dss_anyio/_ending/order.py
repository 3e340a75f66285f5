"""The order in which a hub or a source ends, and the steps of it that block.

The order, for a whole hub and in the same way for one source alone:

1. refuse new items                                  } ``Mailbox.end``, or ``Registry.release`` for
2. release all blocked calls                         } a source: at once, in the thread that ends it
3. cancel the hub's tasks                            ``Hub.__aexit__``, for an async hub
4. wait until the released calls have left           } this file. It blocks, so it runs in a worker
5. run each source's ``stop``, newest source first;  } thread for an async hub, and in the caller's
   wait for sources that are ending alone            } thread for a polled hub
6. hand back the items that were not received        }

Why 2 comes before 5: most ``stop`` functions join the very thread that is blocked in the hub.
Why 4 comes before 5: some ``stop`` functions hold the GIL while they join their thread. A callback
that was released, but has not returned yet, needs the GIL to return.
Why 6 comes last: until its ``stop`` has returned, a library may use the items that it has sent.

Step 5 calls a ``stop`` that is a coroutine function like any other. Its coroutine then runs in the
hub's event loop, and our thread waits for it (see ``errand``).

The ends that do not pass through ``close`` or ``__aexit__`` are in ``ways_out``.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from contextvars import Context
from inspect import iscoroutine
from typing import NamedTuple, cast

from .._core.errors import hub_gone, name_of, named, note
from .._core.mailbox import Mailbox
from .._core.reports import OnError, tell
from .._core.source import Source
from .._loops.slices import join, wait_for
from .._loops.worker import start_daemon
from .errand import GRACE, Errand

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup

_logger = logging.getLogger("dss_anyio")

LEAVE_TIMEOUT = 2.0  # seconds for the released calls to leave; they need microseconds


class Trouble(NamedTuple):
    """An error at the end of a hub or source, with the name of its source."""

    source: str | None
    exc: BaseException


class EndUnderWay(NamedTuple):
    """One thread's run of steps 4 to 6 for a hub; other threads may wait for it."""

    done: threading.Event  # set when the run is complete, or was cut short
    deadline: float  # the time by which ``done`` should be set, as ``time.monotonic()`` has it


def release_all(mailbox: Mailbox) -> BaseException | None:
    """Steps 1 and 2 for a whole hub, completed even if Ctrl-C strikes in the middle.

    Returns the exception of Ctrl-C, or of a callback of a future. The caller goes on to end the
    hub, and raises it in the end.
    """
    try:
        mailbox.end(hub_gone)
    except BaseException as exc:
        try:
            mailbox.end(hub_gone)  # waiters that were refused already are passed over
        except BaseException:
            pass  # the second exception of two: the caller gets the first
        return exc
    return None


def end_sources(
    mailbox: Mailbox,
    context: Context | None = None,
    errors: list[Trouble] | None = None,
) -> list[Trouble]:
    """Steps 4 to 6 for a whole hub. Blocks; returns the errors of the callbacks.

    The errors are added to *errors*, so that none is lost if Ctrl-C cuts this short. Coroutines run
    in *context*.

    Only the first caller does anything. A second caller must not hand back items that a library may
    still use. It must not wait either: the first caller may be waiting for a ``stop`` that has
    called us.
    """
    registry = mailbox.registry
    limits = [_at_most(source) for source in list(registry.sources.values())]
    limits += [_alone_at_most(source) for source in list(registry.stopping)]
    ending = EndUnderWay(threading.Event(), time.monotonic() + LEAVE_TIMEOUT + sum(limits))
    errors = [] if errors is None else errors
    try:
        if not mailbox.ending.decide(ending):
            return []
        mailbox.inside.wait_until_left(None, LEAVE_TIMEOUT)
        _stop_newest_first(mailbox, context, errors)
        # Sources whose ``open_source`` block is being left. The block enters its source in
        # ``stopping`` before it retires the source, so we find each source above or here.
        for source, stopped in list(registry.stopping.items()):
            wait_for(stopped, _alone_at_most(source))
        mailbox.sweep()
    finally:
        if not mailbox.swept and mailbox.ending.decision is ending:
            mailbox.ending.pop(None)  # Ctrl-C has cut it short; the next caller completes it
        tell_unheard(mailbox, errors)
        ending.done.set()
    return errors


def _at_most(source: Source) -> float:
    """How many seconds the function ``stop`` below may take for *source*."""
    return source.stop_timeout + 2 * GRACE


def _alone_at_most(source: Source) -> float:
    """How many seconds the end of an ``open_source`` block may take: ``start`` may still run."""
    return source.stop_timeout + GRACE + LEAVE_TIMEOUT + _at_most(source)


def _stop_newest_first(mailbox: Mailbox, context: Context | None, errors: list[Trouble]) -> None:
    """Step 5 for the sources that do not end alone.

    A function of its own, as ``Inside._look_until_left`` is, because of CPython 3.12 to 3.14. If a
    condition in a ``while`` loop inside a ``try`` jumps back to the loop's head, that jump is not
    in the ``try`` (python/cpython#130279). CPython looks for signals at just that jump. If a signal
    handler raises there (Ctrl-C), no ``finally`` and no ``except`` of this function sees the
    exception. Those of the caller do, as they see every exception of a call.
    """
    while True:
        try:
            _, source = mailbox.registry.sources.popitem()  # the newest one
        except KeyError:
            break
        if source.retire("hub"):
            stop(mailbox, source, context, errors)


def end_source(
    mailbox: Mailbox, source: Source, context: Context | None, errors: list[Trouble]
) -> None:
    """Steps 4 to 6 for *source* alone, after ``Registry.release``. Blocks; adds to *errors*."""
    mailbox.inside.wait_until_left(source, LEAVE_TIMEOUT)
    stop(mailbox, source, context, errors)
    for lane in mailbox.registry.lanes_of(source):
        mailbox.take_back(lane)


def together(
    mailbox: Mailbox, on_error: OnError | None, first: BaseException | None, errors: list[Trouble]
) -> BaseException:
    """One exception for *errors*, from the end of a hub or source, and *first*, from before it."""
    if isinstance(first, (KeyboardInterrupt, SystemExit)):
        for source, exc in errors:
            try:
                tell(on_error, exc, source, mailbox.books)
            except (KeyboardInterrupt, SystemExit):
                pass  # *first* ends the program already
        return first  # it ends the program, so it is not wrapped
    if isinstance(first, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", first)
        before = list(group.exceptions)
    else:
        before = [] if first is None else [first]
    return BaseExceptionGroup(
        f"errors at the end of {name_of(mailbox.books)}",
        [*before, *(each.exc for each in errors)],
    )


def leaving(
    mailbox: Mailbox,
    on_error: OnError | None,
    struck: BaseException,
    first: BaseException | None,
    errors: list[Trouble],
) -> BaseException:
    """The same, if a callback of the user, or Ctrl-C, has raised *struck* during the end."""
    if isinstance(struck, (KeyboardInterrupt, SystemExit)):
        if not isinstance(first, (KeyboardInterrupt, SystemExit)):  # one such exception is enough
            first = struck
    else:
        errors = [Trouble(None, struck), *errors]
    return together(mailbox, on_error, first, errors)


def stop(mailbox: Mailbox, source: Source, context: Context | None, errors: list[Trouble]) -> None:
    """Run the source's ``stop`` in a thread of its own; wait for it within its time limit."""
    source.ended = True
    source.portal = None
    func = source.take_stop()
    if func is None:
        return
    finished: list[BaseException | None] = []
    deadline = time.monotonic() + source.stop_timeout
    errand = errand_to_stop(mailbox, source, context)

    def run() -> None:
        try:
            result = func()
            if iscoroutine(result):
                errand.run(result, max(0.0, deadline - time.monotonic()))
        except BaseException as exc:
            finished.append(exc)
        else:
            finished.append(None)

    thread = start_daemon(run, f"dss_anyio: stopping {source.name}")
    if thread.ident is not None:
        join(thread, source.stop_timeout)
        if not finished and errand.sent:
            join(thread, 2 * GRACE)  # the thread cancels the coroutine, and reports the outcome
    if not finished:
        error: BaseException = TimeoutError(
            f"stopping {named(source.name, mailbox.books)} takes longer than "
            f"{source.stop_timeout} s; {_what_it_waits_for(thread)}; it goes on in thread "
            f"{thread.name!r}, which does not keep Python from exiting"
        )
    elif finished[0] is not None:
        error = finished[0]
        note(error, f"in stop of {named(source.name, mailbox.books)}")
    else:
        return
    errors.append(Trouble(source.name, error))


def errand_to_stop(mailbox: Mailbox, source: Source, context: Context | None) -> Errand:
    """Return the errand that runs the coroutine, if the ``stop`` of *source* returns one."""
    return Errand(mailbox.home, context, f"stop of {named(source.name, mailbox.books)}")


def tell_late(mailbox: Mailbox, trouble: Trouble) -> None:
    """Log an error of an end for which no thread or task waits. In any thread."""
    source, exc = trouble
    ended = named(source, mailbox.books)
    _logger.error("error at the end of %s, for which no caller waits: %r", ended, exc, exc_info=exc)


def tell_all_late(mailbox: Mailbox, errors: list[Trouble]) -> None:
    for trouble in errors:
        tell_late(mailbox, trouble)


def tell_unheard(mailbox: Mailbox, errors: list[Trouble]) -> None:
    """Log *errors* and forget them, if the coroutine that awaits them is in a loop that is over.

    In the thread that has caught them, before it says that it is done: then Python may exit.
    """
    if mailbox.home.way_in is not None and mailbox.home.loop_is_over:
        tell_all_late(mailbox, errors)
        errors.clear()


def _what_it_waits_for(thread: threading.Thread) -> str:
    """Say where *thread* is and which threads it joins there, for a message about a hang."""
    joined: list[str] = []
    where: str | None = None  # the innermost frame that is not in the module threading
    frame = sys._current_frames().get(thread.ident or 0)  # pyright: ignore[reportPrivateUsage]
    while frame is not None:
        code = frame.f_code
        if code is threading.Thread.join.__code__:
            joined.append(repr(frame.f_locals["self"].name))
        if where is None and code.co_filename != threading.__file__:
            where = f"it is in {code.co_name}, {code.co_filename}:{frame.f_lineno}"
        frame = frame.f_back
    waits_for = f", and waits for the thread {', '.join(joined)}" if joined else ""
    return f"{where}{waits_for}"
