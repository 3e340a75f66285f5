"""A web server with threads; the loop answers. It is stopped while one thread waits."""

import http.client
import http.server
import sys
import threading
from collections.abc import Callable

import anyio

import dss_anyio as dss


class Handler(http.server.BaseHTTPRequestHandler):
    """The server runs this in a thread of its own for each client."""

    ask: Callable[[str], tuple[int, str]]

    def do_GET(self) -> None:
        status, text = self.ask(self.path)
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = False  # so server_close() joins the threads that still run


def start(portal: dss.Portal[str]) -> Server:
    ask = portal.request_callback(timeout=30, default=(503, "please try again later"))
    handler = type("MyHandler", (Handler,), {"ask": staticmethod(ask)})
    server = Server(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=[0.05]).start()
    return server


def stop(server: Server) -> None:
    server.shutdown()
    server.server_close()  # joins the threads, without a time limit
    print("the server has stopped")


async def answer(path: str) -> tuple[int, str]:
    if path == "/slow":
        await anyio.sleep_forever()
    return 200, f"this is {path}"


def get(server: Server, path: str) -> str:
    client = http.client.HTTPConnection("127.0.0.1", server.server_port)
    client.request("GET", path)
    with client.getresponse() as response:
        text = response.read().decode()
    client.close()
    return f"GET {path}: {response.status}, {text}"


async def main() -> None:
    pages: list[str] = []

    async def fetch(server: Server, path: str) -> None:
        pages.append(await anyio.to_thread.run_sync(get, server, path))

    async with anyio.create_task_group() as clients, dss.open_hub[str]() as hub:
        hub.task_group.start_soon(hub.serve, answer)
        async with hub.open_source("server", start, stop) as source:
            await fetch(source.value, "/fast")
            clients.start_soon(fetch, source.value, "/slow")
            while not hub.blocked():
                await anyio.sleep(0.01)
            for call in hub.blocked():
                print(f"a thread waits in {call.call}() of {call.source}")
    print(*pages, sep="\n")
    print(hub.statistics().requests)


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
