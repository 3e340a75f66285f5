"""Structured concurrency for threads that you did not create.

``async with open_hub() as hub`` opens a hub in an event loop of asyncio, uvloop or trio;
``hub.portal`` is given to any thread; ``hub`` is the stream that receives what they send.
``open_polled_hub()`` is the same for programs without an event loop.
"""

from ._api import Api1, Api2, ApiPortal
from ._errors import NoReplyError
from ._face import BlockedCall, HubStatistics
from ._feed import Feed, FeedStatistics
from ._hub import Hub, OpenSource, open_hub
from ._lane import SourceStatistics
from ._polled import PolledHub, open_polled_hub
from ._portal import Portal
from ._receiver import Receiver
from ._request import Request, RequestStatistics
from ._start import start_hub
from ._watching import serve_statistics

__all__ = [
    "Api1",
    "Api2",
    "ApiPortal",
    "BlockedCall",
    "Feed",
    "FeedStatistics",
    "Hub",
    "HubStatistics",
    "NoReplyError",
    "OpenSource",
    "PolledHub",
    "Portal",
    "Receiver",
    "Request",
    "RequestStatistics",
    "SourceStatistics",
    "open_hub",
    "open_polled_hub",
    "serve_statistics",
    "start_hub",
]
