"""Native reach: what is written in C, for threads that never enter Python.

The extension module ``_dss`` is optional. Without it everything else of this library works.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from typing import Any

dss: Any = None  # the extension module; None if it was not built
why_not: str = ""  # the reason for that

try:
    dss = import_module("._dss", __name__)
except ImportError as exc:
    why_not = str(exc)


def is_made_for_this() -> bool:
    """Could there be an extension module for this Python on this system?"""
    return sys.implementation.name == "cpython" and os.name == "posix"


def the_extension() -> Any:
    """Return the extension module.

    :raises ImportError: if it was not built; the message names the remedy
    """
    if dss is None:
        if not is_made_for_this():
            raise ImportError(
                "native senders need the extension module of dss_anyio, which is not made for "
                f"{sys.implementation.name} on {sys.platform}, only for CPython on POSIX systems; "
                "portal.c_callback() and portal.send_callback() do the same through Python"
            )
        raise ImportError(
            "native senders need the extension module of dss_anyio, which was not built "
            f"({why_not}); install a C compiler and Python's headers, and dss_anyio from its "
            "sources ('python -m dss_anyio doctor' says what is missing)"
        )
    return dss
