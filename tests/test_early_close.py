"""Async generators that have a hub open and are closed early; coroutines that are destroyed."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine
from typing import Any

import anyio
import pytest
from conftest import BACKENDS, asyncio_only

import dss_anyio as dss
from dss_anyio._loops.closing import may_await
from dss_anyio.testing import eventually

pytestmark = pytest.mark.anyio


class Library:
    """One that sends from a thread of its own until it is stopped."""

    def __init__(self) -> None:
        self.stopped = threading.Event()
        self._quit = threading.Event()

    def start(self, portal: dss.Portal[int]) -> threading.Thread:
        def run() -> None:
            portal.offer(1)
            self._quit.wait()

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def stop(self, thread: threading.Thread) -> None:
        self._quit.set()
        thread.join()
        self.stopped.set()


async def events(library: Library) -> AsyncGenerator[int, None]:
    async with dss.open_hub[int]() as hub, hub.open_source("lib", library.start, library.stop):
        async for item in hub:
            yield item


@contextlib.asynccontextmanager
async def opened() -> AsyncGenerator[dss.Hub[int], None]:
    async with dss.open_hub[int]() as hub:
        yield hub


async def with_a_task(library: Library) -> AsyncGenerator[int, None]:
    async with dss.open_hub[int]() as hub:
        hub.task_group.start_soon(anyio.sleep_forever)
        async with hub.open_source("lib", library.start, library.stop):
            async for item in hub:
                yield item


async def in_a_context_manager(library: Library) -> AsyncGenerator[int, None]:
    async with opened() as hub, hub.open_source("lib", library.start, library.stop):
        async for item in hub:
            yield item


async def on_a_stack(library: Library) -> AsyncGenerator[int, None]:
    async with contextlib.AsyncExitStack() as stack:
        hub = await stack.enter_async_context(dss.open_hub[int]())
        await stack.enter_async_context(hub.open_source("lib", library.start, library.stop))
        async for item in hub:
            yield item


@pytest.mark.parametrize("generator", [events, with_a_task, in_a_context_manager, on_a_stack])
async def test_a_generator_that_is_closed_early_ends_its_hub_before_aclose_returns(
    generator: Callable[[Library], AsyncGenerator[int, None]],
) -> None:
    library = Library()
    with anyio.CancelScope() as outer:
        async with anyio.create_task_group():
            async with contextlib.aclosing(generator(library)) as items:
                async for _ in items:
                    break
            assert library.stopped.is_set()
    assert not outer.cancelled_caught


async def test_the_hub_of_a_generator_ends_with_the_errors_of_its_library() -> None:
    def fails(_: object) -> None:
        raise OSError("cannot stop")

    async def failing() -> AsyncGenerator[int, None]:
        async with dss.open_hub[int]() as hub:
            hub.register("lib", stop=lambda: fails(None))
            yield 1

    with pytest.raises(BaseException) as caught:
        async with contextlib.aclosing(failing()) as items:
            async for _ in items:
                break
    (error,) = caught.value.exceptions  # type: ignore[attr-defined]
    assert isinstance(error, OSError)


async def test_a_generator_exit_that_somebody_raises_ends_the_hub_as_any_exception() -> None:
    stopped = threading.Event()
    with pytest.raises(GeneratorExit):
        async with dss.open_hub[int]() as hub:
            hub.register("lib", stop=stopped.set)
            raise GeneratorExit
    assert stopped.is_set()


# -- coroutines that are being destroyed -----------------------------------------------------------


async def test_in_a_running_task_it_is_seen_whether_a_coroutine_was_closed() -> None:
    seen: list[bool] = []

    class Look:
        async def __aenter__(self) -> None:
            pass

        async def __aexit__(self, _: object, exc: BaseException | None, __: object) -> None:
            assert exc is not None
            seen.append(may_await(exc))

    async def waits() -> None:
        async with Look():
            await anyio.Event().wait()

    async def yields() -> AsyncGenerator[int, None]:
        async with Look():
            yield 1

    coroutine = waits()
    coroutine.send(None)
    coroutine.close()
    assert seen == [False]
    generator = yields()
    await generator.__anext__()
    await generator.aclose()
    assert seen == [False, True]


def test_outside_of_tasks_nothing_may_await() -> None:
    assert not may_await(GeneratorExit())
    assert may_await(ValueError())


async def test_a_source_ends_with_its_generator_while_its_hub_goes_on() -> None:
    """With a plain ``stop`` and a coroutine function. With ``drain``, this is no normal end."""
    log: list[str] = []

    async def stop(_: object) -> None:
        await anyio.sleep(0)
        log.append("coroutine")

    async def items(
        hub: dss.Hub[int], stop: Callable[[object], object], drain: bool
    ) -> AsyncGenerator[int, None]:
        opened = hub.open_source(
            "lib", lambda portal: portal.send_many([1, 2]), stop, drain=drain,
            on_undelivered=lambda item: log.append(f"{item} handed back"),
        )  # fmt: skip
        async with opened:
            async for item in hub:
                yield item

    async with dss.open_hub[int]() as hub:
        for how in (lambda _: log.append("plain"), stop):
            for drain in (False, True):
                with anyio.CancelScope():  # in their order on the way out
                    async with contextlib.aclosing(items(hub, how, drain)) as generator:
                        async for item in generator:
                            assert item == 1
                            break
                with pytest.raises(LookupError):
                    hub.source("lib")
        assert log == ["plain", "2 handed back"] * 2 + ["coroutine", "2 handed back"] * 2
        hub.portal.send_nowait(3)
        assert await hub.receive() == 3


# -- opened in one task, closed in another ---------------------------------------------------------


@asyncio_only
@pytest.mark.parametrize("has_ended", [True, False], ids=["its task has ended", "its task goes on"])
@pytest.mark.parametrize("has_tasks", [True, False], ids=["with a task", "without tasks"])
async def test_another_task_may_close_a_hub_and_nobody_is_cancelled(
    has_ended: bool, has_tasks: bool
) -> None:
    hub = dss.open_hub[int]()
    cancelled = stopped = False
    begun = anyio.Event()

    async def waits() -> None:
        nonlocal cancelled
        begun.set()
        try:
            await anyio.sleep_forever()
        except BaseException:
            cancelled = True
            raise

    async def close() -> None:
        nonlocal stopped
        await hub.__aexit__(None, None, None)
        stopped = True

    if has_ended:
        await asyncio.ensure_future(hub.__aenter__())
    else:
        await hub.__aenter__()
    if has_tasks:
        hub.portal.start_task_soon(waits)
        await begun.wait()
    await asyncio.ensure_future(close())
    assert stopped
    assert cancelled is has_tasks
    assert not hub.portal.offer(1)
    with anyio.CancelScope():
        for _ in range(5):
            await anyio.sleep(0)


@asyncio_only
async def test_a_hub_without_tasks_may_be_closed_elsewhere_whatever_scope_its_opener_is_in() -> (
    None
):
    hub = dss.open_hub[int]()
    await hub.__aenter__()
    with anyio.CancelScope() as entered_after_it:
        await asyncio.ensure_future(hub.__aexit__(None, None, None))
        assert not hub.portal.offer(1)
        for _ in range(5):
            await anyio.sleep(0)
    assert not entered_after_it.cancelled_caught


@asyncio_only
async def test_a_hub_with_tasks_may_be_closed_once_its_opener_has_ended_in_whatever_scope() -> None:
    hub = dss.open_hub[int]()
    leaked = anyio.CancelScope()
    cancelled: list[bool] = []

    async def opens() -> None:
        await hub.__aenter__()
        leaked.__enter__()

    async def waits() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            cancelled.append(True)

    await asyncio.ensure_future(opens())
    hub.task_group.start_soon(waits)
    await anyio.sleep(0)
    await hub.__aexit__(None, None, None)
    assert cancelled == [True]


@asyncio_only
async def test_what_cannot_be_closed_elsewhere_says_so_and_cancels_nobody() -> None:
    hub = dss.open_hub[int]()
    await hub.__aenter__()
    with anyio.CancelScope():
        hub.task_group.start_soon(anyio.sleep, 0)
        with pytest.raises(RuntimeError, match="opened in one task and closed in another"):
            await asyncio.ensure_future(hub.__aexit__(None, None, None))
        assert not hub.portal.offer(1)
        for _ in range(5):
            await anyio.sleep(0)


# -- closed by somebody else -----------------------------------------------------------------------


class Blocked:
    """A hub in a generator, and a thread that blocks in ``send`` until it is refused."""

    hub: dss.Hub[int]

    def __init__(self) -> None:
        self.refusal: Exception | None = None
        self.stopped = threading.Event()

    def start(self, portal: dss.Portal[int]) -> threading.Thread:
        def run() -> None:
            try:
                while True:
                    portal.send(1)
            except Exception as exc:
                self.refusal = exc

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def stop(self, thread: threading.Thread) -> None:
        thread.join(20)
        self.stopped.set()

    async def in_a_hub(self) -> AsyncGenerator[int, None]:
        async with dss.open_hub[int](0) as self.hub:
            thread = self.start(self.hub.portal)
            self.hub.register("lib", stop=lambda: self.stop(thread))
            async for item in self.hub:
                yield item

    async def in_a_source(self) -> AsyncGenerator[int, None]:
        async with (
            dss.open_hub[int](0) as self.hub,
            self.hub.open_source("lib", self.start, self.stop),
        ):
            async for item in self.hub:
                yield item

    async def take_one(self, items: AsyncGenerator[int, None]) -> None:
        """Leave *items* without closing them, and the thread blocked."""
        async for _ in items:
            break
        await eventually(self.hub.blocked)
        assert self.refusal is None

    def has_ended(self) -> bool:
        return repr(self.hub).startswith(f"<Hub {self.hub.name!r}: ended")

    def assert_released(self) -> None:
        assert self.stopped.is_set()
        assert isinstance(self.refusal, (anyio.ClosedResourceError, anyio.BrokenResourceError))
        assert self.has_ended()
        assert not self.hub.portal.offer(1)


in_both = pytest.mark.parametrize("generator", [Blocked.in_a_hub, Blocked.in_a_source])


def run(main: Callable[[], Coroutine[Any, Any, None]], anyio_backend: Any) -> None:
    """Run *main*. Trio always complains in the end of a task that has left a task group open."""
    name, options = anyio_backend
    said = pytest.raises(RuntimeError, match="Nursery stack corrupted")
    with said if name == "trio" else contextlib.nullcontext():
        anyio.run(main, backend=name, backend_options=options)


@pytest.mark.filterwarnings("ignore:Async generator .* was garbage collected:ResourceWarning")
@pytest.mark.parametrize("scope", ["around it", "entered after it"])
@in_both
def test_a_generator_that_nobody_has_any_more_ends_its_hub_and_the_program_goes_on(
    generator: Callable[[Blocked], AsyncGenerator[int, None]], scope: str, anyio_backend: Any
) -> None:
    blocked = Blocked()
    went_on: list[bool] = []

    async def main() -> None:
        around, after = anyio.CancelScope(), anyio.CancelScope()
        with around if scope == "around it" else contextlib.nullcontext():
            await blocked.take_one(generator(blocked))
            with after if scope == "entered after it" else contextlib.nullcontext():
                gc.collect()  # PyPy finds it in no other way
                await eventually(lambda: blocked.stopped.is_set() and blocked.has_ended())
                blocked.assert_released()
            await anyio.sleep(0)
            went_on.append(not (around.cancel_called or after.cancel_called))

    run(main, anyio_backend)
    assert went_on == [True]


@in_both
def test_a_generator_that_is_left_open_ends_its_hub_with_the_event_loop(
    generator: Callable[[Blocked], AsyncGenerator[int, None]], anyio_backend: Any
) -> None:
    blocked = Blocked()
    items = generator(blocked)
    went_on: list[bool] = []

    async def main() -> None:
        await blocked.take_one(items)
        went_on.append(not blocked.stopped.is_set())

    run(main, anyio_backend)
    assert went_on == [True]
    blocked.assert_released()


@asyncio_only
@in_both
def test_shutdown_asyncgens_ends_the_hub_before_it_returns_and_complains_of_nothing(
    generator: Callable[[Blocked], AsyncGenerator[int, None]], anyio_backend: Any
) -> None:
    """It closes all async generators at once; so none of ours may stand in the loop."""
    blocked = Blocked()
    items = generator(blocked)
    complaints: list[dict[str, Any]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: complaints.append(context))
        with anyio.CancelScope() as outer:
            await blocked.take_one(items)
            await loop.shutdown_asyncgens()
            blocked.assert_released()
            await anyio.sleep(0)
            assert not outer.cancel_called
        with pytest.raises(StopAsyncIteration):
            await items.__anext__()

    run(main, anyio_backend)
    assert complaints == []


@pytest.mark.parametrize("anyio_backend", [BACKENDS["trio"]], ids=["trio"])
@in_both
def test_on_trio_aclose_in_another_task_says_where_to_close_and_cancels_nobody(
    generator: Callable[[Blocked], AsyncGenerator[int, None]], anyio_backend: Any
) -> None:
    blocked = Blocked()
    items = generator(blocked)
    went_on: list[str] = []

    async def main() -> None:
        standing, closed = anyio.Event(), anyio.Event()

        async def opens() -> None:
            await blocked.take_one(items)
            standing.set()
            await closed.wait()
            await anyio.sleep(0)
            went_on.append("the opener")

        async def bystander() -> None:
            await closed.wait()
            await anyio.sleep(0)
            went_on.append("a bystander")

        async def closes() -> None:
            await standing.wait()
            with pytest.raises(RuntimeError, match="opened in one task .* close it in that task"):
                await items.aclose()
            blocked.assert_released()
            await anyio.sleep(0)
            went_on.append("the closer")
            closed.set()

        async with anyio.create_task_group() as others:
            others.start_soon(bystander)
            others.start_soon(closes)
            await opens()

    run(main, anyio_backend)
    assert sorted(went_on) == ["a bystander", "the closer", "the opener"]
