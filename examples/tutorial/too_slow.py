"""A sender that is faster than the receiver: what each policy makes of it."""

import sys
import threading

import anyio

import dss_anyio as dss


def send_ten(portal: dss.Portal[int]) -> None:
    for number in range(10):
        portal.offer(number)


async def main() -> None:
    for policy in ("block", "drop_oldest", "drop_newest"):
        async with dss.open_hub[int](3, overflow=policy) as hub:
            returned: list[int] = []
            source = hub.register("sensor", on_undelivered=returned.append)
            sender = threading.Thread(target=send_ten, args=[source])
            sender.start()
            sender.join()  # the loop is busy meanwhile
            received = await hub.receive_many()
            counts = hub.statistics()
            print(f"{policy}: received {received}, dropped {counts.dropped}, sent {counts.sent}")


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
