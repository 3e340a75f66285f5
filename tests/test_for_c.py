"""Functions of ctypes that a library in C calls with its own arguments.

They are called here through their addresses, as C does: ctypes does not know that it calls itself.
Each test runs with the extension module, and as if there were none.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import math
import os
import subprocess
import sys
import weakref
from ctypes import CFUNCTYPE, POINTER
from fractions import Fraction
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from c_threads import EXITS
from test_foreign import c_library

import dss_anyio as dss
from dss_anyio import _native
from dss_anyio.testing import threads

__all__ = ["c_library"]  # a fixture

FRAME = CFUNCTYPE(
    ctypes.c_int, ctypes.c_void_p, ctypes.c_int, POINTER(ctypes.c_uint8), ctypes.c_size_t
)
VETO = 7


class Point(ctypes.Structure):
    _fields_ = [("x", ctypes.c_int)]


class Opaque(ctypes.Structure):
    """What a library keeps to itself, and has pointers to."""


class Handle(ctypes.c_void_p):
    pass


class Convert:
    def __call__(self, answer: Any) -> Any: ...


class Told(list[Any]):
    def __call__(self, exc: BaseException, source: str | None) -> None:
        self.append((type(exc), source))


@pytest.fixture(autouse=True, params=["native", "in Python"])
def native(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Do the functions go without Python?"""
    if request.param == "in Python":
        monkeypatch.setattr(_native, "dss", None)
        return False
    if not hasattr(_native.dss, "make_closure"):
        pytest.skip("the extension module, with libffi, is not there")
    return True


def called(function: Any, *args: Any) -> Any:
    """What C gets that calls *function*, of which it knows the address and the prototype."""
    address = ctypes.cast(function, ctypes.c_void_p).value
    return type(function)(address)(*args)


def frame(*numbers: int) -> Any:
    return (ctypes.c_uint8 * len(numbers))(*numbers)


def test_the_arguments_are_the_item_and_a_buffer_is_copied_during_the_call(native: bool) -> None:
    with dss.open_polled_hub() as hub:
        callback = hub.portal.c_callback(FRAME, buffers={2: 3}, skip=(0,), returns=3)
        assert type(callback) is FRAME
        assert callback.native is native  # type: ignore[attr-defined]
        lent = frame(1, 0, 2)
        assert called(callback, 5, 17, lent, 3) == 3
        lent[:] = [9, 9, 9]
        assert called(callback, None, -1, None, 3) == 3
        assert hub.poll() == [(17, b"\x01\x00\x02", 3), (-1, None, 3)]


NUMBERS: list[tuple[Any, Any, Any]] = [  # the type, what C passes, what arrives
    *((kind, -3, -3) for kind in (ctypes.c_byte, ctypes.c_short, ctypes.c_int, ctypes.c_longlong)),
    *((kind, 200, 200) for kind in (ctypes.c_ubyte, ctypes.c_ushort, ctypes.c_uint)),
    (ctypes.c_ulonglong, 2**64 - 1, 2**64 - 1),
    (ctypes.c_long, -(2**31), -(2**31)),
    (ctypes.c_size_t, 2**32 - 1, 2**32 - 1),
    (ctypes.c_float, 0.5, 0.5),
    (ctypes.c_double, 0.1, 0.1),
    (ctypes.c_longdouble, 0.25, 0.25),
    (ctypes.c_bool, True, True),
    (ctypes.c_char, b"a", b"a"),
    (ctypes.c_wchar, "\u20ac", "\u20ac"),
    (ctypes.c_char_p, b"a text", b"a text"),
    (ctypes.c_char_p, None, None),
    (ctypes.c_wchar_p, "ein \u20ac", "ein \u20ac"),
    (ctypes.c_void_p, 4096, 4096),
    (ctypes.c_void_p, None, None),
    (Handle, Handle(4096), 4096),
    (POINTER(Point), ctypes.cast(4096, POINTER(Point)), 4096),
    (POINTER(Point), None, None),
    (CFUNCTYPE(None), CFUNCTYPE(None)(4096), 4096),
]


