"""Leave a polled hub. Argument: the way out."""

from __future__ import annotations

import gc
import select
import signal
import sys
import threading

import anyio
from crowd import Crowd, ask_for_ctrl_c, let_go_on, press_ctrl_c_when, say

import dss_anyio as dss

crowd = Crowd()


def normally() -> None:
    with dss.open_polled_hub(4) as hub:
        crowd.surround_polled(hub)


def normally_after_items_were_polled() -> None:
    with dss.open_polled_hub(4) as hub:
        crowd.come(hub)
        for _ in range(100):
            hub.wait()
            hub.poll()


def normally_after_a_select_loop() -> None:
    with dss.open_polled_hub(4) as hub:
        crowd.come(hub)
        for _ in range(100):
            select.select([hub], [], [])
            hub.poll()


def by_an_exception() -> None:
    with dss.open_polled_hub(4) as hub:
        crowd.surround_polled(hub)
        raise ValueError("in the body")


def by_sys_exit() -> None:
    with dss.open_polled_hub(4) as hub:
        crowd.surround_polled(hub)
        sys.exit(3)


def by_ctrl_c_while_items_are_polled() -> None:
    with dss.open_polled_hub(4) as hub:
        crowd.come(hub)
        press_ctrl_c_when(lambda: hub.statistics().received > 100)
        while True:
            hub.wait()
            for item in hub.poll():
                let_go_on(item)


def by_ctrl_c_in_wait() -> None:
    """Nobody sends, so there is nobody to release; but the main thread has to wake up."""
    with dss.open_polled_hub(4) as hub:
        press_ctrl_c_when(lambda: hub.statistics().tasks_waiting_receive)
        hub.wait()


def by_ctrl_c_twice() -> None:
    """The second one comes while the hub is waiting for a library to stop."""
    with dss.open_polled_hub(4) as hub:
        hub.register("library", stop=ask_for_ctrl_c)
        crowd.surround_polled(hub)
        press_ctrl_c_when(lambda: True)
        while True:
            signal.pause()


def by_a_signal_handler_that_closes_it() -> None:
    with dss.open_polled_hub(4) as hub:
        crowd.surround_polled(hub)
        signal.signal(signal.SIGINT, lambda *_: hub.close())
        press_ctrl_c_when(lambda: hub.statistics().received > 100)
        try:
            while True:
                hub.poll()
                hub.wait()
        except anyio.ClosedResourceError:
            say("ClosedResourceError")


def by_another_thread_that_closes_it() -> None:
    with dss.open_polled_hub(4) as hub:
        crowd.surround_polled(hub)
        threading.Thread(target=hub.close).start()
        try:
            while True:
                hub.poll()
                hub.wait()
        except anyio.ClosedResourceError:
            say("ClosedResourceError")


def by_forgetting_it() -> None:
    hub = dss.open_polled_hub[str](4)
    hub.fileno()
    crowd.surround_polled(hub)


def by_forgetting_it_in_a_cycle() -> None:
    hub = dss.open_polled_hub[str](4)
    crowd.surround_polled(hub)
    cycle: list[object] = [hub]
    cycle.append(cycle)
    del hub, cycle
    gc.collect()


try:
    globals()[sys.argv[1]]()
finally:
    crowd.see_off()
    say("over")
