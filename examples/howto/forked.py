"""After a fork the hub goes on in the parent, and has ended in the child."""

import os

import dss_anyio as dss

with dss.open_polled_hub[str]() as hub:
    child = os.fork()
    if child == 0:
        accepted = hub.portal.offer("from the child")
        os._exit(1 if accepted else 0)
    _, status = os.waitpid(child, 0)
    print("accepted in the child:", status != 0)
    print("accepted in the parent:", hub.portal.offer("from the parent"))
    print("polled", hub.poll())