@pytest.mark.parametrize(("kind", "passed", "arrives"), NUMBERS)
def test_an_argument_of_each_type_arrives_between_others(
    kind: Any, passed: Any, arrives: Any
) -> None:
    prototype = CFUNCTYPE(None, ctypes.c_byte, kind, ctypes.c_double, kind)
    with dss.open_polled_hub() as hub:
        called(hub.portal.c_callback(prototype), 1, passed, 0.5, passed)
        called(hub.portal.c_callback(prototype, skip=(0, 2, 3)), 1, passed, 0.5, passed)
        whole, one = hub.poll()
        assert whole == (1, arrives, 0.5, arrives)
        assert one == (arrives,)
        assert type(one[0]) is type(arrives)


def test_a_function_without_arguments_sends_an_empty_tuple() -> None:
    with dss.open_polled_hub() as hub:
        assert called(hub.portal.c_callback(CFUNCTYPE(None))) is None
        assert hub.poll() == [()]


def test_a_length_counts_elements_of_the_type_that_is_pointed_to() -> None:
    prototype = CFUNCTYPE(
        None, POINTER(ctypes.c_int16), ctypes.c_int, ctypes.c_char_p, POINTER(Point)
    )
    samples = (ctypes.c_int16 * 2)(1, -1)
    with dss.open_polled_hub() as hub:
        callback = hub.portal.c_callback(prototype, buffers={0: 1, 2: 1, 3: 1}, skip=(1,))
        points = (Point * 2)(Point(3), Point(4))
        called(callback, samples, 2, b"a\0c", points)
        called(callback, samples, -2, b"a\0c", points)
        assert hub.poll() == [(bytes(samples), b"a\0", bytes(points)), (b"", b"", b"")]


RESULTS: list[tuple[Any, Any, Any]] = [
    (ctypes.c_int8, -128, -128),
    (ctypes.c_uint16, 65535, 65535),
    (ctypes.c_longlong, -(2**63), -(2**63)),
    (ctypes.c_float, 2, 2.0),
    (ctypes.c_double, ctypes.c_double(0.5), 0.5),
    (ctypes.c_bool, True, True),
    (ctypes.c_char, b"a", b"a"),
    (ctypes.c_void_p, 4096, 4096),
    (ctypes.c_void_p, 0, None),
    (ctypes.c_char_p, None, None),
    (None, None, None),
]


@pytest.mark.anyio
@pytest.mark.parametrize(("kind", "answer", "got"), RESULTS)
async def test_c_gets_what_was_chosen_or_answered_in_the_type_of_the_prototype(
    kind: Any, answer: Any, got: Any
) -> None:
    prototype = CFUNCTYPE(kind, ctypes.c_int)
    async with dss.open_hub[Any]() as hub:
        hub.task_group.start_soon(hub.serve, lambda _: answer)
        tell = hub.portal.c_callback(prototype, returns=answer)
        ask = hub.portal.c_request_callback(prototype, timeout=10, default=0)
        assert called(tell, 1) == got
        assert await anyio.to_thread.run_sync(called, ask, 1) == got


@pytest.mark.anyio
async def test_a_wrong_answer_is_an_error_here_and_the_default_there(native: bool) -> None:
    prototype = CFUNCTYPE(ctypes.c_int8, ctypes.c_char_p)
    told = Told()
    answers = {b"1": 1, b"none": None, b"text": "1", b"half": 0.5, b"large": 128, b"raises": 2}

    def handle(item: tuple[bytes]) -> Any:
        [text] = item
        if text == b"raises":
            raise LookupError
        return answers[text]

    async with dss.open_hub[Any](on_error=told) as hub:
        hub.task_group.start_soon(hub.serve, handle)
        portal = hub.register("device")
        ask = portal.c_request_callback(prototype, timeout=10, default=VETO)
        got = [await anyio.to_thread.run_sync(called, ask, item) for item in answers]
        twice = portal.c_request_callback(
            prototype, timeout=10, default=VETO, convert=lambda answer: 2 * answer
        )
        assert await anyio.to_thread.run_sync(called, twice, b"1") == 2
        assert called(ask, b"1") == VETO  # in the hub's own thread
        assert (ask.native, twice.native) == (native, native)  # type: ignore[attr-defined]
    assert got == [1, VETO, VETO, VETO, VETO, VETO]
    kinds: list[type[Exception]] = [TypeError, TypeError, TypeError, ValueError, LookupError]
    if not native:
        kinds.append(RuntimeError)  # a native one cannot say that the loop's thread has called
    assert told == [(kind, "device") for kind in kinds]


