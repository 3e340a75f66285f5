"""Threads ask, and wait for the answer; one of them has no time."""

import sys
import threading

import anyio

import dss_anyio as dss

answered = threading.Barrier(2)
told: list[str] = []


def patient(portal: dss.Portal[str]) -> None:
    print("the answer is", portal.request("ada"))
    answered.wait()


def impatient(portal: dss.Portal[str]) -> None:
    answered.wait()
    with portal:
        try:
            portal.request("slow", timeout=0.5)
        except TimeoutError as exc:
            told.append(str(exc))


async def main() -> None:
    async with dss.open_hub() as hub:
        for func in (patient, impatient):
            threading.Thread(target=func, args=[hub.portal]).start()
        async for request in hub:
            async with request:  # left without an answer, it raises NoReplyError in the thread
                if request.item == "slow":
                    await request.wait_abandoned()
                    print("nobody waits for it any more:", request.abandoned)
                else:
                    request.reply(request.item.title())
    print(*told)


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
