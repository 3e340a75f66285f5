"""Every end of a hub that runs no ``finally``, in one list.

Usually ``close()`` or the end of a ``with`` block ends a hub. Sometimes Python runs neither:

1. **The event loop was closed** while the hub's task was suspended: ``abandon_those_in``. Runs in
   the thread that closes the loop, inside ``loop.close()`` (see the witness in
   ``_loops/on_asyncio``), or when the loop is destroyed. It may not await, block or raise. The
   calls that release a blocked asker: the loop's ``close``, which is ``WayIn.__call__``;
   ``abandon_those_in``; ``abandon``; ``order.release_all``; ``Mailbox.end``; ``Registry.end``;
   ``Inside.refuse``; ``Question.refuse``.
2. **The hub is garbage**, or its coroutine is being destroyed: ``abandon``. Runs in any thread,
   between any two bytecodes, as a destructor. It may not block, take a lock or raise.
3. **Python exits**: ``_at_exit``. Runs in the main thread, before Python joins any thread, even a
   thread of an executor. It may block, for as long as the time limits of the ``stop`` functions
   allow. It may not end a hub whose own thread Python is about to join. If such a thread leaves a
   hub behind, ``_outlive`` ends that hub, in a thread made for it, after the hub's own thread.
4. **The process was forked**: ``_after_fork_in_child``. Runs in the only thread of the child,
   before ``os.fork`` returns there. The other threads, the loop, its sockets and the libraries are
   the parent's: it may not call, wake, stop or hand back anything.

A process that is killed, or calls ``os._exit``, runs nothing.

Each of the four begins with ``Mailbox.end``, which refuses and releases at once (in a forked child
with ``Mailbox.forget``). 1 and 2 leave the rest of the order to a daemon thread, because it blocks.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from .._core.errors import other_process
from .._core.mailbox import Mailbox
from .._loops.slices import wait_for
from .._loops.worker import forget_threads, start_daemon
from .order import end_sources, release_all, tell_all_late

# -- The open hubs of this process -----------------------------------------------------------------
#
# Both dicts are changed and copied in single steps only, so destructors and other threads may use
# them at any time.

# A weak reference to each hub, and one to its mailbox. (A strong one would not do: a mailbox holds
# items and callbacks, which may hold the hub, and then the hub would never be garbage.)
_watched: dict[Callable[[], Any], Callable[[], Mailbox | None]] = {}
_orphans: dict[Mailbox, object] = {}  # the mailboxes that a daemon thread is ending


# ``unwatch(watch(hub), None)`` takes the hub out again; a second call does nothing. The
# thread that has ended a hub calls it.
unwatch = _watched.pop


def watch(hub: Any, mailbox: Mailbox) -> Callable[[], Any]:
    """Enter *hub*, which was opened just now in this thread, so that each way out finds it.

    Returns a weak reference to it.
    """
    watched = weakref.ref(hub)
    _watched[watched] = weakref.ref(mailbox)
    # Python may have begun to exit. ``_at_exit`` writes ``_exiting``, and *then* looks at the open
    # hubs. So either it finds this hub, or we read ``_exiting``.
    if _exiting:
        _guard(threading.current_thread())
    return watched


def open_hubs() -> list[Any]:
    """The hubs of this process whose end is not complete, oldest first. From any thread."""
    hubs: list[Any] = []
    for watched in list(_watched):
        hub, mailbox = watched(), _mailbox_of(watched)
        if hub is not None and mailbox is not None and not mailbox.swept:
            hubs.append(hub)
    return hubs


def _mailbox_of(
    watched: Callable[[], Any],
    # Python may have set a module's globals to None before it destroys the last hub.
    _watched: dict[Callable[[], Any], Callable[[], Mailbox | None]] = _watched,
) -> Mailbox | None:
    found = _watched.get(watched)
    return None if found is None else found()


def _open_mailboxes(
    _watched: dict[Callable[[], Any], Callable[[], Mailbox | None]] = _watched,  # as above
    _orphans: dict[Mailbox, object] = _orphans,
    _mailbox_of: Callable[[Callable[[], Any]], Mailbox | None] = _mailbox_of,
) -> Iterator[Mailbox]:
    for watched in list(_watched):
        mailbox = _mailbox_of(watched)
        if mailbox is not None:
            yield mailbox
    yield from list(_orphans)


# -- 1. The event loop was closed ------------------------------------------------------------------


def abandon_those_in(
    loop: int,
    _open_mailboxes: Callable[[], Iterator[Mailbox]] = _open_mailboxes,  # as above
) -> None:
    """End the hubs in the event loop *loop*, which was closed under them.

    Called as ``WayIn._when_closed`` by ``WayIn.__call__`` in ``_loops/on_asyncio``.
    """
    for mailbox in _open_mailboxes():
        if mailbox.home.loop == loop:
            mailbox.home.end_errands()
            abandon(mailbox)
            inlets = mailbox.inlets
            if inlets is not None and inlets.watch is None:
                inlets.bell.close()  # the loop was about to watch its descriptor


# -- 2. The hub is garbage -------------------------------------------------------------------------


def abandon(mailbox: Mailbox) -> None:
    """End *mailbox* where nothing may block. A daemon thread does the steps that take time."""
    release_all(mailbox)  # an exception that it returns has no caller to go to
    if mailbox.home.way_in is not None:
        mailbox.home.way_in.leave_loop_soon(mailbox.home)
    if mailbox.refusal is other_process:
        return
    registry = mailbox.registry
    if registry.sources or registry.stopping or mailbox.entries() or mailbox.ending:
        mine = object()
        if _orphans.setdefault(mailbox, mine) is mine:  # only the first caller starts a thread
            start_daemon(lambda: _end_orphan(mailbox), "dss_anyio: ending an abandoned hub")
    else:
        mailbox.sweep()


def _end_orphan(mailbox: Mailbox) -> None:
    try:
        _see_to_the_end(mailbox)
    finally:
        _orphans.pop(mailbox, None)


def _see_to_the_end(mailbox: Mailbox) -> None:
    """Block until steps 4 to 6 are done, here or in the thread that has begun them."""
    tell_all_late(mailbox, end_sources(mailbox))
    ending = mailbox.ending.decision
    if ending is not None:
        wait_for(ending.done, ending.deadline - time.monotonic())


# -- 3. Python exits -------------------------------------------------------------------------------

_exiting: list[None] = []  # not empty from the moment at which Python begins to exit
_guarded: dict[threading.Thread, object] = {}  # threads for whose end a thread of ours waits


def _at_exit() -> None:
    """End the hubs that the exiting main thread leaves behind.

    Those are the hubs of the main thread itself, of daemon threads and of threads that have ended.
    A hub in a thread that Python is about to join is left to its own ``with`` block. If that thread
    ends without having ended its hub, a thread of ours ends the hub then.
    """
    _exiting.append(None)  # before the look at the open hubs: see ``watch``
    _end_those_of(lambda home: home is None or not _is_joined(home) or _has_left(home))


def _is_joined(home: threading.Thread) -> bool:
    """Does Python wait for *home* when it exits?

    Not for a thread that it has not started. In an interpreter that permits no daemon threads, such
    a thread is not called one (CPython 3.13).
    """
    return not home.daemon and not isinstance(home, _Foreign)


_Foreign: Any = getattr(threading, "_DummyThread", ())


def _has_left(home: threading.Thread | None) -> bool:
    """Does no event loop run in *home* any more? (The main thread exits, or has ended.)"""
    return home is None or home is threading.main_thread() or not home.is_alive()


def _end_those_of(ended: Callable[[threading.Thread | None], bool]) -> None:
    """End the hubs whose thread has *ended*, as the caller sees it; guard the other threads."""
    left_behind: list[Mailbox] = []
    for mailbox in _open_mailboxes():
        # Read once: another thread may poll the hub, and is its home then.
        home = mailbox.home.thread
        if ended(home):
            if _has_left(home):
                mailbox.home.end_errands()
            release_all(mailbox)  # the exception that it may return: the program ends already
            left_behind.append(mailbox)
        elif home is not None:
            _guard(home)
    # Only after all hubs have released their waiters: a ``stop`` of one hub may join a thread that
    # was blocked in another one.
    for mailbox in left_behind:
        _see_to_the_end(mailbox)


def _guard(home: threading.Thread) -> None:
    """When *home* has ended, end the hubs that it leaves behind, in a thread made for that.

    That thread is no daemon, so Python joins it as well, after *home*. Otherwise Python might cut
    it off while it stops a library.
    """
    mine = object()
    if not _is_joined(home) or home is threading.main_thread():
        return
    if _guarded.setdefault(home, mine) is not mine:
        return
    thread = threading.Thread(
        target=_outlive, args=(home,), name=f"dss_anyio: waiting for {home.name}", daemon=False
    )
    try:
        thread.start()
    except RuntimeError:
        # The system has no thread left; or it is CPython 3.12.0 or 3.12.1, which starts none while
        # it exits. Then a hub that *home* leaves behind is not ended.
        _guarded.pop(home, None)


def _outlive(home: threading.Thread) -> None:
    home.join()
    _guarded.pop(home, None)
    # Hubs that daemon threads and the main thread have opened since ``_at_exit`` are in use.
    main = threading.main_thread()
    _end_those_of(lambda home: home is None or not (home.is_alive() or home is main))


def _call_before_exit(func: Callable[[], object]) -> None:
    """Have *func* called in the main thread when Python exits, before anything is joined.

    ``atexit`` comes too late: Python has joined all threads by then. The functions that
    ``threading._register_atexit`` knows are called newest first. Those of ``concurrent.futures``
    join the threads of executors, and may be newer than ours: that module is often imported late
    (``loop.run_in_executor`` does so). If a thread of an executor waits for a hub, that join would
    never end. So *func* is called before all of them: we replace their caller,
    ``threading._shutdown``, which Python looks up in the module when it exits.
    """
    private: Any = threading
    shutdown = getattr(private, "_shutdown", None)
    if shutdown is None:  # a Python that works differently; better late than never
        atexit.register(func)
        return

    def call_and_shut_down() -> None:
        try:
            func()
        finally:
            shutdown()

    private._shutdown = call_and_shut_down


_call_before_exit(_at_exit)
# We may be imported by a thread that goes on while Python already waits for it.
if getattr(threading, "_SHUTTING_DOWN", False) or not threading.main_thread().is_alive():
    _exiting.append(None)


# -- 4. The process was forked ---------------------------------------------------------------------


def _after_fork_in_child() -> None:
    forget_threads()
    for mailbox in _open_mailboxes():
        mailbox.forget()
    for entries in (_watched, _orphans, _exiting, _guarded):
        entries.clear()


if sys.platform != "win32":
    os.register_at_fork(after_in_child=_after_fork_in_child)
