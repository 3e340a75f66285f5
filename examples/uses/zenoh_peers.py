"""Two processes over zenoh: one measures; the other one receives, and answers its query.

By hand, ``call_soon_threadsafe(queue.put_nowait)`` loses items when the queue is full, uncounted.

They connect through TCP. With the address of another machine, this works between two machines.
"""

import json
import socket
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import anyio
import zenoh

import dss_anyio as dss


def open_session(how: str, endpoint: str) -> zenoh.Session:
    config = zenoh.Config()
    config.insert_json5("scouting/multicast/enabled", "false")
    for each in ("listen", "connect"):
        config.insert_json5(f"{each}/endpoints", json.dumps([endpoint] if each == how else []))
    return zenoh.open(config)


def sensor(endpoint: str) -> None:
    """The other process. It has no event loop and no hub; it could also be written in C++."""
    with open_session("connect", endpoint) as session:
        for reply in session.get("room/limit", timeout=10):
            limit = int(reply.ok.payload.to_string())
            for degrees in range(limit - 1, limit + 2):
                session.put("room/degrees", str(degrees))


def direct(callback: Callable[[Any], None]) -> object:
    """Call back in zenoh's own threads, not in Python threads, which close() does not join."""
    return zenoh.handlers.Callback(callback, indirect=False)


class Sample(NamedTuple):
    degrees: int


class Query(NamedTuple):
    key: str


class Peer:
    def __init__(self, endpoint: str, portal: dss.Portal[Sample | Query]) -> None:
        send = portal.send_callback(lambda sample: Sample(int(sample.payload.to_string())))
        ask = portal.request_callback(
            lambda query: Query(str(query.key_expr)), timeout=10, default="0"
        )
        self._session = open_session("listen", endpoint)
        self._session.declare_subscriber("room/degrees", direct(send))
        self._session.declare_queryable(
            "room/limit", direct(lambda query: query.reply(query.key_expr, ask(query)))
        )

    def close(self) -> None:
        self._session.close()
        print("the session is closed")


async def main() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        endpoint = f"tcp/127.0.0.1:{free.getsockname()[1]}"
    last = anyio.Event()

    async def handle(item: Sample | Query) -> str | None:
        if isinstance(item, Query):
            print("somebody asks for", item.key)
            return "25"
        print(f"{item.degrees} degrees" + (": too hot" if item.degrees > 25 else ""))
        if item.degrees > 25:
            last.set()

    async with dss.open_hub[Sample | Query]() as hub:
        hub.task_group.start_soon(partial(hub.serve, handle, max_concurrency=1))
        async with hub.open_source("zenoh", partial(Peer, endpoint), Peer.close):
            command = [sys.executable, __file__, "sensor", endpoint]
            async with await anyio.open_process(command, stdin=subprocess.DEVNULL, stderr=None):
                with anyio.fail_after(30):  # the other process may have died
                    await last.wait()


if sys.argv[1:2] == ["sensor"]:
    sensor(sys.argv[2])
else:
    anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
