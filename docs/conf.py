"""Sphinx: built offline with ``-n -W``, so that a reference that leads nowhere is an error."""

import re
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # where linking.py is

project = "dss_anyio"
author = "The dss_anyio authors"
copyright = "2026, the dss_anyio authors"
_package = HERE.parent.joinpath("src", "dss_anyio", "__init__.py").read_text()
release = re.search(r'^__version__ = "(.+?)"', _package, re.MULTILINE)[1]
version = release

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "linking",
]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "_static"]
html_theme = "furo"
html_title = f"dss_anyio {release}"
html_static_path = ["_static"]
html_css_files = ["docs.css"]
copybutton_exclude = ".linenos, .gp, .go"  # of a console, the commands only

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True}
python_use_unqualified_type_names = True
maximum_signature_line_length = 110  # beyond that, each parameter has a line of its own

# The names of others that these pages mention, and where their documentation describes them. They
# are kept here, so that nothing is fetched while the pages are built; each file is plain text, one
# name a line, and a name that is added becomes a link.
intersphinx_mapping = {
    name: (f"https://{site}", f"inventories/{name}.inv")
    for name, site in (
        ("python", "docs.python.org/3"),
        ("anyio", "anyio.readthedocs.io/en/stable"),
        ("trio", "trio.readthedocs.io/en/stable"),
    )
}
