"""Functions of C that never enter Python: they pack their arguments, and send the record.

All of one portal share one native sender, because a thread that has called one and then another is
to be seen in that order. A function with a bound of its own has a sender of its own. A record says
whose it is by a number; here it becomes the item, in the hub's thread.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from typing import Any

from .. import _native
from .._core.inlet import Unpacked
from .._core.mailbox import Mailbox
from .._core.policies import Overflow
from .._core.source import Lane
from .native import open_native, usual_limit
from .records import WHOSE, WHOSE_AND_LENT, Layout
from .signature import Signature

ITEM_SIZE = 128  # bytes of a record that need no allocation
MOST_ITEMS = 1 << 14  # in a hub without a limit: two megabytes


class Functions:
    """Those that send through one native sender."""

    def __init__(
        self,
        mailbox: Mailbox,
        lane: Lane,
        max_buffer_size: int | None = None,
        overflow: Overflow | None = None,
    ) -> None:
        """Raises what ``ForC.native_sender`` raises."""
        if max_buffer_size is None:
            max_buffer_size = usual_limit(lane, MOST_ITEMS)
        self._numbers = count(1)
        self._unpackers: dict[int, Callable[[Any], Unpacked]] = {}
        # It is held by its inlet, and must not hold us: nothing is to wait for a collection.
        unpackers = self._unpackers

        def unpack(record: Any) -> Unpacked:
            return unpackers[WHOSE.unpack_from(record)[0]](record)

        self._sender = open_native(mailbox, lane, max_buffer_size, ITEM_SIZE, overflow, unpack)
        mailbox.lend(unpackers)  # nothing comes after the end

    def tell(self, signature: Signature, value: Any) -> Any:
        """Return a function that sends, and returns *value*.

        :raises OSError: if the system allows no new code in this process
        """
        layout = Layout(signature, asks=False)
        unpack = layout.unpack
        number = next(self._numbers)
        self._unpackers[number] = lambda record: (unpack(record), None, False)
        return self._make(signature, layout, number, value, asks=False, timeout=None)

    def ask(
        self,
        signature: Signature,
        value: Any,
        timeout: float | None,
        convert: Callable[[Any], Any],
    ) -> Any:
        """Return a function that asks, and returns the answer, or *value*. As ``tell``."""
        layout = Layout(signature, asks=True)
        unpack, pack_value, borrow = layout.unpack, layout.pack_value, _native.dss.borrow
        number = next(self._numbers)

        def encode(answer: Any) -> bytes:
            return pack_value(convert(answer))

        def unpack_question(record: Any) -> Unpacked:
            lent = WHOSE_AND_LENT.unpack_from(record)[1]
            if lent:
                record = borrow(lent)
                if not record:  # its asker has gone, and nobody will see the item
                    return (), None, False
            return unpack(record), encode, True

        self._unpackers[number] = unpack_question
        return self._make(signature, layout, number, value, asks=True, timeout=timeout)

    def _make(
        self,
        signature: Signature,
        layout: Layout,
        number: int,
        value: Any,
        *,
        asks: bool,
        timeout: float | None,
    ) -> Any:
        address = _native.dss.make_closure(
            self._sender.address,
            ITEM_SIZE,
            number,
            layout.arguments,
            layout.result,
            layout.parts,
            layout.pack_value(value),
            asks,
            -1.0 if timeout is None else timeout,
        )
        function = signature.prototype(address)
        function.native = True
        return function


def can_be_native(signature: Signature) -> bool:
    """Is there an extension module with libffi, and can it make this function?

    A prototype of ``ctypes.PYFUNCTYPE`` says that the caller holds the GIL, and goes on holding it:
    a function in C that waited would keep the hub from answering.
    """
    if signature.keeps_the_gil or not hasattr(_native.dss, "make_closure"):
        return False
    return len(signature.codes) <= int(_native.dss.MOST_ARGUMENTS)
