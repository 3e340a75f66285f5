"""Structured concurrency for threads that you did not create.

``async with open_hub() as hub`` opens a hub in an event loop of asyncio, uvloop or trio. Give
``hub.portal`` to any thread; ``hub`` is the stream that receives the items of these threads.
``open_polled_hub()`` is the same for programs without an event loop.
"""

from . import _darksidesync as _darksidesync  # enters itself
from . import native as native
from ._bindings import Api1, Api2, ApiPortal
from ._blocking_portal import BlockingPortalLike
from ._core.errors import NoReplyError
from ._core.question import RequestStatistics
from ._core.request import Request
from ._hub.hub import Hub, open_hub
from ._hub.looking import BlockedCall, HubStatistics, SourceStatistics
from ._hub.open_source import OpenSource
from ._hub.polled import PolledHub, open_polled_hub
from ._hub.threaded import start_hub
from ._portal.feed import Feed, FeedStatistics
from ._portal.portal import Portal
from ._receiving.receiver import Receiver
from ._tools.watching import serve_statistics

__version__ = "0.1.0"  # the only place where it stands: the build reads it here

__all__ = [
    "Api1",
    "Api2",
    "ApiPortal",
    "BlockedCall",
    "BlockingPortalLike",
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
