"""A hub in a select() loop that has other sockets to look after."""

import selectors
import socket
import threading

import dss_anyio as dss

ours, theirs = socket.socketpair()

with (
    dss.open_polled_hub[str]() as hub,
    selectors.DefaultSelector() as selector,
    ours,
    theirs,
):
    selector.register(hub, selectors.EVENT_READ, "hub")
    selector.register(ours, selectors.EVENT_READ, "socket")
    threading.Thread(target=hub.portal.send_many, args=[["one", "two"]]).start()
    threading.Timer(0.2, theirs.send, [b"data"]).start()
    open_ends = {"hub", "socket"}
    while open_ends:
        for key, _ in selector.select():
            if key.data == "hub":
                print("from the hub:", hub.poll())
            else:
                print("from the socket:", ours.recv(10))
            open_ends.discard(key.data)
