"""CPython's own tests for ``queue.Queue`` and ``queue.SimpleQueue``, on a hub.

Each CPython brings its own; Debian has them in a package apart. Its queue is put to by ``portal``
and got from by threads that ``call`` the hub's receiving end, so ``call`` is tested as well: 50
threads at once, with time limits that cancel a receiver.
"""

from __future__ import annotations

import gc
import math
import unittest
from types import SimpleNamespace
from typing import Any

import anyio
import pytest
from conftest import WITHOUT_GIL

import dss_anyio as dss

cpython = pytest.importorskip("test.test_queue", reason="this Python came without its own tests")

DO_NOT_APPLY = {
    "test_queue_join": "a hub does not count what is done: who must know it asks, with request()",
    "test_queue_task_done": "the same",
    "test_shrinking_queue": "the size of a hub does not change",
    "test_is_default": "whether the queue is the one of the queue module",
}
if WITHOUT_GIL:
    DO_NOT_APPLY["test_references"] = "an object is freed by the thread that made it, in its time"
SHUTDOWN = "close_senders() is Queue.shutdown() with other errors: test_portal.py has it"


class Queue:
    """As ``queue.Queue`` is used."""

    def __init__(self, test: unittest.TestCase, backend: str, maxsize: int = 0) -> None:
        self.maxsize = maxsize
        opened = dss.start_hub(maxsize or math.inf, backend=backend)
        self.hub = opened.__enter__()
        test.addCleanup(opened.__exit__, None, None, None)
        self.receiver = self.hub.clone()
        test.addCleanup(self.receiver.close)

    def put(self, item: object, block: bool = True, timeout: float | None = None) -> None:
        try:
            if block:
                self.hub.portal.send(item, timeout=timeout)
            else:
                self.hub.portal.send_nowait(item)
        except (anyio.WouldBlock, TimeoutError):
            raise cpython.c_queue.Full from None

    def get(self, block: bool = True, timeout: float | None = None) -> Any:
        if timeout is not None and timeout < 0:
            raise ValueError
        try:
            if not block:
                return self.hub.portal.call(self.receiver.receive_nowait)
            if timeout is None:
                return self.hub.portal.call(self.receiver.receive)
            return self.hub.portal.call(self.get_in_time, timeout)
        except (anyio.WouldBlock, TimeoutError):
            raise cpython.c_queue.Empty from None

    async def get_in_time(self, timeout: float) -> Any:
        try:
            return self.receiver.receive_nowait()  # even if there is hardly any time
        except anyio.WouldBlock:
            with anyio.fail_after(timeout):
                return await self.receiver.receive()

    def put_nowait(self, item: object) -> None:
        self.put(item, block=False)

    def get_nowait(self) -> Any:
        return self.get(block=False)

    def qsize(self) -> int:
        return len(self.hub)

    def empty(self) -> bool:
        return not len(self.hub)

    def full(self) -> bool:
        return len(self.hub) == self.maxsize


def leave_out(tests: type[unittest.TestCase]) -> type[unittest.TestCase]:
    for name in dir(tests):
        reason = SHUTDOWN if name.startswith("test_shutdown") else DO_NOT_APPLY.get(name)
        if reason is not None:
            setattr(tests, name, unittest.skip(reason)(getattr(tests, name)))
    return tests


@leave_out
class QueueOnAsyncio(cpython.QueueTest, unittest.TestCase):
    backend = "asyncio"

    def setUp(self) -> None:
        self.queue = SimpleNamespace(
            Queue=lambda *args: Queue(self, self.backend, *args),
            Full=cpython.c_queue.Full,
            Empty=cpython.c_queue.Empty,
        )
        super().setUp()


class QueueOnTrio(QueueOnAsyncio):
    backend = "trio"


@leave_out
class SimpleQueueOnAsyncio(cpython.CSimpleQueueTest):
    backend = "asyncio"

    def setUp(self) -> None:
        self.q = Queue(self, self.backend)
        self.addCleanup(gc.collect)  # what puts when it is collected does so while there is a hub


class SimpleQueueOnTrio(SimpleQueueOnAsyncio):
    backend = "trio"
