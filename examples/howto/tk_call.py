"""A worker thread changes a window. Only Tk's own thread may touch it, so the hub calls there."""

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
    window.createfilehandler(hub, tk.READABLE, lambda *_: hub.poll())  # poll() runs the calls
    worker = threading.Thread(target=work, args=[hub.portal])
    worker.start()
    window.mainloop()
    window.deletefilehandler(hub)
worker.join()
