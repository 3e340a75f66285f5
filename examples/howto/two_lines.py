"""Ask with a deadline while many items are queued: a second hub has a queue of its own."""

import sys
import threading

import anyio

import dss_anyio as dss


def work(items: dss.Portal[int], questions: dss.Portal[str]) -> None:
    with items, questions:
        items.send_many(range(1000))
        print("may I go on?", questions.request("may I go on?", timeout=5))
        print("items that are still queued:", len(hub))


async def answer(question: str) -> str:
    return "yes" if question.endswith("?") else "what?"


async def main() -> None:
    global hub
    async with dss.open_hub[int](1000) as hub, dss.open_hub[str]() as asked:
        asked.task_group.start_soon(asked.serve, answer)
        portals = hub.register("worker"), asked.register("worker")
        thread = threading.Thread(target=work, args=portals)
        thread.start()
        await anyio.to_thread.run_sync(thread.join)  # nothing is received meanwhile
        print("received:", len(await hub.receive_many()))


hub: dss.Hub[int]
anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
