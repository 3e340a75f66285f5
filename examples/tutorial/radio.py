"""The radio for Python: what one writes for any library in C, with ctypes and nothing else."""

import ctypes
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

BYTES = ctypes.POINTER(ctypes.c_uint8)
ON_TELEGRAM = ctypes.CFUNCTYPE(None, ctypes.c_void_p, BYTES, ctypes.c_size_t)
MAY_PASS = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, BYTES, ctypes.c_size_t)


def build() -> ctypes.CDLL:
    with tempfile.TemporaryDirectory() as folder:  # the loaded library needs no file
        source, library = Path(__file__).with_name("radio.c"), Path(folder, "libradio.so")
        subprocess.run(["cc", "-shared", "-fPIC", "-pthread", "-o", library, source], check=True)
        c = ctypes.CDLL(str(library))
    c.radio_open.argtypes = [ctypes.c_int, ctypes.c_int, ON_TELEGRAM, MAY_PASS, ctypes.c_void_p]
    c.radio_open.restype = ctypes.c_void_p  # else ctypes takes it for an int, and truncates it
    c.radio_close.argtypes = [ctypes.c_void_p]
    return c


class Radio:
    def __init__(
        self,
        on_telegram: Any,
        may_pass: Any = None,
        *,
        telegrams: int = 3,
        pause: int = 100,
        user: Any = None,
    ) -> None:
        """Functions of C, of the types above, which get the pointer *user* as their first argument;
        and how many telegrams come in, every how many ms.
        """
        self._callbacks = on_telegram, may_pass or MAY_PASS()  # C keeps no reference, so we do
        self._c = build()
        self._handle = self._c.radio_open(telegrams, pause, *self._callbacks, user)

    def close(self) -> None:
        self._c.radio_close(self._handle)  # blocks: it joins the radio's thread


def text_of(_: object, data: Any, size: int) -> str:
    """Copy the buffer: it is the radio's again as soon as the callback has returned."""
    return ctypes.string_at(data, size).decode()


def show(user: object, data: Any, size: int) -> None:
    here = threading.current_thread() is threading.main_thread()
    print(f"{text_of(user, data, size)} (in the main thread: {here})")


if __name__ == "__main__":
    radio = Radio(ON_TELEGRAM(show))
    time.sleep(1)
    radio.close()
