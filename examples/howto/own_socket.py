"""A loop that watches a UDP socket of its own: it drains the socket, and then it polls."""

import select
import socket
import threading

import dss_anyio as dss


def work(portal: dss.Portal[int]) -> None:
    for item in range(1000):
        portal.send(item)


def drain(sock: socket.socket) -> None:
    try:
        while True:
            sock.recv(16)
    except BlockingIOError:
        pass  # it is empty


received = 0
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind(("127.0.0.1", 0))
    sock.setblocking(False)
    with dss.open_polled_hub[int](16, wake_address=sock.getsockname()) as hub:
        threading.Thread(target=work, args=[hub.portal]).start()
        while received < 1000:
            select.select([sock], [], [])
            drain(sock)
            received += len(hub.poll())
print("received", received, "items")
