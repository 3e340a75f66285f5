"""A Lua program polls a hub: what DarkSideSync was made for, with Lua inside of Python.

By hand, a thread that calls a Lua function waits until Lua's main loop returns: for ever.
"""

import threading

import lupa

import dss_anyio as dss

PROGRAM = """
    local hub = ...
    local total = 0
    while total < 6 do                            -- Lua's main loop
        hub.wait(10)                              -- or wait for something else
        for entry in python.iter(hub.poll()) do
            if type(entry) == "number" then
                print("Lua got " .. entry)
                total = total + entry
            else                                  -- a request: reply now, or keep it
                print("Lua is asked for the " .. entry.item)
                entry.reply(total)
            end
        end
    end
"""


def work(portal: dss.Portal[int | str]) -> None:
    """Stands for a library's thread. It never calls into Lua."""
    portal.send(1)
    portal.send(2)
    print("the thread got", portal.request("total", timeout=10))
    portal.send(3)


lua = lupa.LuaRuntime()
lua.globals().print = print
with dss.open_polled_hub[int | str, int | dss.Request[str]]() as hub:
    thread = threading.Thread(target=work, args=[hub.portal])
    thread.start()
    lua.execute(PROGRAM, hub)
thread.join()
