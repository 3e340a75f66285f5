"""anyio's own tests for memory object streams and for ``BlockingPortal``, on a hub.

    python tests/suite_of_anyio.py        (or ``make suite``)

It fetches the source distribution of the installed anyio, and runs two of its test modules with
what they test exchanged: a memory object stream is a hub, with ``asend`` as ``send``; a
``BlockingPortal`` is the portal of a hub. As a pytest plugin this same file does the exchange.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import AsyncIterator, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager, contextmanager
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any

import anyio
import pytest

import dss_anyio as dss

STREAMS = "tests/streams/test_memory.py"
PORTALS = "tests/test_from_thread.py"

# Each that cannot apply, with the reason.
LEFT_OUT = {
    STREAMS: {
        "test_invalid_max_buffer": "a TypeError with our own words: see test_hub.py",
        "test_negative_max_buffer": "the error has our own words: see test_hub.py",
        "test_type_variance": "for a type checker; ours is in test_typing.py",
        "test_deprecated_item_type_parameter": "nothing of ours is deprecated",
        "test_not_closed_warning": "the warning names our classes: see test_receiver.py",
        "test_memory_object_item_receiver_repr": "an inner class of anyio's",
        **dict.fromkeys(
            ["test_cancel_during_receive", "test_close_receive_after_item_sent"],
            "a receiver is woken for an item, not given it; if it is cancelled or closed before it"
            " runs, the item is left for the next one",
        ),
        "test_statistics": "so it counts as waiting until it runs",
        "test_close_send_while_sending": "a sender that is refused, and cancelled before it runs,"
        " says that it was cancelled",
        "test_sync_close": "after the end of the hub, a portal that is closed says that",
    },
    PORTALS: {
        **dict.fromkeys(
            [
                "test_aexit_with_exception",
                "test_aexit_without_exception",
                "test_start_task_soon_non_corofunc",
                "test_start_task_soon_with_name",
            ],
            "the end of a hub does not wait for what was called, and releases the callers with"
            " BrokenResourceError: see test_ending.py",
        ),
        **dict.fromkeys(
            ["test_start_with_thread_name", "test_start_without_thread_name"],
            "the thread has the name of its hub",
        ),
        **dict.fromkeys(
            [
                "test_call_portal_from_event_loop_thread",
                "test_call_stopped_portal",
                "test_start_no_started_call",
            ],
            "the error has our own words: see test_calls.py",
        ),
        **dict.fromkeys(
            ["test_start_task_soon_cancel_after_stop", "test_cancel_portal_future"],
            "a portal does not stop its hub: leave its block",
        ),
        "test_start_task_soon_cancel_immediately": "what is cancelled in time never begins",
    },
}


# -- A memory object stream ------------------------------------------------------------------------


class Streams:
    """In the place of ``create_memory_object_stream``."""

    def __init__(self) -> None:
        self._hubs: list[dss.Hub[Any]] = []

    def __getitem__(self, _: object) -> Streams:
        return self

    def __call__(self, max_buffer_size: float = 0) -> tuple[Sender, dss.Receiver[Any]]:
        hub = dss.open_hub[Any](max_buffer_size)
        run_at_once(hub.__aenter__())
        self._hubs.append(hub)
        return Sender(hub, hub.portal), Receiver(hub)

    async def close(self) -> None:
        while self._hubs:
            await self._hubs.pop().__aexit__(None, None, None)


def run_at_once(opening: Coroutine[Any, Any, Any]) -> None:
    """Opening a hub awaits nothing, so what is not a coroutine function can do it as well."""
    try:
        opening.send(None)
    except StopIteration:
        return
    raise AssertionError("opening a hub has waited for something")


class Sender(AbstractContextManager[Any], AbstractAsyncContextManager[Any]):
    """A portal, as it is used in the hub's own event loop."""

    def __init__(self, hub: dss.Hub[Any], portal: dss.Portal[Any]) -> None:
        self._hub = hub
        self._portal = portal
        self.send = portal.asend
        self.send_nowait = portal.send_nowait
        self.close = portal.close
        self.statistics = hub.statistics

    def clone(self) -> Sender:
        return Sender(self._hub, self._portal.clone())

    async def aclose(self) -> None:
        self.close()
        await anyio.lowlevel.checkpoint()

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()


