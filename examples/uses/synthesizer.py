"""An async program as a synthesizer: it plays a tune, or also writes it into a file.

By hand, ``queue.get_nowait()`` in the callback raises when the loop is late: then all is silent.

No sound card? ``python synthesizer.py asyncio tune.wav`` writes what you would have heard.
"""

import array
import math
import os
import sys
import wave
from collections.abc import Generator, Iterator

import anyio
import miniaudio

import dss_anyio as dss

RATE, BUFFER = 22050, 441  # a buffer lasts 20 ms
TUNE = [(262, 0.12), (330, 0.12), (392, 0.12), (523, 0.24)]  # hertz and seconds: C, E, G, C


def buffers() -> Iterator[bytes]:
    """Make the tune, in buffers of 441 samples. Put your own music here."""
    for hertz, seconds in TUNE:
        samples = array.array("h")
        for i in range(round(seconds * RATE)):
            fading = 1 - i / (seconds * RATE)
            samples.append(round(12000 * fading * math.sin(2 * math.pi * hertz * i / RATE)))
        for at in range(0, len(samples), BUFFER):
            yield samples[at : at + BUFFER].tobytes()


def open_device(silent: bool) -> miniaudio.PlaybackDevice:
    null = [miniaudio.Backend.NULL]  # as fast as a sound card, but silent
    try:
        return miniaudio.PlaybackDevice(
            nchannels=1,
            sample_rate=RATE,
            buffersize_msec=20,
            backends=null if silent else None,
        )
    except miniaudio.MiniaudioError:
        return open_device(silent=True)


class Loudspeaker:
    def __init__(self, feed: dss.Feed[bytes], silent: bool) -> None:
        self._feed = feed
        self._device = open_device(silent)
        callback = self._play()
        next(callback)
        self._device.start(callback)

    def _play(self) -> Generator[bytes, int, None]:
        """Runs in the device's own thread, made by C. It never waits, and never ends."""
        left = b""
        frames = yield left
        while True:
            while len(left) < 2 * frames:
                left += self._feed.take_nowait(default=bytes(2 * frames))
            frames = yield left[: 2 * frames]
            left = left[2 * frames :]

    def close(self) -> None:
        self._device.close()  # joins that thread


async def main(path: str | None = None) -> None:
    async with dss.open_hub() as hub:
        feed = hub.open_feed(10)  # so the loop may be busy for 200 ms without a gap in the sound

        def start(_: dss.Portal[object]) -> Loudspeaker:
            return Loudspeaker(feed, silent=path is not None)

        with wave.open(path or os.devnull, "wb") as file:
            file.setparams((1, 2, RATE, 0, "NONE", ""))
            async with hub.open_source("loudspeaker", start, Loudspeaker.close):
                for buffer in buffers():
                    await feed.send(buffer)  # waits while ten are queued
                    file.writeframes(buffer)
                while len(feed):
                    await anyio.sleep(0.01)
        print(f"{feed.statistics().taken} buffers were played")


anyio.run(main, *sys.argv[2:3], backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
