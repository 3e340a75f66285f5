"""A worker thread uses a window, which only Tk's own thread may touch."""

import threading
import tkinter as tk

import dss_anyio as dss

window = tk.Tk()
label = tk.Label(window)
label.pack()


def show(text: str) -> str:
    label["text"] = text
    return str(label["text"])


def work(portal: dss.Portal[object]) -> None:
    print("the label says:", portal.call(show, "hello from a worker"))
    portal.call(window.quit)


with dss.open_polled_hub() as hub:
    window.createfilehandler(hub, tk.READABLE, lambda *_: hub.poll())  # runs the calls
    worker = threading.Thread(target=work, args=[hub.portal])
    worker.start()
    window.mainloop()
    window.deletefilehandler(hub)
worker.join()
