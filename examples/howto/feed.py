"""A callback with a deadline takes items from a feed, also while the loop is busy."""

import sys
import threading
import time

import anyio

import dss_anyio as dss

BUFFERS = 30
SILENCE = b"\0"


def play(feed: dss.Feed[bytes], done: threading.Event) -> None:
    """Stands for an audio device: it needs a buffer every 10 ms, and never waits."""
    for _ in range(BUFFERS):
        time.sleep(0.01)
        feed.take_nowait(default=SILENCE)
    done.set()


async def main() -> None:
    done = threading.Event()
    async with dss.open_hub() as hub:
        feed = hub.open_feed(20)
        for number in range(20):  # in advance
            feed.send_nowait(bytes([number]))
        threading.Thread(target=play, args=[feed, done]).start()
        for number in range(20, BUFFERS):
            await feed.send(bytes([number]))  # waits while the feed is full
            time.sleep(0.02)  # the loop is busy
        await anyio.to_thread.run_sync(done.wait)
        state = feed.statistics()
        print(f"{state.taken} buffers were played, {state.underruns} were missed")


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