class Receiver(AbstractContextManager[Any], AbstractAsyncContextManager[Any]):
    """A hub, which ends when it is left, as no more than a receiving end, which is closed."""

    def __init__(self, hub: dss.Hub[Any]) -> None:
        self._hub = hub

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hub, name)

    def __aiter__(self) -> dss.Hub[Any]:
        return self._hub

    def __exit__(self, *_: object) -> None:
        self._hub.close()

    async def __aexit__(self, *_: object) -> None:
        await self._hub.aclose()


# -- A blocking portal -----------------------------------------------------------------------------


class BlockingPortal:
    async def __aenter__(self) -> dss.Portal[Any]:
        self._hub = dss.open_hub[Any]()
        return (await self._hub.__aenter__()).portal

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool | None:
        return await self._hub.__aexit__(exc_type, exc_val, exc_tb)


@contextmanager
def start_blocking_portal(
    backend: str = "asyncio", backend_options: dict[str, Any] | None = None
) -> Iterator[dss.Portal[Any]]:
    with dss.start_hub(backend=backend, backend_options=backend_options) as hub:
        yield hub.portal


# -- The exchange ----------------------------------------------------------------------------------

streams = Streams()


@pytest.fixture
async def end_of_hubs() -> AsyncIterator[None]:
    yield
    await streams.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    stale = {path: dict(names) for path, names in LEFT_OUT.items()}
    modules = {item.module for item in items if isinstance(item, pytest.Function)}
    for module in modules:
        if hasattr(module, "create_memory_object_stream"):
            module.create_memory_object_stream = streams
        else:
            module.BlockingPortal = BlockingPortal
            module.start_blocking_portal = start_blocking_portal
            module.from_thread = SimpleNamespace(
                **{**vars(module.from_thread), "BlockingPortal": BlockingPortal}
            )
    for item in items:
        path, _, name = item.nodeid.partition("::")
        name = name.rpartition("::")[2].partition("[")[0]
        reason = LEFT_OUT[path].get(name)
        stale[path].pop(name, None)
        if reason is not None:
            item.add_marker(pytest.mark.skip(reason=reason))
        elif path == STREAMS and isinstance(item, pytest.Function):
            item.fixturenames.append("end_of_hubs")
    for path, names in stale.items():
        if names:
            raise pytest.UsageError(f"{path} has no {', '.join(names)}")


# -- The command -----------------------------------------------------------------------------------


def main() -> int:
    with tempfile.TemporaryDirectory() as there:
        wanted = f"anyio=={version('anyio')}"
        fetch = ["download", "--quiet", "--no-deps", "--no-binary", "anyio", "--dest", there]
        subprocess.run([sys.executable, "-m", "pip", *fetch, wanted], check=True)
        [archive] = Path(there).glob("anyio-*.tar.gz")
        with tarfile.open(archive) as packed:
            if hasattr(tarfile, "data_filter"):
                packed.extraction_filter = tarfile.data_filter
            packed.extractall(there)
        [suite] = Path(there).glob("anyio-*/")
        Path(suite, "pytest.ini").write_text("[pytest]\nanyio_mode = auto\ntimeout = 60\n")
        options = [
            "-c",
            "pytest.ini",
            "-q",
            "-rs",
            "-p",
            "no:cacheprovider",
            "-p",
            "suite_of_anyio",
        ]
        return subprocess.run(
            [sys.executable, "-m", "pytest", *options, STREAMS, f"{PORTALS}::TestBlockingPortal"]
            + sys.argv[1:],
            cwd=suite,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
            check=False,
        ).returncode


if __name__ == "__main__":
    sys.exit(main())
