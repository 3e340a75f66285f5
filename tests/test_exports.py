"""What ``import dss_anyio`` gives, and what holds its modules together."""

from __future__ import annotations

import ast
import inspect
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from anyio.abc import ObjectReceiveStream
from anyio.streams.memory import MemoryObjectStreamStatistics

import dss_anyio as dss

PACKAGE = Path(dss.__file__).parent

# The house: a module imports from the floors below its own only.
HOUSE = [
    {"testing", "__main__"},
    {"_top", "_doctor"},
    {"__init__"},
    {"_start"},
    {"_hub", "_polled"},
    {"_serve"},
    {"_receiver", "_watching"},
    {"_face"},
    {"_darksidesync"},
    {"_portal", "_ending"},
    {"_asking"},
    {"_calling", "_feed"},
    {"_mailbox", "_worker", "_datagram"},
    {"_request", "_lane", "_bounds"},
    {"_wake"},
    {"_trio", "_errors", "_counter", "_waiting", "_api", "_place"},
]
FLOOR = {module: -depth for depth, modules in enumerate(HOUSE) for module in modules}

# The public methods of the design, with their parameters as they are relied upon elsewhere.
RECEIVER = {
    "aclose": "(self)",
    "clone": "(self)",
    "close": "(self)",
    "receive": "(self)",
    "receive_many": "(self, max_items=None)",
    "receive_nowait": "(self)",
}
FACE = {
    "api": "(self, version)",
    "blocked": "(self)",
    "close_senders": "(self)",
    "name": None,
    "open_feed": "(self, max_buffer_size, *, name=None)",
    "portal": None,
    "register": "(self, name, *, cancel=None, decode=None, on_undelivered=None)",
    "source": "(self, name)",
    "statistics": "(self)",
}
PORTAL: dict[str, str | None] = {
    "abort": "(self)",
    "arequest": "(self, item)",
    "asend": "(self, item)",
    "call": "(self, func, *args)",
    "call_async": "(self, func, *args, abandon_on_cancel=False)",
    "clone": "(self)",
    "close": "(self)",
    "offer": "(self, item)",
    "request": "(self, item, *, timeout=None)",
    "request_callback": "(self, pack=None, *, timeout, default=RAISE)",
    "request_soon": "(self, item)",
    "send": "(self, item, *, timeout=None)",
    "send_callback": "(self, pack=None)",
    "send_many": "(self, items, *, timeout=None)",
    "send_nowait": "(self, item)",
    "start_task": "(self, func, *args, name=None)",
    "start_task_soon": "(self, func, *args, name=None)",
    "wrap_async_context_manager": "(self, cm)",
}
SURFACE: dict[Any, dict[str, str | None]] = {
    dss.Portal: PORTAL,
    dss.ApiPortal: {
        **PORTAL,
        "request_callback": "(self, pack=None, *, timeout, default=Ellipsis)",
    },
    dss.Api1: {
        "deliver": "(self, utilid, decode, return_=None, data=None)",
        "getutilid": "(self, libid)",
        "register": "(self, libid, cancel)",
        "unregister": "(self, utilid)",
    },
    dss.Api2: {name: FACE[name] for name in FACE.keys() - {"api", "name"}},
    dss.Receiver: RECEIVER,
    dss.Hub: {
        **RECEIVER,
        **FACE,
        "open_source": "(self, name, start, stop, *, stop_timeout=10.0, decode=None, "
        "on_undelivered=None)",
        "serve": "(self, handler, *, max_concurrency=64, raise_errors=False)",
        "task_group": None,
    },
    dss.Request: {
        "abandoned": None,
        "item": None,
        "remaining": None,
        "reply": "(self, value=None)",
        "reply_error": "(self, exc)",
        "source": None,
        "wait_abandoned": "(self)",
    },
    dss.Feed: {
        "aclose": "(self)",
        "close": "(self)",
        "send": "(self, item)",
        "send_nowait": "(self, item)",
        "statistics": "(self)",
        "take": "(self, *, timeout=None, default=RAISE)",
        "take_nowait": "(self, default=RAISE)",
    },
    dss.PolledHub: {
        **FACE,
        "close": "(self)",
        "fileno": "(self)",
        "poll": "(self, max_items=None)",
        "wait": "(self, timeout=None)",
        "wake_address": None,
    },
    dss.serve_statistics: {
        "close": "(self)",
        "path": None,
    },
}
OPEN_HUB = "(max_buffer_size=1024, *, overflow='block', name=None, on_error=None)"
OPEN_POLLED_HUB = (
    "(max_buffer_size=1024, *, overflow='block', name=None, wake_address=None, on_error=None)"
)


def parameters(func: Any) -> str:
    """The signature without types."""
    signature = inspect.signature(func)
    bare = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
    return str(signature.replace(parameters=bare, return_annotation=signature.empty))


def public_names(owner: Any) -> set[str]:
    return {name for name in vars(owner) if not name.startswith("_")}


def modules() -> list[str]:
    return sorted(["__init__", *(module.name for module in pkgutil.iter_modules([str(PACKAGE)]))])


