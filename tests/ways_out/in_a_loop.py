"""Leave a hub in an event loop. Arguments: the way out, the backend."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator

import anyio
from crowd import (
    Crowd,
    ask_for_ctrl_c,
    let_go_on,
    main_thread_sleeps,
    press_ctrl_c_when,
    run,
    say,
    wait_until,
)

import dss_anyio as dss

crowd = Crowd()


async def normally() -> None:
    async with dss.open_hub(4) as hub:
        await crowd.surround(hub)


async def normally_while_items_are_received() -> None:
    async def consume() -> None:
        async for _ in hub:
            some.set()

    some = anyio.Event()
    async with dss.open_hub(4) as hub:
        crowd.come(hub)
        hub.task_group.start_soon(consume)
        await some.wait()


async def by_an_exception() -> None:
    async with dss.open_hub(4) as hub:
        await crowd.surround(hub)
        raise ValueError("in the body")


async def by_a_crashed_consumer() -> None:
    async def consume() -> None:
        async for _ in hub:
            raise ValueError("in the consumer")

    async with dss.open_hub(4) as hub:
        await crowd.surround(hub)
        hub.task_group.start_soon(consume)
        await anyio.sleep_forever()


async def by_a_cancelled_scope() -> None:
    with anyio.CancelScope() as scope:
        async with dss.open_hub(4) as hub:
            await crowd.surround(hub)
            scope.cancel()
            await anyio.sleep_forever()
    say(f"cancelled: {scope.cancelled_caught}")


async def by_a_timeout() -> None:
    try:
        with anyio.fail_after(None) as scope:
            async with dss.open_hub(4) as hub:
                await crowd.surround(hub)
                scope.deadline = anyio.current_time()
                async for _ in hub:
                    pass
    except TimeoutError:
        say("TimeoutError")


async def by_native_cancellation() -> None:
    async def body() -> None:
        async with dss.open_hub(4) as hub:
            await crowd.surround(hub)
            ready.set()
            await asyncio.sleep(3600)

    ready = asyncio.Event()
    task = asyncio.create_task(body())
    await ready.wait()
    task.cancel()
    await asyncio.wait([task])
    say(f"cancelled: {task.cancelled()}")


async def by_native_cancellation_twice() -> None:
    async def body() -> None:
        async with dss.open_hub(4) as hub:
            hub.register("library", stop=cancel_once_more)
            await crowd.surround(hub)
            ready.set()
            await hub.receive()
            await asyncio.sleep(3600)

    def cancel_once_more() -> None:
        done = threading.Event()
        loop.call_soon_threadsafe(task.cancel)
        loop.call_soon_threadsafe(loop.call_soon, done.set)  # the task has had its turn by then
        done.wait()
        say(f"still ending: {not task.done()}")

    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    task = asyncio.create_task(body())
    await ready.wait()
    task.cancel()
    await asyncio.wait([task])
    say(f"cancelled: {task.cancelled()}")


async def by_ctrl_c() -> None:
    async with dss.open_hub(4) as hub:
        await crowd.surround(hub)
        press_ctrl_c_when(main_thread_sleeps)
        await anyio.sleep_forever()


async def by_ctrl_c_while_items_are_received() -> None:
    async with dss.open_hub(4) as hub:
        crowd.come(hub)
        press_ctrl_c_when(lambda: hub.statistics().received > 100)
        async for item in hub:
            let_go_on(item)


async def by_ctrl_c_twice() -> None:
    """The second one comes while the hub is waiting for a library to stop."""
    async with dss.open_hub(4) as hub:
        hub.register("library", stop=lambda: (wait_until(main_thread_sleeps), ask_for_ctrl_c()))
        await crowd.surround(hub)
        press_ctrl_c_when(main_thread_sleeps)
        await anyio.sleep_forever()


async def by_sys_exit() -> None:
    async with dss.open_hub(4) as hub:
        await crowd.surround(hub)
        sys.exit(3)


async def by_forgetting_a_generator() -> None:
    """An async generator that has a hub open is left halfway. Trio does not allow that."""

    async def open_and_yield() -> AsyncIterator[None]:
        async with dss.open_hub(4) as hub:
            await crowd.surround(hub)
            yield

    async for _ in open_and_yield():
        break


async def by_closing_it() -> None:
    """Its last receiving end is closed, long before the block is left."""
    async with dss.open_hub(4) as hub:
        await crowd.surround(hub)
        hub.close()
        await anyio.to_thread.run_sync(crowd.wait_until_released)
        say(f"blocked: {len(hub.blocked())}")


try:
    run(sys.argv[2], globals()[sys.argv[1]])
finally:
    crowd.see_off()
    say("over")
