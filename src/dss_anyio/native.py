"""Native reach: for programmers of C, C++, Rust, Cython or numba. See ``docs/native.md``.

``portal.native_sender()`` makes a sender. This module has the rest: the folder of the header, the
addresses of the functions, and the capsule with the table of the functions.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ._native import the_extension
from ._portal.native import NativeSender

__all__ = ["NativeSender", "api_2_0", "functions", "include"]

if TYPE_CHECKING:
    functions: dict[str, int]  #: the address of each function of the header, by its name
    api_2_0: Any  #: the capsule ``dss_anyio.native.api_2_0``, with the table of the functions


def include() -> str:
    """Return the folder in which ``dss_anyio.h`` lies, for a compiler's ``-I``."""
    return str(Path(__file__).with_name("_native") / "include")


def __getattr__(name: str) -> Any:
    if name == "functions":
        return dict(the_extension().functions)
    if name == "api_2_0":
        return the_extension().api_2_0
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
