"""A hub in Tk's main loop. On Windows, Tk has no createfilehandler(): poll there."""

import threading
import tkinter as tk

import dss_anyio as dss

window = tk.Tk()
label = tk.Label(window)
label.pack()

with dss.open_polled_hub[str]() as hub:

    def show(*_: object) -> None:
        for text in hub.poll():
            label["text"] = text
            print("the label says:", label["text"])
            window.quit()

    window.createfilehandler(hub, tk.READABLE, show)
    threading.Timer(0.1, hub.portal.send, ["hello from a thread"]).start()
    window.mainloop()
    window.deletefilehandler(hub)
