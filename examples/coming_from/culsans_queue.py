"""A thread takes jobs and sends results: with two culsans queues, then with a feed and a hub."""

import sys
import threading

import anyio
import culsans

import dss_anyio as dss

JOBS = [1, 2, 3]


async def before() -> None:
    jobs: culsans.Queue[int] = culsans.Queue(2)
    results: culsans.Queue[int] = culsans.Queue(2)

    def work() -> None:
        try:
            while True:
                results.sync_put(jobs.sync_get() ** 2)
        except culsans.QueueShutDown:
            results.shutdown()

    async def receive() -> None:
        try:
            while True:
                print(await results.async_get())
        except culsans.QueueShutDown:
            print("all results are there")

    try:
        async with anyio.create_task_group() as tasks:
            threading.Thread(target=work).start()
            tasks.start_soon(receive)
            for job in JOBS:
                await jobs.async_put(job)
            jobs.shutdown()
    finally:  # if a task fails, the thread would wait for ever without this
        jobs.shutdown(immediate=True)
        results.shutdown(immediate=True)


async def after() -> None:
    def work(feed: dss.Feed[int], portal: dss.Portal[int]) -> None:
        with portal:
            try:
                while True:
                    portal.send(feed.take() ** 2)
            except anyio.EndOfStream:
                pass

    async def receive(hub: dss.Hub[int]) -> None:
        async for result in hub:
            print(result)
        print("all results are there")

    async with dss.open_hub[int](2) as hub, anyio.create_task_group() as tasks:
        with hub.open_feed(2) as feed:
            threading.Thread(target=work, args=[feed, hub.portal]).start()
            tasks.start_soon(receive, hub)
            for job in JOBS:
                await feed.send(job)


backend = sys.argv[1] if len(sys.argv) > 1 else "asyncio"
anyio.run(before, backend=backend)
anyio.run(after, backend=backend)