class Odd(BaseException):
    """As a panic, or a test framework's own."""


@pytest.mark.anyio
@pytest.mark.parametrize("error", [Odd, asyncio.CancelledError, SystemExit, KeyboardInterrupt])
@pytest.mark.parametrize("coroutine", [False, True])
async def test_whatever_convert_raises_is_told_here_and_the_default_there(
    error: type[BaseException], coroutine: bool
) -> None:
    told = Told()

    def convert(answer: object) -> Any:
        raise error

    async def handle_soon(item: object) -> int:
        return 1

    async with dss.open_hub[Any](on_error=told) as hub:
        hub.task_group.start_soon(hub.serve, handle_soon if coroutine else lambda item: 1)
        portal = hub.register("device")
        fails = portal.c_request_callback(FRAME, timeout=10, default=VETO, convert=convert)
        goes_on = portal.c_request_callback(FRAME, timeout=10, default=VETO)
        got = [
            await anyio.to_thread.run_sync(called, ask, None, 1, None, 0)
            for ask in (fails, goes_on)
        ]
        assert got == [VETO, 1]
    assert told == [(error, "device")]


def test_who_keeps_the_gil_is_answered_all_the_same() -> None:
    """A prototype of PYFUNCTYPE; a function in C that waits would keep the hub from answering."""
    prototype = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_int)
    with dss.open_polled_hub() as hub:
        ask = hub.portal.c_request_callback(prototype, timeout=20, default=VETO)
        got: list[int] = []
        with threads(lambda: got.append(called(ask, 5))):
            assert hub.wait(10)
            hub.dispatch(lambda item: item[0] + 1)
        assert got == [6]


def test_at_the_end_what_the_hubs_own_functions_have_sent_is_undelivered_without_an_error() -> None:
    told = Told()
    with dss.open_polled_hub(on_error=told) as hub:
        function = hub.portal.c_callback(FRAME)
        for number in range(3):
            called(function, None, number, None, 0)
    assert (hub.statistics().undelivered, told) == (3, [])


@pytest.mark.anyio
async def test_so_it_is_in_an_event_loop_whatever_was_made_first(native: bool) -> None:
    told = Told()
    async with dss.open_hub[Any](on_error=told) as hub:
        if native:
            hub.portal.native_sender()
        await anyio.sleep(0.01)
        called(hub.portal.c_callback(FRAME), None, 1, None, 0)
        called(hub.register("other").c_callback(FRAME), None, 2, None, 0)
    assert (hub.statistics().undelivered, told) == (2, [])


