"""A sender that is faster than the receiver: what each policy makes of it."""

import sys
import threading

import anyio

import dss_anyio as dss


def send_ten(portal: dss.Portal[int]) -> None:
    print("accepted:", sum(portal.offer(number) for number in range(10)))


async def main() -> None:
    for policy in ("block", "drop_oldest", "drop_newest"):
        async with dss.open_hub[int](3, overflow=policy) as hub:
            back: list[int] = []
            portal = hub.register("sensor", on_undelivered=back.append)
            sender = threading.Thread(target=send_ten, args=[portal])
            sender.start()
            sender.join()  # the loop does something else meanwhile
            print(f"{policy}: received {await hub.receive_many()}, dropped {back}")
            counts = hub.statistics()
            print(f"sent {counts.sent} = {counts.received} + {counts.dropped}\n")


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
