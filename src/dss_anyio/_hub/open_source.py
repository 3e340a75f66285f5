"""A library that lives as long as a block: started, and stopped in the order of the end."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass
from functools import partial
from inspect import iscoroutine
from threading import Event
from types import TracebackType
from typing import Any, Generic, TypeAlias, TypeVar, cast

from anyio import get_cancelled_exc_class

from .._core.errors import named, portal_closed
from .._core.mailbox import Mailbox
from .._core.registry import Registry
from .._core.source import Source
from .._ending.errand import GRACE, Errand
from .._ending.order import Trouble, end_source, errand_to_stop, tell_late, tell_unheard
from .._ending.order import stop as stop_source
from .._loops.closing import may_await
from .._loops.worker import Worker
from .._portal.portal import Portal

T_Raw = TypeVar("T_Raw")
T_Value = TypeVar("T_Value")

# Makes one exception from the body's exception and the errors of the end.
Gather: TypeAlias = Callable[["BaseException | None", "list[Trouble]"], BaseException]


@dataclass(frozen=True)
class OpenSource(Generic[T_Raw, T_Value]):
    """A source that :meth:`Hub.open_source` has started."""

    portal: Portal[T_Raw]  #: the portal through which it sends
    value: T_Value  #: the return value of ``start``


class opened_source(Generic[T_Raw, T_Value]):  # noqa: N801  # reads as a function does
    """See ``Hub.open_source``.

    A class, and no async generator: asyncio's ``shutdown_asyncgens`` closes all async generators at
    once. It would close ours at the same time as a generator of the user that stands in our block.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        register: Callable[[], tuple[Portal[Any], Source]],
        start: Callable[[Portal[T_Raw]], Any],
        stop: Callable[[T_Value], object],
        drain: bool,
        gather: Gather,
    ) -> None:
        self._mailbox = mailbox
        self._register = register
        self._start = start
        self._stop = stop
        self._drains = drain
        self._gather = gather
        self._entered = False

    async def __aenter__(self) -> OpenSource[T_Raw, T_Value]:
        if self._entered:
            who = named(self._source.name, self._mailbox.books)
            raise RuntimeError(f"{who} can be entered once only; call open_source() again")
        mailbox = self._mailbox
        portal, source = self._register()
        context = copy_context()
        errand = Errand(mailbox.home, context, f"start of {named(source.name, mailbox.books)}")
        self._source: Source = source
        self._context, self._errand = context, errand
        self._entered = True
        start, stop = self._start, self._stop

        def run_start() -> T_Value:  # without us: we refer to the worker
            value = start(portal)
            if iscoroutine(value):
                value = errand.run(value)
            source.set_stop(partial(stop, value))
            # The thread that ends the source writes ``ended``, and *then* takes the function. If
            # the function was not there yet, we read ``ended`` here and stop the library ourselves.
            if source.ended:
                late = source.take_stop()
                if late is not None:
                    _stop_late(mailbox, source, context, late)
            return cast("T_Value", value)

        try:
            self._starting = Worker(
                run_start, f"dss_anyio: starting {source.name}", only_there=True
            )
        except RuntimeError:  # no thread can be started
            portal.abort()
            raise
        try:
            return OpenSource(portal, await self._starting.result())
        except BaseException as exc:
            await self._leave(exc)
            raise

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        try:
            await self._leave(exc_val)
        finally:
            del exc_val  # the raised exception may refer to it, and to this frame

    async def _leave(self, struck: BaseException | None) -> None:
        """End the source, because of *struck* if that is not None.

        Returns if there was no other exception: then *struck* goes on by itself. Otherwise raises
        the other one.
        """
        mailbox, source = self._mailbox, self._source
        if isinstance(struck, GeneratorExit) and not (mailbox.home.is_here() and may_await(struck)):
            return  # we are being destroyed; the end of the hub stops the library
        outcome = struck
        errors: list[Trouble] = []
        stopped = mailbox.registry.stopping[source] = Event()  # the end of the hub waits for it
        work = partial(_work, mailbox, source, self._context, errors, stopped)
        try:
            drained = False
            if self._drains and outcome is None and not mailbox.ended:
                stop = partial(work, stop_source)
                drained, outcome = await _drain(mailbox, source, stop)
            if not drained:
                end = partial(work, end_source)
                cancelled = await _end(mailbox, source, self._starting, self._errand, end, errors)
                outcome = cancelled or outcome
        finally:
            stopped.set()
            mailbox.registry.stopping.pop(source, None)
        if errors:
            outcome = self._gather(without_cancellation(outcome), errors)
        if outcome is not None and outcome is not struck:
            try:
                raise outcome
            finally:
                del outcome, struck  # they refer to this frame


