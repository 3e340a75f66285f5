"""A handler raises: the asker gets the exception; for a plain item, on_error gets it."""

import sys
import threading

import anyio

import dss_anyio as dss


def work(portal: dss.Portal[str]) -> None:
    with portal:
        portal.send("seventeen")
        try:
            portal.request("eighteen")
        except ValueError as exc:
            print("the asker gets:", exc)
        print("the answer is", portal.request("19"))


def on_error(error: BaseException, _: str | None) -> None:
    print("on_error gets:", error)


async def main() -> None:
    async with dss.open_hub[str](on_error=on_error) as hub:
        threading.Thread(target=work, args=[hub.portal]).start()
        await hub.serve(int)


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
