"""Threads that want an answer: how long they wait for it, one question after the other.

A contender is an async context manager for a function, which is called in each of the asking
threads and returns when it has the answer.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel

import dss_anyio as dss

Ask = Callable[[int], object]


def answer(number: int) -> int:
    return number


async def answer_async(number: int) -> int:
    return number


def _ours(handler: Callable[[int], Any]) -> Callable[[], AbstractAsyncContextManager[Ask]]:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Ask]:
        async with dss.open_hub[int]() as hub:
            hub.task_group.start_soon(hub.serve, handler)
            yield hub.portal.request

    return opened


def _our_call(func: Callable[[int], Any]) -> Callable[[], AbstractAsyncContextManager[Ask]]:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Ask]:
        async with dss.open_hub[int]() as hub:
            call = hub.portal.call
            yield lambda number: call(func, number)

    return opened


def _portals_call(func: Callable[[int], Any]) -> Callable[[], AbstractAsyncContextManager[Ask]]:
    @asynccontextmanager
    async def opened() -> AsyncIterator[Ask]:
        async with anyio.from_thread.BlockingPortal() as portal:
            call = portal.call
            yield lambda number: call(func, number)

    return opened


@asynccontextmanager
async def _anyio_token() -> AsyncIterator[Ask]:
    token = anyio.lowlevel.current_token()
    run_sync = anyio.from_thread.run_sync
    yield lambda number: run_sync(answer, number, token=token)


@asynccontextmanager
async def _loops_own() -> AsyncIterator[Ask]:
    """``run_coroutine_threadsafe`` of asyncio, ``from_thread.run_sync`` of trio."""
    token = anyio.lowlevel.current_token().native_token
    if isinstance(token, asyncio.AbstractEventLoop):
        yield lambda number: asyncio.run_coroutine_threadsafe(answer_async(number), token).result()
    else:
        import trio

        run_sync = trio.from_thread.run_sync
        yield lambda number: run_sync(answer, number, trio_token=token)


@asynccontextmanager
async def _by_hand() -> AsyncIterator[Ask]:
    """The least that a thread can do: a lock, and the loop's own way in. It forgets all errors."""
    token: Any = anyio.lowlevel.current_token().native_token
    call_soon = getattr(token, "call_soon_threadsafe", None) or token.run_sync_soon

    def ask(number: int) -> object:
        answered = threading.Lock()
        answered.acquire()
        answers: list[int] = []

        def call() -> None:
            answers.append(answer(number))
            answered.release()

        call_soon(call)
        answered.acquire()
        return answers[0]

    yield ask


@asynccontextmanager
async def _aiologic() -> AsyncIterator[Ask]:
    """Two queues: the question comes with the queue for its answer."""
    import aiologic

    questions: Any = aiologic.SimpleQueue()

    async def serve() -> None:
        while True:
            number, answers = await questions.async_get()
            answers.green_put(answer(number))

    def ask(number: int) -> object:
        answers: Any = aiologic.SimpleQueue()
        questions.green_put((number, answers))
        return answers.green_get()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(serve)
        yield ask
        tasks.cancel_scope.cancel()


CONTENDERS: dict[str, Callable[[], AbstractAsyncContextManager[Ask]]] = {
    "hub.serve": _ours(answer),
    "hub.serve, coroutine": _ours(answer_async),
    "hub.call": _our_call(answer),
    "hub.call, coroutine": _our_call(answer_async),
    "BlockingPortal.call": _portals_call(answer),
    "BlockingPortal.call, coroutine": _portals_call(answer_async),
    "anyio's token": _anyio_token,
    "loop's own": _loops_own,
    "aiologic": _aiologic,
    "by hand": _by_hand,
}


def _ask_again_and_again(ask: Ask, ready: threading.Barrier, times: list[float], many: int) -> None:
    for number in range(20):  # the first ones make what is made once
        ask(number)
    ready.wait()
    clock = time.perf_counter
    for number in range(many):
        begun = clock()
        ask(number)
        times.append(clock() - begun)


async def measure(contender: str, askers: int, questions: int) -> list[float]:
    """Seconds for each round trip."""
    times: list[list[float]] = [[] for _ in range(askers)]
    ready = threading.Barrier(askers)
    async with CONTENDERS[contender]() as ask:
        threads = [
            threading.Thread(
                target=_ask_again_and_again, args=(ask, ready, each, questions // askers)
            )
            for each in times
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            await anyio.sleep(0.01)
    return [seconds for each in times for seconds in each]


def measure_without_loop(contender: str, askers: int, questions: int) -> list[float]:
    """The floor: this thread answers, with one ``SimpleQueue`` for each direction."""
    assert contender == "SimpleQueue"
    incoming: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def ask(number: int) -> object:
        answers: queue.SimpleQueue[int] = queue.SimpleQueue()
        incoming.put((number, answers))
        return answers.get()

    times: list[list[float]] = [[] for _ in range(askers)]
    ready = threading.Barrier(askers)
    threads = [
        threading.Thread(target=_ask_again_and_again, args=(ask, ready, each, questions // askers))
        for each in times
    ]
    for thread in threads:
        thread.start()
    for _ in range(20 * askers + questions // askers * askers):
        number, answers = incoming.get()
        answers.put(answer(number))
    for thread in threads:
        thread.join()
    return [seconds for each in times for seconds in each]
