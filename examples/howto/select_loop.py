"""A hub in a select() loop that also watches other sockets."""

import selectors
import socket
import threading

import dss_anyio as dss

ours, theirs = socket.socketpair()


def work(portal: dss.Portal[str]) -> None:
    portal.send_many(["one", "two"])
    theirs.send(b"data")


with (
    dss.open_polled_hub[str]() as hub,
    selectors.DefaultSelector() as selector,
    ours,
    theirs,
):
    selector.register(hub, selectors.EVENT_READ)
    selector.register(ours, selectors.EVENT_READ)
    threading.Thread(target=work, args=[hub.portal]).start()
    quiet = {hub, ours}
    while quiet:
        for key, _ in selector.select():
            if key.fileobj is hub:
                print("from the hub:", hub.poll())
            else:
                print("from the socket:", ours.recv(10))
            quiet.discard(key.fileobj)
