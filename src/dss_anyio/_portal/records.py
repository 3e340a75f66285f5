"""The record into which a function of C packs its arguments: its layout, and how it is read.

``closures.c`` writes it, in the calling thread and without Python. It is read here, in the hub's
thread. First comes the number of its function, then the fixed part of each argument, then the
strings and buffers. So an item that has only numbers is read in one call.
"""

from __future__ import annotations

import ctypes
import struct
import sys
from collections.abc import Callable
from typing import Any

from .signature import (
    FLOATING,
    INTEGERS,
    POINTER,
    SIGNED,
    TEXTS,
    VOID,
    Part,
    Signature,
    size_of,
)

WHOSE = struct.Struct("=Q")  # the number of the function: begins each record
WHOSE_AND_LENT = struct.Struct("=QQ")  # begins the record of a function that asks
VALUE_SIZE = 8  # of the value that a function returns, whatever its type

# As in closures.h
_NUMBER, _LONG_DOUBLE, _TEXT, _WIDE_TEXT, _BUFFER = range(5)
_WIDE = f"utf-{8 * ctypes.sizeof(ctypes.c_wchar)}-{sys.byteorder[0]}e"


class Layout:
    """The records of one signature."""

    def __init__(self, signature: Signature, asks: bool) -> None:
        self.arguments: str = "".join(map(_letter, signature.codes))  # for closures.c, as
        self.parts: bytes = b"".join(map(_described, signature.parts))  # is this
        self.result: str = "" if signature.result == VOID else _letter(signature.result)
        head = (WHOSE_AND_LENT if asks else WHOSE).size
        fields = struct.Struct("=" + "".join(map(_field, signature.parts)))
        self.size: int = head + fields.size  # without the strings and buffers
        self._value = struct.Struct("=" + _returned(signature.result))
        self.unpack: Callable[[Any], tuple[Any, ...]] = _unpacker(
            fields, head, [_reader(part) for part in signature.parts]
        )

    def pack_value(self, value: Any) -> bytes:
        """Return the bytes that C gets. *value* comes from ``Signature.check``."""
        if not self.result:
            return bytes(VALUE_SIZE)
        return self._value.pack(0 if value is None else value).ljust(VALUE_SIZE, b"\0")


def _letter(code: str) -> str:
    """The type of an argument as closures.c knows it: a letter of struct's, of its size."""
    if code in INTEGERS:
        return ("bhiq" if code in SIGNED else "BHIQ")[size_of(code).bit_length() - 1]
    if code in FLOATING:
        return code
    if code == "u":
        return "BHI"[size_of(code).bit_length() - 1]
    return "P" if code in POINTER + TEXTS else "B"


def _returned(code: str) -> str:
    if code == VOID:
        return ""
    if code in "?c":
        return code
    letter = _letter(code)
    return _POINTER_FIELD if letter == "P" else "d" if letter == "g" else letter


_POINTER_FIELD = "Q" if ctypes.sizeof(ctypes.c_void_p) == 8 else "I"


def _is_fixed(part: Part) -> bool:
    return part.length is None and part.code not in TEXTS


def _field(part: Part) -> str:
    """The fixed part of an argument, as struct has it."""
    return _returned(part.code) if _is_fixed(part) else "q"


def _described(part: Part) -> bytes:
    """A dss_part of closures.h."""
    kind = _NUMBER
    if part.length is not None:
        kind = _BUFFER
    elif part.code in TEXTS:
        kind = _TEXT if part.code == "z" else _WIDE_TEXT
    elif part.code == "g":
        kind = _LONG_DOUBLE
    return struct.pack("=4i", kind, part.at, part.length or 0, part.size)


# -- Reading: in the hub's thread ------------------------------------------------------------------

# Makes the item's value from a field; and returns where the next string or buffer begins.
_Reader = Callable[[Any, Any, int], "tuple[Any, int]"]


def _unpacker(
    fields: struct.Struct, head: int, readers: list[_Reader | None]
) -> Callable[[Any], tuple[Any, ...]]:
    unpack_from = fields.unpack_from
    if not any(readers):
        return lambda record: unpack_from(record, head)
    chosen = [(i, reader) for i, reader in enumerate(readers) if reader is not None]
    end = head + fields.size

    def unpack(record: Any) -> tuple[Any, ...]:
        item = list(unpack_from(record, head))
        at = end
        for i, reader in chosen:
            item[i], at = reader(item[i], record, at)
        return tuple(item)

    return unpack


def _reader(part: Part) -> _Reader | None:
    if part.length is None and part.code == "Z":
        return _read_wide_text
    if not _is_fixed(part):
        return _read_bytes
    if part.code == POINTER:
        return lambda address, _, at: (address or None, at)
    if part.code == "u":
        return lambda number, _, at: (_character(number), at)
    return None


def _read_bytes(length: int, record: Any, at: int) -> tuple[bytes | None, int]:
    return (None, at) if length < 0 else (bytes(record[at : at + length]), at + length)


def _read_wide_text(length: int, record: Any, at: int) -> tuple[str | None, int]:
    data, at = _read_bytes(length, record, at)
    return None if data is None else data.decode(_WIDE, "replace"), at


def _character(number: int) -> str:
    """Never raises: an argument that C has passed cannot be refused any more."""
    return chr(number) if number <= sys.maxunicode else "\N{REPLACEMENT CHARACTER}"
