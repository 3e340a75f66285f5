"""What type checkers see: asserted with ``assert_type``, checked by mypy and pyright (strict)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest

import dss_anyio as dss

FROM_OPEN_HUB_TO_THE_ITEM = """# pyright: strict
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

async def astart(portal: dss.Portal[bytes]) -> float:
    return 1.0

async def astop(value: float) -> None: ...

async def aend() -> None: ...

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
    def register(self, name: str, *, stop: Callable[[], None]) -> NewPortal: ...

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
        assert_type(hub.portal.request_callback(timeout=1, convert=int), Callable[..., int])
        assert_type(
            hub.portal.request_callback(timeout=1, default=b"", convert=int),
            Callable[..., int | bytes],
        )
        assert_type(hub.portal.send_callback(), Callable[..., None])
        assert_type(hub.portal.send_callback(returns=0), Callable[..., int])
        assert_type(hub.portal.call_within(1, answer, 1), str)
        assert_type(hub.portal.call_within(1, len, "x"), int)
        async with hub.open_source("e", astart, astop, decode=text, drain=True) as opened:
            assert_type(opened.value, float)
            assert_type(opened.portal, dss.Portal[bytes])
        hub.register("f", stop=aend)
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
        assert_type(polled.wake_address, tuple[str, int] | None)
        polled.wake_address = ("::1", 4321, 0, 0)
        polled.wake_address = "127.0.0.1:4321"  # error: not a tuple
        assert_type(polled.api("1.0"), dss.Api1[int])
        new_binding(polled)  # error: does not carry str
    with dss.open_polled_hub[str]() as polled_str:
        promised(polled_str, polled_str.portal)
    dss.open_hub(overflow="drop_both")  # error: unknown policy
"""

REQUESTS = """# pyright: strict
from __future__ import annotations
from typing import Any, TypeAlias
from typing_extensions import assert_type
import dss_anyio as dss

Entry: TypeAlias = int | dss.Request[int]

def text(raw: bytes) -> int:
    return int(raw)

def twice(item: int) -> int:
    return 2 * item

async def atwice(item: int) -> int:
    return 2 * item

async def may_be_asked() -> None:
    async with dss.open_hub[int, int | dss.Request[int]]() as hub:
        assert_type(hub, dss.Hub[int, Entry])
        assert_type(hub.portal, dss.Portal[int])
        assert_type(await hub.receive(), Entry)
        assert_type(hub.receive_nowait(), Entry)
        assert_type(await hub.receive_many(), list[Entry])
        assert_type(hub.clone(), dss.Receiver[Entry])
        hub.portal.send("x")  # error: not an int
        hub.portal.request("x")  # error: not an int
        assert_type(hub.register("a", decode=text), dss.Portal[bytes])
        hub.register("b", on_undelivered=twice)  # a request goes back to its asker
        async for entry in hub:
            print(entry.bit_length())  # error: it may be a request
        async for entry in hub:
            if isinstance(entry, dss.Request):
                assert_type(entry, dss.Request[int])
                entry.reply(entry.item.upper())  # error: an int
                entry.replay()  # error: misspelt
            else:
                assert_type(entry, int)
        async with hub.clone() as receiver:
            async for entry in receiver:
                with entry:  # error: it may be an item
                    pass
        await hub.serve(twice)  # called with the int, sent or asked
        await hub.serve(atwice)

async def is_only_asked(hub: dss.Hub[str, dss.Request[str]]) -> None:
    async for request in hub:
        async with request:
            request.reply(request.item.upper())

async def is_only_served() -> None:
    async with dss.open_hub[int]() as hub:
        assert_type(hub, dss.Hub[int, int])
        hub.portal.request(1)
        await hub.serve(twice)
        await hub.serve(atwice)
        await hub.serve(str.upper)  # error: does not take an int
        may_be_asked: dss.Hub[int, Entry] = hub  # error: another type is received
        print(may_be_asked)

def is_polled() -> None:
    with dss.open_polled_hub[int, Entry](16) as hub:
        assert_type(hub, dss.PolledHub[int, Entry])
        assert_type(hub.poll(), list[Entry])
        for entry in hub.poll():
            print(entry.bit_length())  # error: it may be a request
            if isinstance(entry, dss.Request):
                entry.reply(entry.item.upper())  # error: an int
        hub.dispatch(twice)
        hub.dispatch(str.upper)  # error: does not take an int
    with dss.open_polled_hub[int]() as served:
        assert_type(served, dss.PolledHub[int])
        served.dispatch(twice)

def has_its_own_thread() -> None:
    with dss.start_hub[int, Entry](backend="trio") as hub:
        assert_type(hub, dss.Hub[int, Entry])
        assert_type(hub.portal, dss.Portal[int])
    with dss.start_hub[int]() as served:
        assert_type(served, dss.Hub[int])
        served.portal.start_task_soon(served.serve, twice)

class Mine(dss.Hub[str]):
    pass

async def is_a_subclass() -> None:
    async with Mine(10) as hub:
        assert_type(await hub.receive(), str)
    async with dss.open_hub() as anything:
        assert_type(await anything.receive(), Any)
"""

PORTALS = """# pyright: strict
from __future__ import annotations
from collections.abc import AsyncGenerator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from functools import partial
from typing_extensions import assert_type
import anyio.abc
from anyio.from_thread import BlockingPortal, start_blocking_portal
import dss_anyio as dss

