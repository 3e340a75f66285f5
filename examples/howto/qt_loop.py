"""A hub in Qt's event loop, here with PySide6."""

import threading

from PySide6.QtCore import QCoreApplication, QSocketNotifier

import dss_anyio as dss

app = QCoreApplication([])

with dss.open_polled_hub[str]() as hub:

    def show() -> None:
        for text in hub.poll():
            print("received", text)
            app.quit()

    notifier = QSocketNotifier(hub.fileno(), QSocketNotifier.Type.Read)
    notifier.activated.connect(show)
    threading.Timer(0.1, hub.portal.send, ["hello from a thread"]).start()
    app.exec()
    notifier.setEnabled(False)
