"""What a portal gives to C: functions that a library calls with its own arguments.

C may call such a function at any time, also long after the hub is gone, and nobody can know which
call was the last. So each of them stays for as long as the process, a
kilobyte or so. What it holds of its hub goes with the end of the hub.

Where the extension module has libffi, such a function never enters Python (``in_c``). Elsewhere it
is one of ctypes, and does the same through Python: that is what stands here.

Through Python, ctypes makes a thread state for each call by a thread that Python has not started,
and deletes it when the call returns. We leave it at that. To keep it (one more
``PyGILState_Ensure`` in the first call of a thread) would make a call several times as fast, but:

- Each ensure needs a release in the same thread, and C does not tell us when its thread ends.
  Without it, each thread that ends leaves its state behind for ever: 4 KB (measured, 3.11 to 3.13);
  and there are libraries that make a thread for each call.
- A destructor of pthreads could release it, but needs the GIL for that, in a thread that is ending.
  Whoever joins that thread while it holds the GIL would wait for ever.
- ``PyGILState_Ensure`` makes a state for the main interpreter, whichever one the hub is in.
- At the exit of Python it changes nothing: a thread that attaches then is stopped in either case.
- ``threading.local`` and the context would keep their values from one callback to the next (tried).

In C (``in_c``) there is neither a state nor the GIL, so that is the way for those who need speed.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

from anyio import BrokenResourceError, ClosedResourceError

from .._core.functions import check_plain
from .._core.mailbox import Mailbox
from .._core.policies import Overflow, overflow_of
from .._core.source import Lane
from .._loops.slices import check_timeout
from .asking import Asker, T_contra
from .callbacks import make_request_callback, make_send_callback
from .in_c import MOST_ITEMS, Functions, can_be_native
from .native import NativeSender, check_bound, open_native, usual_limit
from .signature import Signature

T_Function = TypeVar("T_Function")

_for_ever: list[object] = []  # what C may still call


class ForC(Asker[T_contra]):
    """The base of :class:`Portal` that C calls."""

    def c_callback(
        self,
        prototype: type[T_Function],
        *,
        buffers: Mapping[int, int] | None = None,
        skip: Iterable[int] = (),
        returns: Any = 0,
        max_buffer_size: int | None = None,
        overflow: Overflow | None = None,
    ) -> T_Function:
        """Return a function for C, an instance of *prototype*, which sends its arguments.

        A *prototype* is what ``ctypes.CFUNCTYPE`` returns. C may call the function from any thread,
        for ever, and you need not keep it. It never waits and always returns *returns*, accepted
        or not, as :meth:`send_callback` does. Without room the item is dropped and counted.

        The item is the tuple of the arguments, without those whose indexes are in *skip*. Numbers
        are ints and floats, a ``c_char_p`` is the bytes before its NUL, other pointers are their
        addresses, NULL is None. *buffers* says which pointers lead to a number of bytes (or of
        elements of the pointer's type) that another argument has: with ``{2: 3}`` argument 2
        becomes bytes, as long as argument 3 says. All is copied during the call. The ``decode`` of
        the source makes of the tuple what the program wants.

        With *max_buffer_size* or *overflow*, the function has a bound of its own: how many of its
        items may wait, and what is done with one that finds no room (the policies are those of
        :func:`open_hub`). If only one is given, the other one is as the portal's.

        Its attribute ``native`` says whether it does all that without Python: without the GIL, and
        without an end when Python exits, see :doc:`native`. Then it has a queue of its own beside
        that of the portal (one for all such functions of a portal, which keeps the order of each
        thread), with as many places, but at most 16384. And an item that is dropped for want of
        room is not handed to ``on_undelivered``: it was never an object of Python, and no thread
        that may make one knows of it. ``dropped`` counts it. If the library must know, or nothing
        may be lost, its callback calls ``dss_send`` or ``dss_send_wait`` (:meth:`native_sender`).

        What *prototype* cannot have: structures or unions by value (let C pass a pointer), arrays
        (C passes the address: ``POINTER`` of the element), numbers of the other byte order, objects
        of Python, complex numbers; and, as its result, a pointer of a type of its own or a function
        (return the address as ``c_void_p``) or a ``c_wchar`` (an integer of its size). Arguments
        may be pointers of any type, and functions: the item has the address.

        :raises TypeError: if *prototype* is none, or has such a type; if *returns* is not of its
            type; if *buffers* or *skip* names no arguments, or wrong ones
        :raises ValueError: if there is no such argument, or *returns* is out of the type's range;
            if *max_buffer_size* is not from 1 to 2**24, or *overflow* is unknown
        """
        signature = Signature(prototype, buffers, skip)
        answer = signature.check_constant(returns)
        check_bound(max_buffer_size, overflow)
        functions = self._functions(signature, max_buffer_size, overflow)
        if functions is not None:
            try:
                told: T_Function = functions.tell(signature, answer)
                return told
            except OSError:
                pass  # the system allows no new code; ctypes has code of its own
        lane = self._lane
        if max_buffer_size is not None or overflow is not None:
            lane = self._branch(max_buffer_size, overflow)
        body = make_send_callback(self._mailbox, lane, signature.packer(), answer)
        if lane is not self._lane:
            body = _beside(self._mailbox, self._lane, body, answer)
        function: T_Function = _function(self._mailbox, signature, body, answer)
        return function

    def c_request_callback(
        self,
        prototype: type[T_Function],
        *,
        timeout: float | None,
        default: Any,
        convert: Callable[[Any], Any] | None = None,
        buffers: Mapping[int, int] | None = None,
        skip: Iterable[int] = (),
    ) -> T_Function:
        """Return a function for C, an instance of *prototype*, which asks and returns the answer.

        It is as that of :meth:`c_callback`, but it waits for the answer, at most *timeout* seconds
        (None: as long as it takes), and C gets *default* where :meth:`request` would raise. The
        answer, or what *convert* makes of it, has to be of the type that *prototype* returns: if it
        is not, C gets *default* and ``on_error`` a TypeError or ValueError. If *prototype* returns
        nothing, the function waits all the same. In the hub's own thread, where nobody would
        answer, C gets *default* at once. *convert* is called in the library's thread, or, if the
        function is native, in the one that answers; whatever it raises is reported to ``on_error``.
        A native function waits without the GIL, so its caller must not hold that: if it does
        (``ctypes.PYFUNCTYPE``), the function goes through Python.

        :raises TypeError: as :meth:`c_callback`; if *default* is not of the type of the result; if
            *convert* is not callable, or is a coroutine function
        :raises ValueError: as :meth:`c_callback`; if *timeout* is negative
        """
        signature = Signature(prototype, buffers, skip)
        value = signature.check_constant(default)
        check_plain("convert", convert)
        limit = check_timeout(timeout)

        def checked(answer: Any) -> Any:
            return signature.check(answer if convert is None else convert(answer))

        functions = self._functions(signature)
        if functions is not None:
            try:
                asked: T_Function = functions.ask(signature, value, limit, checked)
                return asked
            except OSError:
                pass
        body = make_request_callback(
            self._mailbox,
            self._lane,
            partial(self.request, timeout=limit),
            signature.packer(),
            value,
            checked,
        )
        function: T_Function = _function(self._mailbox, signature, body, value)
        return function

    def _functions(
        self,
        signature: Signature,
        max_buffer_size: int | None = None,
        overflow: Overflow | None = None,
    ) -> Functions | None:
        """Where functions of C are made that never enter Python; None if there can be none."""
        if not can_be_native(signature):
            return None
        shared = max_buffer_size is None and overflow is None
        made: Functions | None = self.__dict__.get("_in_c") if shared else None
        if made is None:
            try:
                new = Functions(self._mailbox, self._lane, max_buffer_size, overflow)
            except (OSError, RuntimeError, MemoryError, ClosedResourceError, BrokenResourceError):
                return None  # no means, a hub that is not open, or one that is open no more
            if not shared:
                return new
            # Two threads may make one each; the one that comes second ends with the portal, unused.
            made = self.__dict__.setdefault("_in_c", new)
        return made

    def _branch(self, max_buffer_size: int | None, overflow: Overflow | None) -> Lane:
        """A lane with places of its own beside the portal's, for a function through Python."""
        lane = self._lane
        if max_buffer_size is None:
            max_buffer_size = usual_limit(lane, MOST_ITEMS)
        if overflow is None:
            overflow = overflow_of(lane.places)
        branch = self._mailbox.keep_lane(lane.source, max_buffer_size, overflow)
        self.__dict__.setdefault("_branches", []).append(branch)  # for ``Portal.abort``
        return branch

    def native_sender(
        self,
        max_buffer_size: int | None = None,
        *,
        item_size: int = 256,
        overflow: Overflow | None = None,
    ) -> NativeSender:
        """Return a sender for threads that never enter Python: C, C++, Rust, Cython, numba.

        They call the functions of ``dss_anyio.h``, see :doc:`native`, with its ``address`` or its
        ``capsule``: without the GIL, from any thread, for ever. It belongs to this portal: what
        ends the portal ends it, and what comes by it is of the same source, passes through its
        ``decode``, goes to its ``on_undelivered`` and counts in its statistics. Received are bytes,
        read-only memoryviews (of what was given without a copy) and :class:`Request`.

        From any thread; never waits. It has a queue of its own, whose memory, for all its places,
        is taken in this call and freed after the end of the portal. There is no order between that
        and what is sent through the portal itself.

        :param max_buffer_size: how many items may wait in it, from 1 to 2**24; None for as many as
            the portal has places for, but at most 1024
        :param item_size: how many bytes an item may have that is copied, at most 2**20
        :param overflow: as for :func:`open_hub`; None: as the hub's. Of what is dropped in a thread
            that must not enter Python, ``on_undelivered`` does not hear: a copy is freed, memory
            that was given is released
        :raises ImportError: if the extension module was not built; the message names the remedy
        :raises ValueError: if a size cannot be, or the policy is unknown
        :raises MemoryError: if there is not enough for the queue
        :raises OSError: if there is no descriptor left to wake the hub with
        :raises RuntimeError: if the hub is not open
        :raises anyio.ClosedResourceError: if this portal is closed
        :raises anyio.BrokenResourceError: if the hub has ended
        """
        return open_native(self._mailbox, self._lane, max_buffer_size, item_size, overflow)


def _beside(
    mailbox: Mailbox, lane: Lane, body: Callable[..., Any], value: object
) -> Callable[..., Any]:
    """Let *body*, which sends through a lane that is kept beside *lane*, end with that.

    A call that has read that *lane* is open may put its item even after the end: see
    ``Mailbox.sweep``.
    """
    late = mailbox.books.counts["late"]

    def call(*args: Any) -> Any:
        if lane.refusal is not None:
            late.add_one()
            return value
        return body(*args)

    return call


def _function(
    mailbox: Mailbox, signature: Signature, body: Callable[..., Any], value: object
) -> Any:
    """Return what C calls: *body* as long as the hub is, then a function that returns *value*."""
    late = mailbox.books.counts["late"]
    bodies = [body]

    def call(*args: Any) -> Any:
        try:
            called = bodies[0]  # one step: the end of the hub takes it out in another
        except IndexError:
            late.add_one()
            return value
        return called(*args)

    plain = signature.plain_prototype()(call)
    function = signature.prototype(ctypes.cast(plain, ctypes.c_void_p).value)
    function.native = False
    _for_ever.append(plain)
    mailbox.lend(bodies)
    return function
