"""A thousand topics, of which the latest value is enough; and alarms, of which none may be lost."""

import sys
import threading

import anyio

import dss_anyio as dss

TOPICS = 1000


def publish(topics: list[dss.Portal[str]], alarms: dss.Portal[str]) -> None:
    """A library that is much faster than the program."""
    for second in range(20):
        for number, topic in enumerate(topics):
            topic.offer(f"topic {number}: {second}")
        alarms.offer(f"alarm {second}")


async def main() -> None:
    async with dss.open_hub[str](64) as hub:
        topics = [
            hub.register(f"topic {number}", max_buffer_size=1, overflow="drop_oldest")
            for number in range(TOPICS)
        ]
        alarms = hub.register("alarms")
        thread = threading.Thread(target=publish, args=(topics, alarms))
        thread.start()
        await anyio.to_thread.run_sync(thread.join)  # the program is busy meanwhile

        items = await hub.receive_many()
        print("alarms:", sum(item.startswith("alarm") for item in items))
        print("topics:", sum(item.startswith("topic") for item in items))
        print("the last ones:", *items[-2:], sep="\n  ")
        sources = hub.statistics().sources
        print("dropped of topic 7:", sources["topic 7"].dropped)
        print("dropped of the alarms:", sources["alarms"].dropped)


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
