"""How a hub comes to look at its inlets (``_core/inlets``), whatever happens meanwhile.

Invariant: whoever has got the inlets may send through them: the receiver looks there, or is about
to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from .._core.inlets import Inlets
from .._core.line import Beside
from .._core.mailbox import Mailbox


class Docks:
    """The part of a hub to which its inlets are docked."""

    _mailbox: Mailbox

    def _inlets(self, make_bell: Callable[[], Any]) -> Inlets:
        """Those of this hub; they are made, and docked, when they are first asked for.

        What may fail for want of a descriptor comes before anybody else knows of them, so a second
        attempt begins from scratch. Everything after that may be done twice, and each thread does
        it before it gets them, unless it has been done to its end: it cannot rely on another thread
        that is still about it, and that Ctrl-C may strike.

        :raises OSError: if there is no descriptor left
        """
        mailbox = self._mailbox
        # Not in the hub's own: on CPython 3.11 and 3.12 each look at one of its attributes would be
        # a search, once somebody has asked for that. What is looked at in a mailbox is in slots.
        once = mailbox.__dict__
        inlets: Inlets | None = once.get("made_inlets")
        if inlets is None:
            bell = make_bell()
            made = Inlets(bell, self._connect(bell), mailbox.books, mailbox.inside)
            # Of two threads, the first; with the other's bell, its descriptors are closed.
            inlets = cast("Inlets", once.setdefault("made_inlets", made))
        if not inlets.docked:
            # An iteration looks beyond the line from now on: see ``Mailbox.take``. (What another
            # thread writes in between, of an inlet or of the end, is found by a closer look.)
            mailbox.line.beside, mailbox.line.tagged = mailbox.line.beside or Beside(), True
            mailbox.inlets = inlets
            mailbox.lend(inlets)  # for what is in the rings
            self._dock(inlets)
        return inlets

    def _connect(self, bell: Any) -> int:
        """Give *bell* its descriptors; return the one to be watched. Nobody else knows it yet."""
        raise NotImplementedError

    def _dock(self, inlets: Inlets) -> None:
        """Have the receiver look at *inlets*, and then say so there. In any thread, also twice."""
        raise NotImplementedError
