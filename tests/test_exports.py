"""What ``import dss_anyio`` gives, and what holds its modules together."""

from __future__ import annotations

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
    "register": "(self, name, *, stop=None, stop_timeout=10.0, decode=None, on_undelivered=None, "
    "max_buffer_size=None, overflow=None)",
    "source": "(self, name)",
    "statistics": "(self)",
}
PORTAL: dict[str, str | None] = {
    "abort": "(self)",
    "arequest": "(self, item)",
    "asend": "(self, item)",
    "c_callback": "(self, prototype, *, buffers=None, skip=(), returns=0, max_buffer_size=None, "
    "overflow=None)",
    "c_request_callback": "(self, prototype, *, timeout, default, convert=None, buffers=None, "
    "skip=())",
    "call": "(self, func, *args)",
    "call_async": "(self, func, *args, abandon_on_cancel=False)",
    "call_within": "(self, timeout, func, *args)",
    "clone": "(self)",
    "close": "(self)",
    "native_sender": "(self, max_buffer_size=None, *, item_size=256, overflow=None)",
    "offer": "(self, item)",
    "request": "(self, item, *, timeout=None)",
    "request_callback": "(self, pack=None, *, timeout, default=RAISE, convert=None)",
    "request_soon": "(self, item)",
    "send": "(self, item, *, timeout=None)",
    "send_callback": "(self, pack=None, *, returns=None)",
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
        "request_callback": "(self, pack=None, *, timeout, default=Ellipsis, convert=None)",
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
        "open_source": "(self, name, start, stop, *, stop_timeout=10.0, drain=False, "
        "decode=None, on_undelivered=None, max_buffer_size=None, overflow=None)",
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
        "dispatch": "(self, handler, max_items=None)",
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


@pytest.mark.parametrize("name", dss.__all__)
def test_each_public_name_can_be_imported_and_has_a_docstring(name: str) -> None:
    namespace: dict[str, Any] = {}
    exec(f"from dss_anyio import {name}", namespace)
    doc = inspect.getdoc(namespace[name])
    assert doc
    assert not doc.startswith(f"{name}("), "this is what a NamedTuple or dataclass says by itself"


@pytest.mark.parametrize("name", dss.__all__)
def test_each_public_name_is_defined_in_a_private_module(name: str) -> None:
    package, module = getattr(dss, name).__module__.split(".")[:2]
    assert package == "dss_anyio"
    assert module.startswith("_")


def test_nothing_else_is_public() -> None:
    # Two modules: ``testing``, which only tests import, and ``native``.
    assert public_names(dss) - {"testing", "native"} == set(dss.__all__)
    assert dss.__all__ == sorted(dss.__all__)
    assert [module for module in modules() if not module.startswith("_")] == ["native", "testing"]


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


def test_the_picture_of_the_house_shows_each_folder_and_each_room() -> None:
    picture = Path(__file__).parents[1].joinpath("docs/_static/house.svg").read_text("utf-8")
    shown = re.findall(r'class="(?:name|rooms|roomname)">([^<]+)<', picture)
    names = sorted(name for line in shown for name in line.replace("&#160;", " ").split())
    rooms = {each.relative_to(PACKAGE) for each in PACKAGE.rglob("*.py")}
    folders = {each.parent.name for each in rooms if each.parent.name}
    files = [each.stem for each in rooms if each.name != "__init__.py"]
    assert names == sorted([*folders, *files, "__init__"])


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
