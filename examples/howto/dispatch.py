"""Answer without an event loop: a function is called with each item."""

import threading

import anyio

import dss_anyio as dss


def work(portal: dss.Portal[int]) -> None:
    with portal:
        print("twice 21 is", portal.request(21, timeout=10))
        try:
            portal.request(0, timeout=10)
        except ValueError as exc:
            print("refused:", exc)


def handle(number: int) -> int:
    if number == 0:
        raise ValueError("twice nothing is nothing")
    return 2 * number


with dss.open_polled_hub[int]() as hub:
    threading.Thread(target=work, args=[hub.portal]).start()
    try:
        while hub.wait(timeout=10):
            hub.dispatch(handle)
    except anyio.EndOfStream:
        print("that was all")
