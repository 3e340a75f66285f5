"""What type checkers see: asserted with ``assert_type``, checked by mypy and pyright."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

PROGRAM = """
from __future__ import annotations
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, Protocol
from typing_extensions import assert_type
import anyio.abc
import dss_anyio as dss

def text(raw: bytes) -> str:
    return raw.decode()

def start(portal: dss.Portal[bytes]) -> int:
    portal.send(b"")
    return 1

def stop(value: int) -> None: ...

async def answer(value: int) -> str:
    return str(value)

class Old(Protocol):  # what a binding needs that imports nothing of ours
    DSS_SUCCESS: int
    def register(
        self, libid: object, cancel: Callable[[object], None]
    ) -> tuple[object | None, int]: ...
    def deliver(
        self,
        utilid: object,
        decode: Callable[[object, int, object], str | None],
        return_: Callable[[object, int, object, bool, object], None] | None,
        data: int,
    ) -> int: ...

class NewPortal(Protocol):
    def send(self, item: str) -> None: ...
    def request(self, item: str, *, timeout: float) -> Any: ...
    def abort(self) -> None: ...

class New(Protocol):
    def register(self, name: str, *, cancel: Callable[[], None]) -> NewPortal: ...

def old_binding(api: Old) -> None: ...

def new_binding(api: New) -> None: ...

def promised(hub: dss.Api2[str], portal: dss.ApiPortal[str]) -> None: ...

def decode(hub: object, data: object, utilid: object) -> int:
    return 1

async def main() -> None:
    async with dss.open_hub() as anything:
        assert_type(anything, dss.Hub[Any])
    async with dss.open_hub[str](10, overflow="drop_oldest") as hub:
        assert_type(hub, dss.Hub[str])
        stream: anyio.abc.ObjectReceiveStream[str] = hub
        assert_type(await stream.receive(), str)
        assert_type(hub.portal, dss.Portal[str])
        assert_type(await hub.receive(), str)
        assert_type(hub.receive_nowait(), str)
        assert_type(await hub.receive_many(), list[str])
        async for item in hub:
            assert_type(item, str)
        assert_type(hub.clone(), dss.Receiver[str])
        assert_type(hub.register("a"), dss.Portal[str])
        assert_type(hub.register("b", decode=text), dss.Portal[bytes])
        assert_type(hub.portal.offer("x"), bool)
        hub.portal.send(1)  # error: not a str
        hub.register("c", decode=text).send("x")  # error: not bytes
        async with hub.open_source("d", start, stop, decode=text) as source:
            assert_type(source.value, int)
            assert_type(source.portal, dss.Portal[bytes])
        assert_type(hub.portal.call(len, "x"), int)
        assert_type(hub.portal.call(answer, 1), str)
        assert_type(hub.portal.start_task_soon(answer, 1), Future[str])
        assert_type(hub.portal.start_task_soon(len, "x"), Future[int])
        hub.portal.request(1)  # error: not a str
        assert_type(
            hub.portal.request_callback(timeout=1, default=b""), Callable[..., Any | bytes]
        )
        assert_type(hub.api("1.0"), dss.Api1[str])
        assert_type(hub.api("2.0"), dss.Api2[str])
        hub.api("3.0")  # error: no such version
        hub.api("1.0").deliver(None, decode)  # error: does not make a str
        assert_type(hub.api("1.0").getutilid("x"), tuple[object | None, int])
        assert_type(hub.api("2.0").register("e", decode=text), dss.ApiPortal[bytes])
        old_binding(hub.api("1.0"))
        new_binding(hub.api("2.0"))
        new_binding(hub)
        old_binding(hub)  # error: that is 2.0
        promised(hub, hub.portal)
        await hub.serve(str.upper)
        await hub.serve(abs)  # error: does not take a str
    with dss.start_hub() as started:
        assert_type(started, dss.Hub[Any])
    with dss.open_polled_hub[int]() as polled:
        assert_type(polled.poll(), list[int])
        assert_type(polled.wait(1), bool)
        assert_type(polled.api("1.0"), dss.Api1[int])
        new_binding(polled)  # error: does not carry str
    with dss.open_polled_hub[str]() as polled_str:
        promised(polled_str, polled_str.portal)
    dss.open_hub(overflow="drop_both")  # error: unknown policy
"""


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_a_checker_sees_the_items_type_from_open_hub_to_the_item(
    checker: str, tmp_path: Path
) -> None:
    pytest.importorskip(checker, reason="the type checkers are in the dependency group 'dev'")
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    options = {
        "mypy": ["--strict", "--no-error-summary", "--cache-dir", str(tmp_path)],
        "pyright": ["--pythonpath", sys.executable],
    }[checker]
    command = [sys.executable, "-m", checker, *options, str(program)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=55, check=False)
    complaints = {
        int(line.split("program.py:")[1].split(":")[0])
        for line in done.stdout.splitlines()
        if "error" in line and "program.py:" in line
    }
    expected = {number for number, line in enumerate(PROGRAM.splitlines(), 1) if "# error" in line}
    assert complaints == expected, done.stdout + done.stderr