def test_a_buffer_may_be_longer_than_an_int_can_say(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = Told()
    with dss.open_polled_hub(on_error=told) as hub:
        function = hub.portal.c_callback(FRAME, buffers={2: 3})
        called(function, None, 1, frame(1), 2**64 - 1)  # nothing is that long
        assert hub.poll() == []
        if native:
            assert (hub.statistics().dropped, told) == (1, [])
            return
        assert told == [(OverflowError, None)]
        monkeypatch.setattr("dss_anyio._portal.signature._LONGEST_STRING", 2)
        called(function, None, 1, frame(1, 0, 2, 3), 4)
        assert hub.poll() == [(None, 1, b"\x01\x00\x02\x03", 4)]


def test_a_question_that_nobody_answers_in_time_gets_the_default() -> None:
    told = Told()
    with dss.open_polled_hub(on_error=told) as hub:
        ask = hub.portal.c_request_callback(FRAME, timeout=0.001, default=VETO, buffers={2: 3})
        got: list[int] = []
        with threads(lambda: got.append(called(ask, None, 1, frame(1), 1))):
            pass
        assert got == [VETO]
        assert hub.poll() == []
    assert told == []


def test_without_room_the_item_is_dropped_and_counted(native: bool) -> None:
    handed_back: list[Any] = []
    with dss.open_polled_hub(1) as hub:
        portal = hub.register("device", on_undelivered=handed_back.append)
        callback = portal.c_callback(FRAME, buffers={2: 3}, skip=(0, 3))
        assert [called(callback, None, number, frame(number), 1) for number in (1, 2)] == [0, 0]
        assert hub.poll() == [(1, b"\x01")]
        assert hub.statistics().sources["device"][:4] == (1, 0, 1, 0)
    assert handed_back == ([] if native else [(2, b"\x02")])


def test_the_item_goes_through_the_sources_decode() -> None:
    with dss.open_polled_hub() as hub:
        portal = hub.register("device", decode=lambda item: sum(item[1]))
        called(portal.c_callback(FRAME, buffers={2: 3}, skip=(0,)), None, 1, frame(3, 4), 2)
        assert hub.poll() == [7]


@pytest.mark.parametrize("end", ["close", "abort", "the hub's"])
def test_after_the_end_c_gets_the_same_and_the_call_is_counted(end: str) -> None:
    with dss.open_polled_hub() as hub:
        portal = hub.register("device")
        tell = portal.c_callback(FRAME, returns=3)
        ask = portal.c_request_callback(FRAME, timeout=None, default=VETO)
        if end != "the hub's":
            getattr(portal, end)()
            assert (called(tell, 1, 1, None, 0), called(ask, 1, 1, None, 0)) == (3, VETO)
            assert hub.statistics().late == 2
    assert (called(tell, 1, 1, None, 0), called(ask, 1, 1, None, 0)) == (3, VETO)
    assert hub.statistics().late == (2 if end == "the hub's" else 4)


def test_what_c_calls_stays_although_nobody_keeps_it_and_holds_nothing_of_an_ended_hub() -> None:
    with dss.open_polled_hub() as hub:
        convert = Convert()
        addresses = [
            ctypes.cast(callback, ctypes.c_void_p).value
            for callback in (
                hub.portal.c_callback(FRAME, returns=3),
                hub.portal.c_request_callback(FRAME, timeout=0, default=4, convert=convert),
            )
        ]
        gone = [weakref.ref(convert), weakref.ref(hub)]
        del convert
        gc.collect()
        assert FRAME(addresses[0])(None, 1, None, 0) == 3
        assert hub.poll() == [(None, 1, None, 0)]
    del hub
    gc.collect()
    assert [each() for each in gone] == [None, None]
    assert [FRAME(address)(None, 1, None, 0) for address in addresses] == [3, 4]


def test_what_is_made_after_the_end_holds_nothing_either() -> None:
    with dss.open_polled_hub() as hub:
        pass
    convert = Convert()
    ask = hub.portal.c_request_callback(FRAME, timeout=0, default=4, convert=convert)
    assert called(ask, None, 1, None, 0) == 4
    assert hub.statistics().late == 1
    gone = [weakref.ref(convert), weakref.ref(hub)]
    del convert, hub
    gc.collect()
    assert [each() for each in gone] == [None, None]


@pytest.mark.anyio
async def test_threads_of_c_call_it(c_library: ctypes.CDLL) -> None:
    prototype = CFUNCTYPE(None, ctypes.c_int, ctypes.c_int)
    received: list[Any] = []
    async with dss.open_hub[Any](4000) as hub:
        callback = hub.portal.c_callback(prototype)
        pool = c_library.pool_start(callback, 4, 1000, 0)
        del callback
        async for item in hub:
            received.append(item)
            if len(received) == 4000:
                break
        await anyio.to_thread.run_sync(c_library.pool_join, pool)
    c_library.pool_free(ctypes.c_void_p(pool))
    for thread in range(4):
        assert [number for of, number in received if of == thread] == list(range(1000))


# -- What is wrong is said at once -----------------------------------------------------------------

Variadic: Any = type("Variadic", (FRAME.__mro__[1],), {"_flags_": 1, "_restype_": ctypes.c_int})
WRONG: list[tuple[Any, dict[str, Any], type[Exception], str]] = [
    (print, {}, TypeError, "a class that ctypes.CFUNCTYPE"),
    (FRAME(1), {}, TypeError, "a class that ctypes.CFUNCTYPE"),
    (ctypes.c_int, {}, TypeError, "a class that ctypes.CFUNCTYPE"),
    (Variadic, {}, TypeError, "variadic"),
    (CFUNCTYPE(None, ctypes.c_int, Point), {}, TypeError, "argument 1.*let C pass a pointer"),
    (CFUNCTYPE(Point), {}, TypeError, "the result.*let C pass a pointer"),
    (CFUNCTYPE(None, ctypes.py_object), {}, TypeError, "argument 0: .*py_object.*use c_void_p"),
    (CFUNCTYPE(None, ctypes.c_int * 3), {}, TypeError, "argument 0.*use ctypes.POINTER"),
    (CFUNCTYPE(None, ctypes.c_int.__ctype_be__), {}, TypeError, "argument 0.*use c_int"),
    (CFUNCTYPE(ctypes.c_wchar), {}, TypeError, "the result.*use c_uint"),
    (CFUNCTYPE(POINTER(Point)), {}, TypeError, "the result.*use c_void_p"),
    (CFUNCTYPE(CFUNCTYPE(None)), {}, TypeError, "the result.*use c_void_p"),
    (FRAME, {"buffers": {2: 3}, "skip": 0}, TypeError, "skip must be"),
    (FRAME, {"skip": "0"}, TypeError, "skip must be"),
    (FRAME, {"skip": (0.0,)}, TypeError, "skip: the index"),
    (FRAME, {"skip": (4,)}, ValueError, "skip: there is no argument 4, of 4"),
    (FRAME, {"skip": (-1,)}, ValueError, "skip: there is no argument -1"),
    (FRAME, {"buffers": (2, 3)}, TypeError, "buffers must be a mapping"),
    (FRAME, {"buffers": {2: 4}}, ValueError, "buffers: there is no argument 4"),
    (FRAME, {"buffers": {2: "3"}}, TypeError, "buffers: the index"),
    (FRAME, {"buffers": {1: 3}}, TypeError, "argument 1 is no pointer"),
    (FRAME, {"buffers": {2: 0}}, TypeError, "argument 0 is no length"),
    (FRAME, {"buffers": {2: 3}, "skip": (2,)}, ValueError, "argument 2 is skipped as well"),
    (
        CFUNCTYPE(None, CFUNCTYPE(None), ctypes.c_int),
        {"buffers": {0: 1}},
        TypeError,
        "nobody knows how long",
    ),
    *(
        (
            CFUNCTYPE(None, POINTER(without_size), ctypes.c_int),
            {"buffers": {0: 1}},
            TypeError,
            "nobody knows how long",
        )
        for without_size in (Opaque, ctypes.c_int * 0)
    ),
]
WRONG_RESULTS: list[tuple[Any, Any, type[Exception]]] = [
    *((ctypes.c_int, value, TypeError) for value in (None, "0", 0.0, b"0")),
    (ctypes.c_int, 2**31, ValueError),
    (ctypes.c_uint, -1, ValueError),
    (ctypes.c_double, "0", TypeError),
    (ctypes.c_double, 10**400, ValueError),
    (ctypes.c_float, 1e39, ValueError),
    (ctypes.c_char, b"12", TypeError),
    (ctypes.c_char, 256, ValueError),
    (ctypes.c_char_p, b"text", TypeError),
    (ctypes.c_void_p, -1, ValueError),
    (None, 1, TypeError),
]


@pytest.mark.parametrize(("prototype", "keywords", "kind", "says"), WRONG)
def test_what_is_wrong_with_a_prototype_is_said_at_once(
    prototype: Any, keywords: dict[str, Any], kind: type[Exception], says: str
) -> None:
    with dss.open_polled_hub() as hub:
        with pytest.raises(kind, match=says):
            hub.portal.c_callback(prototype, **keywords)
        with pytest.raises(kind, match=says):
            hub.portal.c_request_callback(prototype, timeout=1, default=0, **keywords)


@pytest.mark.parametrize(("result", "value", "kind"), WRONG_RESULTS)
def test_what_c_cannot_get_is_refused_at_once(
    result: Any, value: Any, kind: type[Exception]
) -> None:
    with dss.open_polled_hub() as hub:
        with pytest.raises(kind):
            hub.portal.c_callback(CFUNCTYPE(result), returns=value)
        with pytest.raises(kind):
            hub.portal.c_request_callback(CFUNCTYPE(result), timeout=1, default=value)


@pytest.mark.parametrize("kind", [ctypes.c_float, ctypes.c_double])
@pytest.mark.parametrize("value", [Fraction(1, 4), math.inf, True])
def test_any_real_number_is_a_floating_one(kind: Any, value: Any) -> None:
    with dss.open_polled_hub() as hub:
        assert called(hub.portal.c_callback(CFUNCTYPE(kind), returns=value)) == float(value)


async def coroutine(answer: Any) -> None: ...


@pytest.mark.parametrize(
    ("wrong", "kind"),
    [
        ({"timeout": -1}, ValueError),
        ({"timeout": "1"}, TypeError),
        ({"convert": coroutine}, TypeError),
        ({"convert": 1}, TypeError),
    ],
)
def test_the_rest_is_looked_at_at_once_as_well(wrong: Any, kind: type[Exception]) -> None:
    with dss.open_polled_hub() as hub, pytest.raises(kind):
        hub.portal.c_request_callback(FRAME, **{"timeout": 1, "default": 0, **wrong})


# -- Without Python --------------------------------------------------------------------------------


def test_what_a_thread_tells_comes_before_what_it_asks_then() -> None:
    prototype = CFUNCTYPE(ctypes.c_int, ctypes.c_int)
    got: list[int] = []
    with dss.open_polled_hub(math.inf) as hub:
        tell = hub.portal.c_callback(prototype)
        ask = hub.portal.c_request_callback(prototype, timeout=20, default=-1)

        def thread() -> None:
            for number in range(0, 400, 2):
                called(tell, number)
                got.append(called(ask, number + 1))

        received: list[int] = []
        with threads(thread):
            while len(received) < 400:
                hub.wait(1)
                for item in hub.poll():
                    request = isinstance(item, dss.Request)
                    received += item.item if request else item
                    if request:
                        item.reply(len(received))
    assert received == list(range(400))
    assert got == list(range(2, 401, 2))


@pytest.mark.anyio
@pytest.mark.parametrize("size", [100, 500, 100_000])
async def test_a_buffer_may_have_any_length(size: int) -> None:
    sent = bytes(range(256)) * (size // 256 + 1)
    buffer = (ctypes.c_uint8 * size).from_buffer_copy(sent)
    received: list[bytes] = []

    def handle(item: tuple[int, bytes, int]) -> int:
        received.append(item[1])
        return item[2]

    async with dss.open_hub[Any]() as hub:
        hub.task_group.start_soon(hub.serve, handle)
        tell = hub.portal.c_callback(FRAME, buffers={2: 3}, skip=(0,))
        ask = hub.portal.c_request_callback(
            FRAME, buffers={2: 3}, skip=(0,), timeout=10, default=-1
        )
        assert await anyio.to_thread.run_sync(called, tell, None, 1, buffer, size) == 0
        assert await anyio.to_thread.run_sync(called, ask, None, 1, buffer, size) == size
    assert received == [sent[:size]] * 2


def test_a_long_question_that_nobody_answers_in_time_is_not_read_any_more() -> None:
    buffer = (ctypes.c_uint8 * 10_000)()
    with dss.open_polled_hub() as hub:
        ask = hub.portal.c_request_callback(FRAME, buffers={2: 3}, timeout=0.01, default=VETO)
        got: list[int] = []
        with threads(lambda: got.append(called(ask, None, 1, buffer, 10_000))):
            pass
        assert got == [VETO]
        assert hub.poll() == []
        counts = hub.statistics()
    assert (counts.undelivered, counts.errors) == (1, 0)


def test_errno_is_as_it_was(native: bool) -> None:
    if not native:
        pytest.skip("ctypes does not keep it")
    prototype = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, use_errno=True)
    with dss.open_polled_hub() as hub:
        callback = hub.portal.c_callback(prototype)
        for text in (b"short", b"x" * 1000):
            ctypes.set_errno(17)
            called(callback, text)
            assert ctypes.get_errno() == 17


def test_threads_of_c_call_it_while_the_gil_is_held_by_one_who_waits_for_them(
    native: bool, c_library: ctypes.CDLL
) -> None:
    """The lock inversion. With a function of ctypes this hangs for ever."""
    if not native:
        pytest.skip("hangs for ever")
    holds_the_gil = ctypes.PyDLL(c_library._name)
    holds_the_gil.pool_join.argtypes = [ctypes.c_void_p]
    with dss.open_polled_hub(4000) as hub:
        callback = hub.portal.c_callback(CFUNCTYPE(None, ctypes.c_int, ctypes.c_int))
        pool = c_library.pool_start(callback, 4, 1000, 0)
        holds_the_gil.pool_join(pool)
        c_library.pool_free(ctypes.c_void_p(pool))
        assert len(hub.poll()) == 4000


AT_EXIT = """
import ctypes, sys, threading
import dss_anyio as dss

library = ctypes.CDLL(sys.argv[1])
library.pool_start.restype = ctypes.c_void_p
library.pool_returned.restype = ctypes.c_long
library.pool_returned.argtypes = [ctypes.c_void_p]
hub = dss.open_polled_hub()
portal = hub.__enter__().register("pool")
CB = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_int)
callback = portal.c_callback(CB)
assert callback.native
pool = library.pool_start(callback, 3, -1, 0)
library.pool_watch_exit(ctypes.c_void_p(pool))
while library.pool_returned(pool) < 10_000:
    hub.poll()
"""


@pytest.mark.timeout(60 + 20 * EXITS)
def test_python_may_exit_while_c_calls(native: bool, c_library: ctypes.CDLL) -> None:
    if not native:
        pytest.skip("Python ends these threads inside of their callbacks")
    for _ in range(EXITS):
        done = subprocess.run(
            [sys.executable, "-c", AT_EXIT, str(c_library._name)],
            env={**os.environ, "PYTHONPATH": str(Path(dss.__file__).parents[1])},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert (done.returncode, done.stdout) == (0, "all threads go on\n"), done.stderr


# -- A bound of its own ----------------------------------------------------------------------------

NUMBER = CFUNCTYPE(None, ctypes.c_int)


@pytest.mark.parametrize(
    ("overflow", "arrive"), [("block", [1, 2]), ("drop_newest", [1, 2]), ("drop_oldest", [3, 4])]
)
def test_a_function_may_have_a_bound_and_a_policy_of_its_own(overflow: Any, arrive: Any) -> None:
    with dss.open_polled_hub(4) as hub:
        portal = hub.register("device")
        bounded: Any = portal.c_callback(NUMBER, max_buffer_size=2, overflow=overflow)
        for number in (1, 2, 3, 4):
            called(bounded, number)
        portal.send_many([5, 6, 7, 8])  # it has taken no place of the hub's
        assert sorted(hub.poll(), key=str) == [*((number,) for number in arrive), 5, 6, 7, 8]
        called(bounded, 9)
        assert hub.poll() == [(9,)]
        assert hub.statistics().sources["device"][:4] == (7, 0, 2, 0)


def test_one_of_the_two_alone_is_enough() -> None:
    with dss.open_polled_hub(3, overflow="drop_oldest") as hub:
        few: Any = hub.portal.c_callback(NUMBER, max_buffer_size=1)
        many: Any = hub.portal.c_callback(NUMBER, overflow="drop_newest")
        for number in range(5):
            called(few, number)
        assert hub.poll() == [(4,)]
        for number in range(5):
            called(many, number)
        assert hub.poll() == [(0,), (1,), (2,)]


@pytest.mark.parametrize("end", ["close", "abort", "the hub's"])
def test_a_function_with_a_bound_of_its_own_ends_with_its_portal(end: str) -> None:
    handed_back: list[Any] = []
    with dss.open_polled_hub() as hub:
        portal = hub.register("device", on_undelivered=handed_back.append)
        tell: Any = portal.c_callback(NUMBER, max_buffer_size=2)
        called(tell, 1)
        called(tell, 2)
        if end != "the hub's":
            getattr(portal, end)()
            called(tell, 3)
            assert hub.statistics().late == 1
        if end == "close":
            assert hub.poll() == [(1,), (2,)]
            hub.portal.close()
            with pytest.raises(anyio.EndOfStream):
                hub.poll()
        elif end == "abort":
            assert handed_back == [(1,), (2,)]
    assert handed_back == ([] if end == "close" else [(1,), (2,)])
    called(tell, 4)
    assert hub.statistics().late == (1 if end == "the hub's" else 2)


@pytest.mark.parametrize(
    "wrong",
    [
        *({"max_buffer_size": value} for value in (0, -1, 1.5, True, math.inf, 2**24 + 1)),
        {"overflow": "drop"},
    ],
)
def test_a_bound_that_cannot_be_is_refused_at_once(wrong: dict[str, Any]) -> None:
    with dss.open_polled_hub() as hub, pytest.raises(ValueError):
        hub.portal.c_callback(NUMBER, **wrong)
