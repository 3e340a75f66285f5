"""What goes wrong without a hub: an asyncio queue does not know that another thread has put."""

import asyncio
import threading
import time


async def main() -> None:
    queue: asyncio.Queue[str] = asyncio.Queue()
    threading.Timer(0.1, queue.put_nowait, ["an item"]).start()
    started = time.monotonic()
    asyncio.get_running_loop().call_later(1.0, print, "something else wakes the loop")
    await queue.get()
    print(f"sent after 0.1 s, received after {time.monotonic() - started:.1f} s")


asyncio.run(main())
