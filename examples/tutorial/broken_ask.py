"""Broken: a thread asks the loop, and the program stops while it waits for the answer."""

import asyncio
import threading
from concurrent.futures import CancelledError


async def look_up(name: str) -> str:
    await asyncio.sleep(3600)  # a slow backend
    return name.title()


def work(loop: asyncio.AbstractEventLoop) -> None:
    answer = asyncio.run_coroutine_threadsafe(look_up("ada"), loop)
    try:
        print("the answer is", answer.result())
    except CancelledError:
        pass  # asyncio.run() cancels what is left, but only after main() has returned


async def main() -> None:
    loop = asyncio.get_running_loop()
    thread = threading.Thread(target=work, args=[loop], daemon=True)
    thread.start()
    await asyncio.sleep(0.2)  # the thread waits for its answer by now

    thread.join(timeout=1)  # stopping the library; without the limit: for ever
    print("the thread is", "still there" if thread.is_alive() else "gone")


asyncio.run(main())
