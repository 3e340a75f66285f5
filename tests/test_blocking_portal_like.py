"""A function that wants a ``BlockingPortalLike`` takes anyio's portal and ours."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractContextManager, asynccontextmanager, contextmanager
from typing import Any

import anyio
import anyio.abc
import pytest
from anyio.from_thread import start_blocking_portal

import dss_anyio as dss


@contextmanager
def of_anyio(backend: str, options: dict[str, Any]) -> Any:
    with start_blocking_portal(backend, options) as portal:
        yield portal


@contextmanager
def of_a_hub(backend: str, options: dict[str, Any]) -> Any:
    with dss.start_hub[int](backend=backend, backend_options=options) as hub:
        yield hub.portal


@contextmanager
def of_a_source(backend: str, options: dict[str, Any]) -> Any:
    with dss.start_hub[int](backend=backend, backend_options=options) as hub:
        yield hub.register("source")


@contextmanager
def of_a_binding(backend: str, options: dict[str, Any]) -> Any:
    with dss.start_hub[int](backend=backend, backend_options=options) as hub:
        yield hub.api("2.0").portal


Open = Callable[[str, "dict[str, Any]"], AbstractContextManager[dss.BlockingPortalLike]]
PORTALS: list[Open] = [of_anyio, of_a_hub, of_a_source, of_a_binding]


async def times(number: int, by: int = 2) -> int:
    await anyio.lowlevel.checkpoint()
    return number * by


async def run(*, task_status: anyio.abc.TaskStatus[str]) -> bytes:
    task_status.started("started")
    return b"done"


@asynccontextmanager
async def connection() -> AsyncGenerator[float, None]:
    yield 1.0


@pytest.mark.parametrize("opened", PORTALS)
def test_a_function_that_wants_a_blocking_portal_takes_either(
    opened: Open, anyio_backend: tuple[str, dict[str, Any]]
) -> None:
    with opened(*anyio_backend) as portal:
        assert isinstance(portal, dss.BlockingPortalLike)
        assert portal.call(times, 21) == 42
        assert portal.call(times, 21, 3) == 63
        assert portal.call(len, "four") == 4
        with pytest.raises(TypeError):
            portal.call(len, 4)  # type: ignore[arg-type]
        assert portal.start_task_soon(times, 21, name="a task").result(10) == 42
        future, value = portal.start_task(run, name="a task")
        assert (future.result(10), value) == (b"done", "started")
        with portal.wrap_async_context_manager(connection()) as entered:
            assert entered == 1.0


def test_what_is_no_portal_is_not_like_one() -> None:
    with dss.open_polled_hub[int]() as hub:
        assert isinstance(hub.portal, dss.BlockingPortalLike)
        assert not isinstance(hub, dss.BlockingPortalLike)
        assert not isinstance(hub.open_feed(1), dss.BlockingPortalLike)
