"""A worker reports to a Tk window, and asks the user. The worker waits for the click.

By hand, ``window.after(100, read_the_queue)`` is up to 100 ms late, and runs ten times a second.

On Windows, Tk has no ``createfilehandler()``: there poll the hub with ``window.after(50, ...)``.
"""

import threading
import time
import tkinter as tk
from functools import partial
from tkinter import ttk

import anyio

import dss_anyio as dss


def work(portal: dss.Portal[float | str]) -> None:
    """Runs in a thread of its own. It never touches the window."""
    with portal:
        try:
            for percent in range(0, 101, 5):
                portal.send(percent)
                time.sleep(0.01)
            if portal.request("The file exists. Overwrite it?"):
                print("the worker overwrites the file")
        except (dss.NoReplyError, anyio.BrokenResourceError):
            print("the worker goes home: the window was closed")


class Window(tk.Tk):
    def __init__(self, hub: dss.PolledHub[float | str, float | dss.Request[str]]) -> None:
        super().__init__()
        self._hub = hub
        self.bar = ttk.Progressbar(self, length=300)
        self.label = tk.Label(self, text="working")
        self.buttons = {answer: tk.Button(self, text=answer) for answer in ("yes", "no")}
        for widget in (self.bar, self.label, *self.buttons.values()):
            widget.pack()
        self.createfilehandler(hub, tk.READABLE, self._look)

    def _look(self, *_: object) -> None:
        try:
            for entry in self._hub.poll():
                if isinstance(entry, dss.Request):
                    self._ask(entry)
                else:
                    self.bar["value"] = entry
        except anyio.EndOfStream:  # the worker has closed its portal
            print(f"the bar is at {self.bar['value']:.0f} %")
            self.quit()

    def _ask(self, request: dss.Request[str]) -> None:
        self.label["text"] = request.item
        print("the window asks:", request.item)
        for answer, button in self.buttons.items():
            button["command"] = partial(request.reply, answer == "yes")
        self.after(100, self.buttons["yes"].invoke)  # stands for the user; remove it


with dss.open_polled_hub[float | str, float | dss.Request[str]]() as hub:
    worker = threading.Thread(target=work, args=[hub.portal])
    worker.start()
    window = Window(hub)
    window.mainloop()
    window.deletefilehandler(hub)
worker.join()
