"""Receive messages from an MQTT broker. The program needs mosquitto, and starts one of its own.

By hand, an exception in ``on_message`` ends paho's thread, and ``is_connected()`` stays True.
"""

import os
import shutil
import socket
import subprocess
import sys
import threading
from functools import partial

import anyio
from paho.mqtt.client import Client
from paho.mqtt.enums import CallbackAPIVersion

import dss_anyio as dss

MOSQUITTO = shutil.which("mosquitto", path=os.environ["PATH"] + os.pathsep + "/usr/sbin")


class Subscriber:
    def __init__(self, port: int, portal: dss.Portal[str]) -> None:
        subscribed = threading.Event()
        send = portal.send_callback(lambda _client, _userdata, message: message.payload.decode())
        self.client = Client(CallbackAPIVersion.VERSION2)
        self.client.on_message = send  # runs in paho's thread, which also sends the heartbeats
        self.client.on_connect = lambda client, *_: client.subscribe("rooms/#", qos=1)
        self.client.on_subscribe = lambda *_: subscribed.set()
        self.client.connect("127.0.0.1", port)
        self.client.loop_start()
        if not subscribed.wait(10):
            raise TimeoutError("the broker does not answer")

    def stop(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()  # joins paho's thread
        print("the client has stopped")


async def wait_for(port: int) -> None:
    """Wait until the broker listens."""
    with anyio.fail_after(10):
        while True:
            try:
                async with await anyio.connect_tcp("127.0.0.1", port):
                    return
            except OSError:
                await anyio.sleep(0.02)


async def main() -> None:
    if MOSQUITTO is None:
        print("there is no mosquitto: install it, for example with: apt-get install mosquitto")
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [MOSQUITTO, "-p", str(port)]
    async with await anyio.open_process(command, stderr=subprocess.DEVNULL) as broker:
        try:
            await wait_for(port)
            async with (
                dss.open_hub[str](overflow="drop_oldest") as hub,
                hub.open_source("mqtt", partial(Subscriber, port), Subscriber.stop) as source,
            ):
                for text in ("21 degrees", "22 degrees"):
                    source.value.client.publish("rooms/kitchen", text, qos=1)
                    print("the kitchen has", await hub.receive())
        finally:
            broker.terminate()  # else the end of its block would wait for ever


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
