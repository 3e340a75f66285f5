"""A web server with threads, which ask the async program for each page.

By hand, ``run_coroutine_threadsafe(...).result(timeout)`` times out, and the coroutine goes on.
"""

import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anyio

import dss_anyio as dss


class Handler(BaseHTTPRequestHandler):
    """Runs in a thread for each client. Uses no event loop."""

    ask: Callable[[str], str]

    def do_GET(self) -> None:
        try:
            status, text = 200, self.ask(self.path)
        except LookupError:
            status, text = 404, "no such page"
        except TimeoutError:
            status, text = 504, "no answer in time"
        except Exception:  # the hub has ended, or the handler has failed
            status, text = 503, "we are closing"
        self.send_response(status)
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None:
        pass


def start(portal: dss.Portal[str]) -> ThreadingHTTPServer:
    ask = portal.request_callback(timeout=0.5)  # without a default, so it raises
    handler = type("MyHandler", (Handler,), {"ask": staticmethod(ask)})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=[0.05]).start()
    return server


def stop(server: ThreadingHTTPServer) -> None:
    server.shutdown()
    server.server_close()


async def answer(path: str) -> str:
    """Runs in a task for each request; the event loop does other work meanwhile."""
    if path == "/slow":
        try:
            await anyio.sleep(3600)
        finally:
            print("nobody waits for /slow any more")
    await anyio.sleep(0.01)
    return {"/": "hello", "/about": "threads that ask"}[path]


def get(url: str) -> str:
    try:
        response = urllib.request.urlopen(url)
    except urllib.error.HTTPError as error:
        response = error
    with response:
        return f"{response.status} {response.read().decode()}"


async def main() -> None:
    async with dss.open_hub[str]() as hub:
        hub.task_group.start_soon(hub.serve, answer)
        async with hub.open_source("web", start, stop) as source:
            url = f"http://127.0.0.1:{source.value.server_port}"
            for path in ("/", "/about", "/nothing", "/slow"):
                print(path, await anyio.to_thread.run_sync(get, url + path))


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
