"""Our extension of Sphinx: what is public appears under its public name, and names become links.

Authors write `portal.send` or ``TimeoutError`` as code and nothing else. Code that names something
which this documentation describes, or which an inventory lists, becomes a link to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx import addnodes
from sphinx.application import Sphinx
from sphinx.ext.intersphinx import InventoryAdapter, resolve_reference_any_inventory

import dss_anyio as dss
from dss_anyio import native

# What a program calls the objects that it has, and their classes.
VARIABLES = {
    "portal": [dss.Portal],
    "request": [dss.Request],
    "feed": [dss.Feed],
    "hub": [dss.Hub, dss.PolledHub],
    "api": [dss.Api1],
    "source": [dss.OpenSource],
    "sender": [native.NativeSender],
}
# In this order a method is looked up that is named alone; a docstring's own class comes first.
CLASSES = [dss.Portal, dss.Hub, dss.PolledHub, dss.Request, dss.Feed]
# Names that are ours wherever they stand. Others are links in the reference only: elsewhere `close`
# may be somebody else's.
OURS = {
    "abort", "arequest", "asend", "c_callback", "c_request_callback", "call_async",
    "call_within", "close_senders", "dispatch", "native_sender",
    "offer", "open_feed", "open_source",
    "receive_many", "receive_nowait", "reply",
    "reply_error", "request_callback", "request_soon", "send_callback", "send_many",
    "send_nowait", "serve", "start_task", "start_task_soon", "take_nowait", "task_group",
    "wait_abandoned", "wake_address", "wrap_async_context_manager",
}  # fmt: skip
NOT_METHODS = {"item", "name", "path", "portal", "source", "value"}
TABLE = "your-callbacks"  # the section that says who calls them
CALLBACKS = {"pack", "decode", "on_undelivered", "on_error", "start", "stop", "convert"}
HOOKS = CALLBACKS - {"start", "stop"}  # which are functions of the programs on other pages
REFERENCE = {"reference", "reference_darksidesync"}
# On these pages a name that stands alone is a room of the core, or another library's.
FOREIGN = {"design", "model", "porting", "coming_from", "comparison", "reliability"}
ABBREVIATED = {
    "BlockingPortal": "anyio.from_thread.BlockingPortal",
    "BlockingPortal.call": "anyio.from_thread.BlockingPortal.call",
    "call_soon_threadsafe": "asyncio.loop.call_soon_threadsafe",
    "loop.call_soon_threadsafe": "asyncio.loop.call_soon_threadsafe",
    "run_coroutine_threadsafe": "asyncio.run_coroutine_threadsafe",
    "run_sync_soon": "trio.lowlevel.TrioToken.run_sync_soon",
    "TrioToken.run_sync_soon": "trio.lowlevel.TrioToken.run_sync_soon",
    "task.cancel": "asyncio.Task.cancel",
    "BrokenResourceError": "anyio.BrokenResourceError",
    "ClosedResourceError": "anyio.ClosedResourceError",
    "EndOfStream": "anyio.EndOfStream",
    "WouldBlock": "anyio.WouldBlock",
    "SimpleQueue": "queue.SimpleQueue",
}
CODE = re.compile(
    r"(?:await |async with |with )?(?:dss\.|dss_anyio\.)?([\w.]+)(?:\(.*\))?(?: as \w+)?"
)
COUNT = re.compile(r"(?:(hub|feed)\.)?statistics\(\)\.(\w+)")
LINKED_ALREADY = (nodes.title, nodes.reference, addnodes.pending_xref, addnodes.desc_signature)
# In these sections the methods of a class stand without it.
SECTIONS: dict[str, type] = {
    "methods-of-a-hub": dss.Hub,
    "methods-of-a-polled-hub": dss.PolledHub,
    "methods-of-a-request": dss.Request,
    "methods-of-a-feed": dss.Feed,
    "functions-of-api-1-0": dss.Api1,
    "constants-of-api-1-0": dss.Api1,
}
# Nobody calls these classes; the signature of a constructor would only mislead.
MADE_BY_THE_LIBRARY = (
    dss.Portal, dss.Request, dss.Receiver, dss.Feed, dss.OpenSource, dss.HubStatistics,
    dss.SourceStatistics, dss.RequestStatistics, dss.FeedStatistics, dss.BlockedCall,
    dss.Api1, dss.Api2, dss.ApiPortal, dss.BlockingPortalLike, dss.Hub, dss.PolledHub,
    native.NativeSender,
)  # fmt: skip


def member(cls: type, name: str) -> str | None:
    """The full name of a public method or attribute of *cls*."""
    fields = {*getattr(cls, "__slots__", ()), *getattr(cls, "__annotations__", ())}
    if name.startswith("_") or not (hasattr(cls, name) or name in fields):
        return None
    module = "dss_anyio.native" if cls is native.NativeSender else "dss_anyio"
    return f"{module}.{cls.__name__}.{name}"


def target_of(text: str, page: str, cls: type | None, listed: set[str]) -> str | None:
    """The full name of what *text* names, or None."""
    if found := COUNT.fullmatch(text):
        counts = dss.FeedStatistics if found[1] == "feed" else dss.HubStatistics
        return member(counts, found[2])
    match = CODE.fullmatch(text)
    if match is None:
        return None
    name = match[1]
    full = ABBREVIATED.get(name, name)
    if full in listed:
        return full
    first, _, rest = name.partition(".")
    if rest:
        classes = VARIABLES.get(first) or [getattr(dss, first, None)]
        known = (member(each, rest) for each in classes if isinstance(each, type))
        return next(filter(None, known), None)
    if name in dss.__all__:
        return f"dss_anyio.{name}"
    if page not in FOREIGN and (name in OURS or (page in REFERENCE and name not in NOT_METHODS)):
        classes = [cls, *CLASSES] if cls is not None else CLASSES
        return next(filter(None, (member(each, name) for each in classes)), None)
    return None


def described(node: nodes.Node) -> tuple[type | None, str]:
    """The class in whose description *node* is, and the full name of what is described there."""
    for above in ancestors(node):
        if isinstance(above, addnodes.desc) and isinstance(above[0], addnodes.desc_signature):
            signature = above[0]
            cls = getattr(dss, signature.get("class") or signature.get("fullname", ""), None)
            return cls, f"dss_anyio.{signature.get('fullname')}"
    return None, ""


def ancestors(node: nodes.Node) -> Iterator[nodes.Node]:
    while node.parent is not None:
        node = node.parent
        yield node


def link_names(app: Sphinx, doctree: nodes.document) -> None:
    """Make a link of each piece of code that is a name. Called when a page has been read."""
    page = app.env.docname
    listed = {name for kind in InventoryAdapter(app.env).main_inventory.values() for name in kind}
    for node in list(doctree.findall(nodes.literal)):
        if any(isinstance(above, LINKED_ALREADY) for above in ancestors(node)):
            continue
        sections = {name for above in ancestors(node) for name in above.get("ids", ())}
        text = node.astext()
        if text in (CALLBACKS if page in REFERENCE else HOOKS) and page not in FOREIGN:
            if TABLE in sections:
                continue
            there = "" if page == "reference" else "reference.html"
            link = nodes.reference("", "", internal=True, refuri=f"{there}#{TABLE}")
        else:
            cls, here = described(node)
            about = next((SECTIONS[name] for name in SECTIONS if name in sections), cls)
            target = target_of(text, page, about, listed)
            if target is None or target == here:
                continue
            link = addnodes.pending_xref(
                "", refdomain="py", reftype="obj", reftarget=target, refexplicit=True, refdoc=page
            )
        node.replace_self(link)
        link += node


def hide_constructor(
    app: Sphinx, what: str, name: str, obj: Any, options: Any, signature: str, returns: str
) -> tuple[str, str] | None:
    return ("", "") if obj in MADE_BY_THE_LIBRARY else None


def under_its_public_name(
    app: Sphinx, env: Any, node: Any, contnode: nodes.Node
) -> nodes.Node | None:
    """Resolve the names in annotations: our classes are defined in private modules.

    Type variables and aliases of types are only shown; there is nothing to link to.
    """
    target = node.get("reftarget", "")
    name = target.rpartition(".")[2]
    if re.fullmatch(r"T_\w+|Overflow|OnError|Handler|(Socket)?Address|Literal|Unpack", name):
        return contnode
    if target.startswith("dss_anyio._") and name in (*dss.__all__, *native.__all__):
        known = f"dss_anyio.{name}" if name in dss.__all__ else f"dss_anyio.native.{name}"
        domain = env.get_domain("py")
        return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", known, node, contnode)
    if target in ("concurrent.futures._base.Future", "Future"):
        node["reftarget"] = "concurrent.futures.Future"
        return resolve_reference_any_inventory(env, False, node, contnode)
    return None


def without_my_folders(_: Sphinx, doctree: nodes.document) -> None:
    """``literalinclude`` heads a diff with absolute paths: make them those in the repository."""
    for block in doctree.findall(nodes.literal_block):
        if block.get("language") == "udiff":
            text = block.astext().replace(f"{Path(__file__).parents[1]}/", "")
            block.rawsource = text
            block.children[:] = [nodes.Text(text)]


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("doctree-read", without_my_folders)
    app.connect("autodoc-process-signature", hide_constructor)
    app.connect("doctree-read", link_names)
    app.connect("missing-reference", under_its_public_name)
    return {"parallel_read_safe": True}
