"""Sphinx: built offline with ``-n -W``, so that a reference that leads nowhere is an error."""

import re
from pathlib import Path

project = "dss_anyio"
author = "The dss_anyio authors"
copyright = "2026, the dss_anyio authors"
_settings = Path(__file__).parent.parent.joinpath("pyproject.toml").read_text()
release = re.search(r'^version = "(.+)"$', _settings, re.MULTILINE)[1]
version = release

extensions = ["myst_parser", "sphinx.ext.autodoc"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "_static"]
html_theme = "furo"
html_title = f"dss_anyio {release}"
html_static_path = ["_static"]

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signatures with types are in the source; here they hide the text
autodoc_default_options = {"members": True}

# What belongs to others. There is no inventory to look them up in without a network.
nitpick_ignore = [
    ("py:exc", name)
    for name in (
        "BaseException",
        "Exception",
        "ExceptionGroup",
        "LookupError",
        "OSError",
        "RuntimeError",
        "TimeoutError",
        "TypeError",
        "ValueError",
        "anyio.BrokenResourceError",
        "anyio.ClosedResourceError",
        "anyio.EndOfStream",
        "anyio.WouldBlock",
    )
]
