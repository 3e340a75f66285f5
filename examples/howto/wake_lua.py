"""Wake a Lua program that waits in socket.select(). Needs lua5.1 and its socket library."""

import subprocess
import threading
from pathlib import Path

import dss_anyio as dss

program = Path(__file__).with_name("neighbour.lua")
with subprocess.Popen(["lua5.1", program], stdout=subprocess.PIPE, text=True) as lua:
    assert lua.stdout is not None
    port = int(lua.stdout.readline())
    with dss.open_polled_hub[str](wake_address=("127.0.0.1", port)) as hub:
        threading.Thread(target=hub.portal.send, args=["an item"]).start()
        print("Lua says:", lua.stdout.readline().strip())
        hub.wait(timeout=10)
        print("polled:", hub.poll())
