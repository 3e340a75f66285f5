"""A program that waits only for its hub."""

import threading

import anyio

import dss_anyio as dss


def work(portal: dss.Portal[int]) -> None:
    with portal:
        portal.send_many(range(5))


with dss.open_polled_hub[int]() as hub:
    threading.Thread(target=work, args=[hub.portal]).start()
    try:
        while hub.wait(timeout=10):
            print(hub.poll())
    except anyio.EndOfStream:
        print("that was all")
