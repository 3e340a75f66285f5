"""The same in a program without async: each line that is logged is shipped, the last ones too."""

import logging
import logging.handlers
import sys
from functools import partial

import anyio

import dss_anyio as dss


class Shipper(logging.handlers.MemoryHandler):
    """Collects lines, and sends them in batches. The last batch is sent when it is closed."""

    def __init__(self, portal: dss.Portal[list[str]]) -> None:
        super().__init__(capacity=3)
        self._send = portal.send
        logging.getLogger("app").addHandler(self)

    def flush(self) -> None:
        lines, self.buffer = [self.format(record) for record in self.buffer], []
        if lines:
            self._send(lines)

    def stop(self) -> None:
        logging.getLogger("app").removeHandler(self)
        self.close()  # flushes


async def ship(lines: list[str]) -> None:
    await anyio.sleep(0.1)  # the network
    print("shipped", lines)


with dss.start_hub(backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio") as hub:
    in_order = partial(hub.serve, max_concurrency=1)
    shipping = hub.portal.start_task_soon(in_order, ship)
    shipper = hub.open_source("shipper", Shipper, Shipper.stop, drain=True)
    with hub.portal.wrap_async_context_manager(shipper):
        for number in range(5):
            logging.getLogger("app").warning("line %d", number)
    hub.close_senders()  # serve() returns after the last batch was handled
    shipping.result()
