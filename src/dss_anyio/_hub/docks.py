"""How a hub comes to look at its inlets (``_core/inlets``), whatever happens meanwhile.

Invariant: a thread that has got the inlets may send through them: the receiver looks at them, or is
about to.
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
        """Return the inlets of this hub. The first call makes and docks them.

        The steps that may fail for want of a descriptor come before other threads know the inlets,
        so a second attempt begins from scratch. All later steps may be done twice. Each thread does
        them before it gets the inlets, unless they were done to the end. It cannot rely on another
        thread that is still doing them: Ctrl-C may strike that thread.

        :raises OSError: if there is no descriptor left
        """
        mailbox = self._mailbox
        # Not the hub's own ``__dict__``: on CPython 3.11 and 3.12, once that was used, each look at
        # an attribute of the hub would be a search. The attributes of a mailbox are in slots.
        once = mailbox.__dict__
        inlets: Inlets | None = once.get("made_inlets")
        if inlets is None:
            bell = make_bell()
            made = Inlets(bell, self._connect(bell), mailbox.books, mailbox.inside)
            # Two threads may get here: the first one's are used. The other's bell is freed, which
            # closes its descriptors.
            inlets = cast("Inlets", once.setdefault("made_inlets", made))
        if not inlets.docked:
            # An iteration looks beyond the line from now on: see ``Mailbox.take``. (Another thread
            # may write ``beside`` in between, for an inlet or for the end, and we overwrite it: the
            # closer look finds the inlet, or the end.)
            mailbox.line.beside, mailbox.line.tagged = mailbox.line.beside or Beside(), True
            mailbox.inlets = inlets
            mailbox.lend(inlets)  # so that the end hands back the items in the rings
            self._dock(inlets)
        return inlets

    def _connect(self, bell: Any) -> int:
        """Give *bell* its descriptors; return the one to watch. No other thread knows it yet."""
        raise NotImplementedError

    def _dock(self, inlets: Inlets) -> None:
        """Have the receiver look at *inlets*, and then say so there. In any thread, also twice."""
        raise NotImplementedError