def _stop_late(
    mailbox: Mailbox, source: Source, context: Context, stop: Callable[[], object]
) -> None:
    """Stop a library whose ``start`` has returned after its source's end. In ``start``'s thread."""
    try:
        result = stop()
        if iscoroutine(result):
            errand_to_stop(mailbox, source, context).run(result, source.stop_timeout)
    except BaseException as exc:
        tell_late(mailbox, Trouble(source.name, exc))


def _work(
    mailbox: Mailbox,
    source: Source,
    context: Context,
    errors: list[Trouble],
    stopped: Event,
    step: Callable[[Mailbox, Source, Context, list[Trouble]], None],
) -> None:
    """Do *step*, in a thread. Then set *stopped*, also if the event loop is gone by then."""
    try:
        step(mailbox, source, context, errors)
    finally:
        tell_unheard(mailbox, errors)
        stopped.set()


async def _drain(
    mailbox: Mailbox, source: Source, work: Callable[[], None]
) -> tuple[bool, BaseException | None]:
    """Stop the library while its items are still accepted, and then close its portals.

    Queued items stay queued, to be received. Returns True and None if that worked. If an exception
    or a cancellation comes meanwhile, returns False and that exception. Then blocked calls were
    released, ``stop`` has returned, and the source has to be ended like any other. If the hub ends
    meanwhile, returns False and None: the end of the hub has released all calls, and we have
    stopped the library all the same, because we have its ``stop``.
    """
    registry = mailbox.registry
    stopping = Worker(work, f"dss_anyio: draining {source.name}")
    try:
        await stopping.result()
    except BaseException as exc:
        _release(registry, source)  # the library may wait for a receiver that is cancelled, too
        return False, await stopping.outlast() or exc
    if mailbox.ended:
        return False, None
    for lane in registry.lanes_of(source):
        registry.close_lane(lane, portal_closed)
    return True, None


def _release(registry: Registry, source: Source) -> None:
    """Steps 1 and 2 for *source* alone. Idempotent."""
    if source.retire("block"):
        registry.sources.pop(cast("str", source.name), None)
    registry.release(source)


async def _end(
    mailbox: Mailbox,
    source: Source,
    starting: Worker[Any],
    errand: Errand,
    work: Callable[[], None],
    errors: list[Trouble],
) -> BaseException | None:
    """End *source* alone; returns a native cancellation that came meanwhile."""
    registry = mailbox.registry
    _release(registry, source)
    # Now all calls that wait for the hub inside start() are released, so start() can return.
    cancelled = await starting.outlast(source.stop_timeout)
    if not starting.done:
        goes_on = "it goes on in a daemon thread"
        if errand.cancel():
            cancelled = await starting.outlast(GRACE) or cancelled
            goes_on = "it was cancelled" + ("" if starting.done else ", but goes on")
        errors.append(
            Trouble(
                source.name,
                TimeoutError(
                    f"starting {named(source.name, mailbox.books)} has not returned within "
                    f"{source.stop_timeout} s of its end; {goes_on}"
                ),
            )
        )
    if source.retired != "hub":  # else the end of the hub stops the library
        ending = Worker(work, f"dss_anyio: ending {source.name}")
        cancelled = await ending.outlast() or cancelled
        ending.outcome()
    return cancelled


def without_cancellation(exc: BaseException | None) -> BaseException | None:
    """*exc*, or None if it is a cancellation: an error replaces it, as in any ``finally``."""
    return None if isinstance(exc, (get_cancelled_exc_class(), GeneratorExit)) else exc
