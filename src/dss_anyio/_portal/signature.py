"""What a prototype of ctypes says: what the item is made of, and what C may get back.

A prototype is what ``ctypes.CFUNCTYPE`` returns. All that is wrong with one, or with what was said
about its arguments, is found out here, when the callback is made: later on, only the library could
be told, and it would not understand.

The item, whichever way it comes, is the tuple of the arguments without those that are skipped:

- an integer is an int, a floating number a float, a ``c_bool`` a bool, a ``c_char`` one byte
- a ``c_char_p`` is the bytes before its NUL (a ``c_wchar_p``: a str)
- a buffer is as many bytes as its length says: the length counts elements of the pointer's type,
  which are bytes unless that type says something else; a negative one counts as 0
- any other pointer, also one to a function, is its address, an int
- a NULL pointer of any kind is None

Strings and buffers are copied during the call.

Refused are the types that have no such meaning, or that a thread without the GIL cannot handle; the
error names what to declare instead (``_remedy``): structures and unions by value, arrays, numbers
of the other byte order, objects of Python, complex numbers, and what only Windows has; as results
also pointers of a type of their own, functions, and ``c_wchar``.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from collections.abc import Callable, Iterable, Mapping
from numbers import Real
from operator import index, itemgetter
from typing import Any, NamedTuple, cast

SIGNED, UNSIGNED, FLOATING = "bhilq", "BHILQ", "fdg"
INTEGERS = SIGNED + UNSIGNED
TEXTS = "zZ"  # char * and wchar_t *, up to their NUL
POINTER, VOID = "P", ""

# By the letter that ctypes has for it. Not there are objects of Python, which a thread without the
# GIL cannot touch, and what only Windows or a newer ctypes has.
_PLAIN: dict[str, Any] = {
    kind._type_: kind
    for kind in cast(
        "tuple[Any, ...]",
        (
            *(ctypes.c_longlong, ctypes.c_ulonglong),  # where they are longs, the longs win
            *(ctypes.c_byte, ctypes.c_short, ctypes.c_int, ctypes.c_long),
            *(ctypes.c_ubyte, ctypes.c_ushort, ctypes.c_uint, ctypes.c_ulong),
            *(ctypes.c_float, ctypes.c_double, ctypes.c_longdouble),
            *(ctypes.c_bool, ctypes.c_char, ctypes.c_wchar),
            *(ctypes.c_char_p, ctypes.c_wchar_p, ctypes.c_void_p),
        ),
    )
}
_POINTERS = POINTER + TEXTS
_ctypes: Any = ctypes  # of whose classes only the instances have public names
_base, _pointer, _simple = _ctypes._CFuncPtr, _ctypes._Pointer, _ctypes._SimpleCData
_LONGEST_STRING = 2**31 - 1  # ``string_at`` takes the length as an int of C
_NATIVE = "__ctype_le__" if sys.byteorder == "little" else "__ctype_be__"


class Part(NamedTuple):
    """A part of the item."""

    at: int  # the index of its argument
    code: str  # of its type, a letter; POINTER for all that are passed on as an address
    length: int | None = None  # for a buffer: the index of its length,
    size: int = 1  # and how many bytes an element has


class Signature:
    """A prototype, understood."""

    def __init__(
        self, prototype: Any, buffers: Mapping[int, int] | None, skip: Iterable[int]
    ) -> None:
        """Raises TypeError or ValueError, see ``Portal.c_callback``."""
        if not (isinstance(prototype, type) and issubclass(prototype, _base)):
            raise TypeError(
                "a callback for C is made from a prototype, a class that ctypes.CFUNCTYPE() has "
                f"returned, not from {prototype!r}"
            )
        kind: Any = prototype
        arguments: tuple[Any, ...] | None = getattr(kind, "_argtypes_", None)
        if arguments is None:
            raise TypeError(
                f"{prototype!r} does not say which arguments there are (a variadic function has no "
                "callback of its own); make a prototype with ctypes.CFUNCTYPE()"
            )
        self.prototype: Any = prototype
        self.codes: list[str] = [_code(each, f"argument {i}") for i, each in enumerate(arguments)]
        result = kind._restype_
        self.result: str = VOID if result is None else _code(result, "the result")
        if self.result == "u" or (
            self.result == POINTER and getattr(result, "_type_", None) != POINTER
        ):
            instead = "c_void_p, and return the address as an int"
            if self.result == "u":
                instead = f"c_uint{8 * size_of('u')}, and return the number of the character"
            raise TypeError(f"the result: a callback cannot return {result!r}; use {instead}")
        self.keeps_the_gil: bool = bool(kind._flags_ & _ctypes._FUNCFLAG_PYTHONAPI)
        self.parts: list[Part] = list(self._parts(arguments, buffers or {}, skip))

    def _parts(
        self, arguments: tuple[Any, ...], buffers: Mapping[int, int], skip: Iterable[int]
    ) -> Iterable[Part]:
        skipped = {self._index(each, "skip") for each in _all_of(skip, "skip")}
        lengths: dict[int, int] = {}
        if not isinstance(buffers, Mapping):
            raise TypeError(
                f"buffers must be a mapping such as {{2: 3}}, index of the pointer: index of its "
                f"length, not {buffers!r}"
            )
        for both in buffers.items():
            pointer, length = (self._index(each, "buffers") for each in both)
            if self.codes[pointer] not in _POINTERS:
                raise TypeError(f"buffers: argument {pointer} is no pointer: {arguments[pointer]}")
            if self.codes[length] not in INTEGERS:
                raise TypeError(f"buffers: argument {length} is no length: {arguments[length]}")
            if pointer in skipped:
                raise ValueError(f"buffers: argument {pointer} is skipped as well")
            lengths[pointer] = length
        for i, code in enumerate(self.codes):
            if i in lengths:
                yield Part(i, POINTER, lengths[i], _size_of_element(arguments[i], i))
            elif i not in skipped:
                yield Part(i, code)

    def _index(self, value: Any, what: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise TypeError(f"{what}: the index of an argument is an int, not {value!r}")
        if not 0 <= value < len(self.codes):
            raise ValueError(f"{what}: there is no argument {value}, of {len(self.codes)}")
        return value

    # -- what C gets back --------------------------------------------------------------------------

    def check_constant(self, value: Any) -> Any:
        """As ``check``, for what is known beforehand; of a prototype that returns nothing, 0 is."""
        if self.result == VOID and value is not None and value != 0:
            raise TypeError(f"the prototype returns nothing, so it cannot return {value!r}")
        return self.check(value)

    def check(self, value: Any) -> Any:
        """Return *value* as C gets it, if it is of the type that was promised.

        :raises TypeError: if it is not
        :raises ValueError: if the type has no such value
        """
        code = self.result
        if code == VOID:
            return None
        kind = _PLAIN[code]
        if isinstance(value, _simple):
            value = value.value  # an answer may be of a type of ctypes
        if value is None and code in _POINTERS:
            return None
        if code == "?" and isinstance(value, int):
            return bool(value)
        if code == "c" and isinstance(value, bytes) and len(value) == 1:
            return value
        if code in FLOATING and isinstance(value, Real):
            return _as_floating(value, code)
        try:
            if code in FLOATING:
                raise TypeError
            number = index(cast("Any", value))
        except TypeError:
            raise TypeError(f"{value!r} cannot be returned to C as {kind.__name__}") from None
        bits = 8 * size_of(code)
        least = -(1 << (bits - 1)) if code in SIGNED else 0
        if not least <= number < least + (1 << bits):
            raise ValueError(
                f"{value!r} cannot be returned to C as {kind.__name__}, of {bits} bits"
            )
        return number if code != "c" else bytes([number])

    # -- in Python ---------------------------------------------------------------------------------

    def plain_prototype(self) -> Any:
        """The same for C, with what needs no look at its type: pointers are addresses."""
        pointers = {part.at for part in self.parts if part.code == POINTER}
        kinds = [_PLAIN[POINTER if i in pointers else code] for i, code in enumerate(self.codes)]
        result = None if self.result == VOID else _PLAIN[self.result]
        # Without this flag it is of Windows' other calling convention.
        is_cdecl = self.prototype._flags_ & _ctypes._FUNCFLAG_CDECL
        make: Any = _ctypes.CFUNCTYPE if is_cdecl else _ctypes.WINFUNCTYPE
        return make(result, *kinds)

    def packer(self) -> Callable[..., tuple[Any, ...]]:
        """Return the function that makes the item of the arguments of ``plain_prototype``."""
        parts = self.parts
        if all(part.length is None for part in parts):
            indexes = [part.at for part in parts]
            if indexes == list(range(len(self.codes))):
                return _all
            if len(indexes) > 1:
                chosen: Callable[[Any], tuple[Any, ...]] = itemgetter(*indexes)
                return lambda *args: chosen(args)

        def pack(*args: Any) -> tuple[Any, ...]:
            return tuple([_value(part, args) for part in parts])

        return pack


def _as_floating(value: Any, code: str) -> float:
    try:
        number = float(value)
        if code == "f":
            struct.pack("<f", number)
    except OverflowError:
        kind = _PLAIN[code].__name__
        raise ValueError(f"{value!r} cannot be returned to C as {kind}: it is too large") from None
    return number


def size_of(code: str) -> int:
    """How many bytes a type has, by its letter."""
    return ctypes.sizeof(_PLAIN[code])


def _all(*args: Any) -> tuple[Any, ...]:
    return args


def _value(part: Part, args: tuple[Any, ...]) -> Any:
    value = args[part.at]
    if part.length is None or value is None:
        return value
    size = max(0, args[part.length]) * part.size
    if size <= _LONGEST_STRING:
        return ctypes.string_at(value, size)
    if size > sys.maxsize:
        raise OverflowError(f"a buffer of {size} bytes is longer than any memory")
    return bytes((ctypes.c_char * size).from_address(value))


def _code(kind: Any, what: str) -> str:
    """The letter for the type of an argument, or of the result."""
    if isinstance(kind, type):
        if issubclass(kind, (_pointer, _base)):
            return POINTER
        if issubclass(kind, _simple) and getattr(kind, _NATIVE, kind) is kind:
            code = str(cast("Any", kind)._type_)
            if code in _PLAIN:
                return code
    raise TypeError(
        f"{what}: a callback for C takes numbers, characters and pointers, not {kind!r}"
        f"{_remedy(kind)}"
    )


def _remedy(kind: Any) -> str:
    """What to declare instead of a type that was refused."""
    native: Any = getattr(kind, _NATIVE, kind)
    if hasattr(kind, "_fields_"):
        return "; let C pass a pointer to it"
    if hasattr(kind, "_length_"):
        return (
            "; C passes an array by its address: use ctypes.POINTER of the type of its elements "
            "(for a result: c_void_p)"
        )
    if isinstance(kind, type) and issubclass(kind, ctypes.py_object):
        return "; a thread of C may not touch an object: use c_void_p, which is its address"
    if native is not kind:
        return (
            f" in the other byte order; use {native.__name__}, and turn the bytes around in "
            "decode (for a result: before it is returned)"
        )
    return ""


def _size_of_element(kind: Any, i: int) -> int:
    if issubclass(kind, _simple):  # void *, char *, wchar_t *
        return ctypes.sizeof(ctypes.c_wchar) if kind._type_ == "Z" else 1
    element: Any = getattr(kind, "_type_", None)
    try:
        size = ctypes.sizeof(element)
    except TypeError:
        size = 0
    if not size:  # a structure without fields stands for one that nobody may look into
        raise TypeError(f"buffers: nobody knows how long what argument {i} points to is")
    return size


def _all_of(indexes: Any, what: str) -> Any:
    if isinstance(indexes, (str, bytes)) or not isinstance(indexes, Iterable):
        raise TypeError(f"{what} must be some indexes, such as (0,), not {indexes!r}")
    return cast("Any", indexes)
