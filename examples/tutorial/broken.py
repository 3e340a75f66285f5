"""Broken: an asyncio queue does not wake its loop for another thread."""

import asyncio
import time
from typing import Any

from radio import ON_TELEGRAM, Radio


async def main() -> None:
    queue: asyncio.Queue[float] = asyncio.Queue()

    def on_telegram(*_: Any) -> None:
        queue.put_nowait(time.monotonic())

    # This wakes the loop a second later. Without it, the loop would sleep for ever.
    asyncio.get_running_loop().call_later(1.1, lambda: None)
    radio = Radio(ON_TELEGRAM(on_telegram), telegrams=1)

    sent = await queue.get()
    print(f"received {time.monotonic() - sent:.0f} s after it came in")
    radio.close()


asyncio.run(main())
