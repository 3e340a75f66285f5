"""A WSGI application under waitress. One event loop answers all its requests.

By hand, ``asyncio.run()`` in each request: a shared lock is "bound to a different event loop".
"""

import sys
import threading
import urllib.request
from collections.abc import Callable, Iterable
from typing import Any

import anyio
from waitress import wasyncore
from waitress.server import create_server

import dss_anyio as dss


def make_app(ask: Callable[[str], str | None]) -> Callable[..., Iterable[bytes]]:
    """Like an application of Flask, Django or Bottle. It runs in the threads of a pool."""

    def app(environ: dict[str, Any], start_response: Callable[..., object]) -> Iterable[bytes]:
        text = ask(environ["PATH_INFO"])
        start_response("503 Service Unavailable" if text is None else "200 OK", [])
        return [(text or "please try again later").encode()]

    return app


class Server:
    def __init__(self, portal: dss.Portal[str]) -> None:
        app = make_app(portal.request_callback(timeout=30, default=None))
        self._sockets: dict[int, object] = {}
        self._server = create_server(app, map=self._sockets, host="127.0.0.1", port=0, threads=4)
        self.url = f"http://127.0.0.1:{self._server.effective_port}"
        self._thread = threading.Thread(target=self._server.run)
        self._thread.start()

    def stop(self) -> None:
        self._server.task_dispatcher.shutdown()  # waits for the pool, at most 5 seconds
        self._server.trigger.pull_trigger(lambda: wasyncore.close_all(self._sockets))
        self._thread.join()
        print("the server has stopped")


def get(url: str) -> str:
    with urllib.request.urlopen(url) as response:
        return str(response.read().decode())


async def main() -> None:
    connections = anyio.CapacityLimiter(2)  # stands for a pool of connections to a database
    in_use: list[float] = []

    async def answer(path: str) -> str:
        async with connections:
            in_use.append(connections.borrowed_tokens)
            await anyio.sleep(0.05)
            return f"this is {path}"

    async with dss.open_hub[str]() as hub:
        hub.task_group.start_soon(hub.serve, answer)
        async with hub.open_source("waitress", Server, Server.stop) as source:
            pages: list[str] = []

            async def fetch(path: str) -> None:
                pages.append(await anyio.to_thread.run_sync(get, source.value.url + path))

            async with anyio.create_task_group() as clients:
                for number in range(4):
                    clients.start_soon(fetch, f"/{number}")
            print(*sorted(pages), sep="\n")
            print(f"over at most {max(in_use):.0f} connections")


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