async def times(number: int, by: int = 2) -> int:
    return number * by

async def run(*, task_status: anyio.abc.TaskStatus[str]) -> bytes:
    task_status.started("")
    return b""

@asynccontextmanager
async def connection() -> AsyncGenerator[float]:
    yield 1.0

def client(portal: dss.BlockingPortalLike) -> None:
    assert_type(portal.call(times, 1), int)
    assert_type(portal.call(times, 1, 3), int)
    assert_type(portal.call(partial(times, by=3), 1), int)
    assert_type(portal.call(len, "x"), int)
    portal.call(times, "x")  # error: not an int
    portal.call(times)  # error: an argument is missing
    assert_type(portal.start_task_soon(times, 1, name="name"), Future[int])
    assert_type(portal.start_task_soon(len, "x"), Future[int])
    portal.start_task_soon(times, "x")  # error: not an int
    future, _ = portal.start_task(run, name="name")
    assert_type(future, Future[bytes])
    with portal.wrap_async_context_manager(connection()) as opened:
        assert_type(opened, float)
    portal.send(1)  # error: only one of the two has it

async def both(api: dss.Api2[int]) -> None:
    async with BlockingPortal() as portal:
        client(portal)
    with start_blocking_portal() as started:
        client(started)
    async with dss.open_hub[int]() as hub:
        client(hub.portal)
        client(hub.register("source"))
        client(hub.portal.clone())
        client(hub)  # error: that is the hub
        one: list[dss.BlockingPortalLike] = [portal, hub.portal]
        print(one)
        # Ours checks the arguments as anyio's does.
        hub.portal.call(times, "x")  # error: not an int
        hub.portal.call_within(1, times, "x")  # error: not an int
        hub.portal.start_task_soon(times, "x")  # error: not an int
        await hub.portal.call_async(times, "x")  # error: not an int
        assert_type(await hub.portal.call_async(times, 1, abandon_on_cancel=True), int)
    with dss.open_polled_hub[int]() as polled:
        client(polled.portal)
        client(polled.api("2.0").portal)
    client(api.portal)
    client(api.register("source"))
"""

EXAMPLES = Path(__file__).parents[1] / "examples"
SHOWN = ("howto/sent_or_asked.py", "coming_from/blocking_portal.py")
PROGRAMS = {
    "items.py": FROM_OPEN_HUB_TO_THE_ITEM,
    "requests.py": REQUESTS,
    "portals.py": PORTALS,
    **{Path(name).name: (EXAMPLES / name).read_text(encoding="utf-8") for name in SHOWN},
}


@pytest.mark.parametrize("checker", ["mypy", "pyright"])
def test_a_strict_checker_says_what_is_right_and_what_is_wrong(
    checker: str, tmp_path: Path
) -> None:
    pytest.importorskip(checker, reason="the type checkers are in the dependency group 'dev'")
    for name, text in PROGRAMS.items():
        (tmp_path / name).write_text(text)
    options = {
        "mypy": ["--strict", "--no-error-summary", "--cache-dir", str(tmp_path)],
        "pyright": ["--pythonpath", sys.executable],
    }[checker]
    command = [
        sys.executable,
        "-m",
        checker,
        *options,
        *(str(tmp_path / name) for name in PROGRAMS),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=55, check=False)
    complaints = {
        (found[1], int(found[2])) for found in re.finditer(r"(\w+\.py):(\d+):.* error", done.stdout)
    }
    expected = {
        (name, number)
        for name, text in PROGRAMS.items()
        for number, line in enumerate(text.splitlines(), 1)
        if "# error" in line
    }
    assert complaints == expected, done.stdout + done.stderr


def test_each_public_name_has_a_type_that_all_checkers_see_alike() -> None:
    """One attribute without an annotation, deep inside, makes all that refers to it ambiguous."""
    pytest.importorskip("pyright", reason="the type checkers are in the dependency group 'dev'")
    package = Path(dss.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--verifytypes", "dss_anyio", "--ignoreexternal"],
        capture_output=True,
        text=True,
        timeout=55,
        check=False,
        # It asks the "python" that it finds first where the package is.
        env={
            **os.environ,
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": str(package),
        },
    )
    assert "Type completeness score: 100%" in done.stdout, done.stdout + done.stderr


# -- At run time -----------------------------------------------------------------------------------


@pytest.mark.parametrize("opens", [dss.open_hub, dss.open_polled_hub, dss.start_hub])
def test_a_hub_has_one_type_or_two(opens: Any) -> None:
    entry = int | dss.Request[int]
    assert opens[int] == opens[int, int]
    assert opens[int, entry].__args__ == (int, entry)
    with pytest.raises(TypeError):
        opens[int, int, int]


T = TypeVar("T")


class ForMine(dss.PolledHub[T]):
    pass


class ForBoth(dss.PolledHub[int, T], Generic[T]):
    pass


def test_a_subclass_of_a_hub_has_the_types_that_it_leaves_open() -> None:
    with ForMine[int](2) as hub:
        hub.portal.send(1)
        assert hub.poll() == [1]
    with ForBoth["int | dss.Request[int]"](2) as other:
        other.portal.send(1)
        assert other.poll() == [1]
