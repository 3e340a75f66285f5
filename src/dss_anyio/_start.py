"""A hub for a program that has no event loop: it gets one in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Generator
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any

import anyio

from ._face import OnError
from ._hub import Hub
from ._mailbox import Overflow


@contextmanager
def start_hub(
    max_buffer_size: float = 1024,
    *,
    overflow: Overflow = "block",
    name: str | None = None,
    on_error: OnError | None = None,
    backend: str = "asyncio",
    backend_options: dict[str, Any] | None = None,
) -> Generator[Hub[Any], None, None]:
    """Run an event loop with a hub in a thread of its own: ``with dss.start_hub() as hub``.

    For a program that is synchronous otherwise. Its threads use ``hub.portal``: ``call`` and
    ``start_task_soon`` run functions in that loop, ``hub.portal.start_task_soon(hub.serve,
    handler)`` answers requests. Leaving the block ends the hub as :class:`Hub` does, cancels its
    tasks, and waits for the thread.

    :param backend: ``"asyncio"`` or ``"trio"``
    :param backend_options: as for ``anyio.run``, such as ``{"use_uvloop": True}``
    :return: a context manager for the hub; the other parameters are those of :func:`open_hub`
    :raises Exception: what the end of the hub raises
    """
    hub: Hub[Any] = Hub(max_buffer_size, overflow=overflow, name=name, on_error=on_error)
    opened: Future[anyio.Event] = Future()
    ended: Future[None] = Future()

    async def main() -> None:
        leave = anyio.Event()
        async with hub:
            opened.set_result(leave)
            await leave.wait()

    def run() -> None:
        try:
            anyio.run(main, backend=backend, backend_options=backend_options)
        except BaseException as exc:
            (ended if opened.done() else opened).set_exception(exc)
        else:
            ended.set_result(None)

    # A daemon: the exit of Python ends the hub, whoever has forgotten this context manager.
    thread = threading.Thread(target=run, name=f"dss_anyio: {hub.name}", daemon=True)
    thread.start()
    leave = opened.result()
    try:
        yield hub
    finally:
        call_soon = hub._mailbox.call_soon  # pyright: ignore[reportPrivateUsage]  # of one room
        assert call_soon is not None  # it was opened
        call_soon(leave.set)  # not by a portal, which may be closed; harmless after the end
        thread.join()
    ended.result()
