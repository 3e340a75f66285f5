"""Answer requests without an event loop."""

import threading

import anyio

import dss_anyio as dss


def work(portal: dss.Portal[int]) -> None:
    with portal:
        portal.send(1)
        print("twice 21 is", portal.request(21, timeout=10))


with dss.open_polled_hub[int, int | dss.Request[int]]() as hub:
    threading.Thread(target=work, args=[hub.portal]).start()
    try:
        while hub.wait(timeout=10):
            for entry in hub.poll():
                if isinstance(entry, dss.Request):
                    with entry as request:
                        request.reply(2 * request.item)
                else:
                    print("received", entry)
    except anyio.EndOfStream:
        pass
