"""The functions that are handed to a library: they may be called from any thread, for ever.

In a library's thread we are a guest. No exception escapes into it that the user has not chosen, and
nothing is printed or logged there: errors are reported on the hub's side.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from anyio import BrokenResourceError, ClosedResourceError

from .._core.errors import RAISE, NoReplyError, who
from .._core.mailbox import Mailbox
from .._core.sender import make_callback
from .._core.source import Lane

# With a default, the library does not see these errors. They are not reported: the hub counts them.
_SILENT = (TimeoutError, NoReplyError, BrokenResourceError, ClosedResourceError)

_REPORTED = "has failed, which on_error or the log tells"


def make_send_callback(
    mailbox: Mailbox, lane: Lane, pack: Callable[..., Any] | None, returns: object
) -> Callable[..., Any]:
    """See ``Portal.send_callback``."""

    def no_place(item: Any) -> None:
        """Also with ``"block"`` the item is dropped: a callback must not wait."""
        if not lane.places.put(lane, item):
            mailbox.books.drop(lane.source, item)

    report = partial(mailbox.books.report, lane.source)
    send = make_callback(mailbox, lane, tupled, no_place, report, returns)
    if pack is None:
        return send
    late = mailbox.books.counts["late"]

    def callback(*args: Any, **kwargs: Any) -> Any:
        if lane.refusal is not None:
            late.add_one()
            return returns
        try:
            item = pack(*args, **kwargs)
        except BaseException as exc:
            report(exc)
        else:
            send(item)
        return returns

    return callback


def make_request_callback(
    mailbox: Mailbox,
    lane: Lane,
    ask: Callable[[Any], Any],
    pack: Callable[..., Any] | None,
    default: object,
    convert: Callable[[Any], Any] | None,
) -> Callable[..., Any]:
    """See ``Asker.request_callback``. *ask* is ``request`` with its time limit."""
    late = mailbox.books.counts["late"]

    def callback(*args: Any, **kwargs: Any) -> Any:
        if lane.refusal is not None:
            late.add_one()
            if default is RAISE:
                raise lane.refusal(lane)
            return default
        try:
            item = packed(pack, args, kwargs)
        except BaseException as exc:
            mailbox.books.report(lane.source, exc)
            if default is RAISE:
                raise NoReplyError(
                    f"pack() of {who(lane)} {_REPORTED}; nothing was asked"
                ) from None
            return default
        try:
            value = ask(item)
        except BaseException as exc:
            if default is RAISE:
                raise
            if not isinstance(exc, _SILENT):
                mailbox.books.report(lane.source, exc)
            return default
        if convert is None:
            return value
        try:
            return convert(value)
        except BaseException as exc:
            mailbox.books.report(lane.source, exc)
            if default is RAISE:
                raise NoReplyError(f"convert() of {who(lane)} {_REPORTED}") from None
            return default

    return callback


def packed(pack: Callable[..., Any] | None, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """Make the item from the arguments with which a library has called back."""
    return tupled(args, kwargs) if pack is None else pack(*args, **kwargs)


def tupled(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The same without a ``pack``."""
    if kwargs:
        raise TypeError("called with keywords; give the callback a pack function")
    return args[0] if len(args) == 1 else args
