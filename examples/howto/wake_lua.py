"""Wake a Lua program that waits in socket.select()."""

import subprocess
import threading
from pathlib import Path

import dss_anyio as dss

program = Path(__file__).with_name("neighbour.lua")
command = ["lua5.1", str(program)]
with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as lua:
    assert lua.stdout is not None
    address = ("127.0.0.1", int(lua.stdout.readline()))
    with dss.open_polled_hub[str](wake_address=address) as hub:
        threading.Thread(target=hub.portal.send, args=["an item"]).start()
        print("Lua says:", lua.stdout.readline().strip())
        print("polled:", hub.poll())
