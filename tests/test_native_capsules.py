"""The two capsules: the table of functions, and a sender, as C finds them."""

from __future__ import annotations

import ctypes
import sys
import sysconfig
from ctypes import c_char, c_char_p, c_int, c_size_t, c_ssize_t, c_void_p, py_object
from pathlib import Path
from typing import Any

import pytest
from c_threads import OK, compiled, declare, needs_the_extension, run_in_child

import dss_anyio as dss

pytestmark = needs_the_extension

API, SENDER = b"dss_anyio.native.api_2_0", b"dss_anyio.native.sender_2_0"
# In the order of the table.
FUNCTIONS = ["send", "send_wait", "give", "ask", "hold", "release", "deliver", "put"]


@pytest.fixture(scope="session")
def capsules(tmp_path_factory: pytest.TempPathFactory) -> ctypes.PyDLL:
    """``foreign/capsules.c``, compiled as an extension module is; called with the GIL."""
    headers = sysconfig.get_path("include")
    if not Path(headers, "Python.h").is_file():
        pytest.skip(f"the headers of this Python (Python.h) are not in {headers}")
    later = ["-undefined", "dynamic_lookup"] if sys.platform == "darwin" else []
    folder = tmp_path_factory.mktemp("capsules")
    library = ctypes.PyDLL(str(compiled(folder, "capsules", "-I", headers, *later)))
    prototypes: dict[str, tuple[Any, list[Any]]] = {
        "import_api": (c_ssize_t, [c_char_p]),
        "api_name": (c_char_p, []),
        "open_capsule": (c_void_p, [py_object]),
        "api_size": (c_size_t, []),
        "api_functions": (None, [c_void_p]),
        "has_the_same_table": (c_int, [c_void_p]),
        "use_start": (None, [c_void_p]),
    }
    declare(library, prototypes)
    return library


def test_c_imports_the_table_by_the_name_of_its_version(capsules: ctypes.PyDLL) -> None:
    assert capsules.api_name() == API
    # As long as what the header declares, or longer: "this one may only grow at its end".
    assert capsules.import_api(API) >= capsules.api_size()
    assert capsules.api_size() == ctypes.sizeof(c_size_t) + len(FUNCTIONS) * ctypes.sizeof(c_void_p)
    functions = (c_void_p * len(FUNCTIONS))()
    capsules.api_functions(functions)
    assert list(functions) == [dss.native.functions[f"dss_{name}"] for name in FUNCTIONS]
    with pytest.raises(AttributeError):
        capsules.import_api(b"dss_anyio.native.api_1_0")


IMPORT = """
import ctypes, sys

assert "dss_anyio" not in sys.modules
find = ctypes.pythonapi.PyCapsule_Import
find.restype, find.argtypes = ctypes.c_void_p, [ctypes.c_char_p, ctypes.c_int]
table = find(b"dss_anyio.native.api_2_0", 0)

from dss_anyio import native

size, send = (ctypes.c_size_t * 2).from_address(table)
assert size == 9 * ctypes.sizeof(ctypes.c_void_p), size
assert send == native.functions["dss_send"]
print("found")
"""


def test_the_table_is_found_by_a_program_that_has_not_imported_us() -> None:
    done = run_in_child(IMPORT)
    assert (done.stdout, done.stderr) == ("found\n", "")


def test_a_thread_of_c_uses_the_sender_of_a_capsule(capsules: ctypes.PyDLL) -> None:
    capsules.import_api(API)
    with dss.open_polled_hub() as hub:
        native = hub.register("lib").native_sender()
        sender = capsules.open_capsule(native.capsule)
        assert sender == native.address
        assert capsules.has_the_same_table(sender)
        for other in (dss.native.api_2_0, object()):
            with pytest.raises(ValueError, match="incorrect name|invalid PyCapsule"):
                capsules.open_capsule(other)
        capsules.use_start(sender)
        received: list[Any] = []
        while len(received) < 5:
            assert hub.wait(10), received
            received += hub.poll()
        received[4].reply(b"%d items" % len(received))
        statuses, answer = (c_int * 6)(), (c_char * 16)()
        without_gil = ctypes.CDLL(capsules._name)
        without_gil.use_join.restype = c_size_t
        answered = without_gil.use_join(statuses, answer)
    assert received[:4] == [b"sent", b"sent in time", b"given", b"delivered"]
    assert received[4].item == b"asked"
    assert (list(statuses), answer.raw[:answered]) == (6 * [OK], b"5 items")


def test_a_capsule_of_a_sender_is_its_pointer_under_its_name() -> None:
    find = ctypes.pythonapi.PyCapsule_GetPointer
    find.restype, find.argtypes = c_void_p, [py_object, c_char_p]
    with dss.open_polled_hub() as hub:
        native = hub.portal.native_sender()
        first = native.capsule
        assert find(first, SENDER) == find(native.capsule, SENDER) == native.address
    assert find(first, SENDER) == native.address  # it is valid for ever, so it has no destructor
