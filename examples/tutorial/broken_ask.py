"""Broken: the library waits for the loop, and the loop waits for the library."""

import asyncio
import os
import threading
from typing import Any

from radio import MAY_PASS, ON_TELEGRAM, Radio


async def decide() -> int:
    await asyncio.sleep(3600)  # it asks a slow server
    return 1


async def main() -> None:
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()

    def may_pass(*_: Any) -> int:
        loop.call_soon_threadsafe(asked.set)
        return asyncio.run_coroutine_threadsafe(decide(), loop).result()

    radio = Radio(ON_TELEGRAM(lambda *_: None), MAY_PASS(may_pass))
    await asked.wait()
    closing = threading.Thread(target=radio.close)
    closing.start()
    closing.join(timeout=1)  # radio.close() has no time limit: this would last for ever
    print("the radio is", "still open" if closing.is_alive() else "closed", flush=True)
    os._exit(0)  # nothing less ends this program


asyncio.run(main())