def imported_modules(module: str) -> set[str]:
    """The modules of ours that the source of *module* imports, in whichever of Python's ways."""
    found: set[str] = set()
    for node in ast.walk(ast.parse((PACKAGE / f"{module}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            if node.level == 1 and node.module is not None:
                found.add(node.module.split(".")[0])
            elif node.level == 1:
                found |= {alias.name for alias in node.names}
            elif (node.module or "").split(".")[0] == "dss_anyio":
                found.add((f"{node.module}.__init__").split(".")[1])
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] == "dss_anyio":
                    found.add(f"{alias.name}.__init__".split(".")[1])
    return found


@pytest.mark.parametrize("name", dss.__all__)
def test_each_public_name_can_be_imported_and_has_a_docstring(name: str) -> None:
    namespace: dict[str, Any] = {}
    exec(f"from dss_anyio import {name}", namespace)
    doc = inspect.getdoc(namespace[name])
    assert doc
    assert not doc.startswith(f"{name}("), "this is what a NamedTuple or dataclass says by itself"


@pytest.mark.parametrize("name", dss.__all__)
def test_each_public_name_is_defined_in_a_private_module(name: str) -> None:
    package, module = getattr(dss, name).__module__.split(".")
    assert package == "dss_anyio"
    assert module.startswith("_")


def test_nothing_else_is_public() -> None:
    assert public_names(dss) - {"testing"} == set(dss.__all__)  # which only tests import
    assert dss.__all__ == sorted(dss.__all__)
    assert [module for module in modules() if not module.startswith("_")] == ["testing"]


@pytest.mark.parametrize("owner", SURFACE, ids=lambda owner: str(owner.__name__))
def test_each_class_has_the_public_methods_of_the_design(owner: Any) -> None:
    surface = SURFACE[owner]
    ours = [each for each in owner.__mro__ if each.__module__.startswith("dss_anyio.")]
    assert set().union(*map(public_names, ours)) == set(surface)
    for name, expected in surface.items():
        attribute = inspect.getattr_static(owner, name)
        if inspect.ismemberdescriptor(attribute):
            continue  # a plain attribute, such as request.item
        assert inspect.getdoc(getattr(owner, name)), name
        if expected is None:
            assert isinstance(attribute, property), name
        else:
            assert parameters(getattr(owner, name)) == expected, name


def test_the_hubs_are_opened_with_the_keywords_of_the_design() -> None:
    assert parameters(dss.open_hub) == OPEN_HUB
    assert parameters(dss.open_polled_hub) == OPEN_POLLED_HUB


def test_a_hub_is_a_receive_stream_of_anyio() -> None:
    assert issubclass(dss.Hub, dss.Receiver)
    assert issubclass(dss.Receiver, ObjectReceiveStream)


def test_statistics_begin_with_the_fields_of_anyios_memory_streams() -> None:
    assert len(MemoryObjectStreamStatistics._fields) == 6
    assert dss.HubStatistics._fields[:6] == MemoryObjectStreamStatistics._fields


def test_the_package_is_marked_as_typed() -> None:
    assert (PACKAGE / "py.typed").is_file()


def test_each_module_has_its_place_in_the_house() -> None:
    assert modules() == sorted(FLOOR)


def test_the_picture_of_the_house_shows_each_module_on_its_floor() -> None:
    picture = (
        Path(__file__).parents[1].joinpath("docs/_static/modules.svg").read_text(encoding="utf-8")
    )
    shown: dict[str, set[str]] = {}
    for height, name in re.findall(r' y="(\d+)" class="name">(\w+)<', picture):
        shown.setdefault(height, set()).add(name)
    assert list(shown.values()) == HOUSE


@pytest.mark.parametrize("module", modules())
def test_imports_go_downwards_only(module: str) -> None:
    above = {other for other in imported_modules(module) if FLOOR[other] >= FLOOR[module]}
    assert above == set()


def test_the_reader_of_imports_sees_each_way_to_import() -> None:
    """If it saw none, the test above would prove nothing."""
    assert {"_face", "_hub", "_lane", "_polled", "_portal"} <= imported_modules("__init__")
    assert "_mailbox" in imported_modules("_portal")


@pytest.mark.parametrize("backend", ["trio", "uvloop"])
def test_importing_the_package_does_not_import_a_backend(backend: str) -> None:
    assert run(f"import dss_anyio, sys; print({backend!r} in sys.modules)") == "False"


def test_a_polled_hub_runs_where_no_backend_was_ever_imported() -> None:
    program = (
        "import sys, dss_anyio as dss\n"
        "with dss.open_polled_hub() as hub:\n"
        "    hub.portal.send(1)\n"
        "    hub.fileno()\n"
        "    print(hub.poll(), sorted({'trio', 'uvloop'} & set(sys.modules)))\n"
    )
    assert run(program) == "[1] []"


def run(program: str) -> str:
    """What *program* prints in an interpreter of its own, which must not complain."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(PACKAGE.parent)},
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stderr == ""
    return done.stdout.strip()
