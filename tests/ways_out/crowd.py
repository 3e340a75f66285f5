"""Threads that keep a hub busy while it is left, and what becomes of them.

Imported by the programs in this directory. Each of them leaves a hub in one way; those that are
blocked then say one line each, and ``test_ending.py`` reads the lines.
"""

from __future__ import annotations

import asyncio
import ctypes
import faulthandler
import importlib
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import anyio
import trio

import dss_anyio as dss
from dss_anyio._ending import order as _ending

MOST_SECONDS = 30  # for the whole program; then it shows all stacks and dies of SIGALRM
BLOCKED = 6

faulthandler.register(signal.SIGALRM, chain=True)
signal.alarm(MOST_SECONDS)
# Whoever was released has to leave. With this, an end that waits for its own time limit is one that
# takes too long.
_ending.LEAVE_TIMEOUT = 6 * MOST_SECONDS
# As it is unless our parent runs us in the background.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGUSR1, lambda *_: None)
# Not "Executing <Task ...> took 0.110 seconds": the other threads are busy; they are meant to be.
logging.getLogger("asyncio").setLevel(logging.ERROR)
sys.setswitchinterval(1e-4)


def say(line: str) -> None:
    """Write *line* for the test, without a buffer or a lock that could get lost on the way out."""
    os.write(1, f"{line}\n".encode())


def ask_for_ctrl_c() -> None:
    """Have the test send us SIGINT. When this returns, it was sent."""
    say("SIGINT")
    os.read(0, 1)
    if not _loop_is_woken_by_signals:
        threading.Thread(target=_make_it_heard, daemon=True).start()


_loop_is_woken_by_signals = False


def _make_it_heard() -> None:
    """Python hears of a signal between two bytecodes, and one may come just before ``select()``.

    Then asyncio, which has nothing that wakes it, goes to sleep with it. trio and uvloop have
    ``set_wakeup_fd()``, and trio closes that file before it takes it back: a signal right there
    makes Python complain, so they get none that they do not need.
    """
    main = threading.main_thread().ident or 0
    for _ in range(20):
        signal.pthread_kill(main, signal.SIGUSR1)
        time.sleep(0.05)


def press_ctrl_c_when(condition: Callable[[], object]) -> None:
    """Have another thread ask for SIGINT once *condition* is true."""

    def watch() -> None:
        wait_until(condition)
        ask_for_ctrl_c()

    threading.Thread(target=watch, daemon=True).start()


def wait_until(condition: Callable[[], object]) -> None:
    while not condition():
        time.sleep(0.001)


def main_thread_sleeps() -> bool:
    """Does the main thread's event loop wait for something to happen?

    If KeyboardInterrupt strikes in asyncio's own code instead, a task may never wake up again.
    """
    frame = sys._current_frames()[threading.main_thread().ident or 0]
    where = frame.f_code.co_name, os.path.basename(frame.f_code.co_filename)
    return where in {
        ("select", "selectors.py"),  # asyncio
        ("run", "runners.py"),  # uvloop; its own functions have no frames
        ("_cancel_all_tasks", "runners.py"),
        ("leave", "closed_loop.py"),
        ("get_events", "_io_epoll.py"),  # trio
        ("get_events", "_io_kqueue.py"),
    }


def run(backend: str, main: Callable[[], Any]) -> None:
    """Run the coroutine function *main* on "asyncio", "uvloop" or "trio"."""
    global _loop_is_woken_by_signals
    _loop_is_woken_by_signals = backend != "asyncio"
    if backend == "trio":
        trio.run(main)
    elif sys.version_info >= (3, 11):
        with asyncio.Runner(loop_factory=importlib.import_module(backend).new_event_loop) as runner:
            runner.run(main())
    else:
        if backend == "uvloop":
            importlib.import_module("uvloop").install()
        asyncio.run(main())


_answered: list[dss.Request[Any]] = []


def let_go_on(item: object) -> None:
    """If *item* is a request, answer it. It is kept: Ctrl-C in its finalizer would be ignored."""
    if isinstance(item, dss.Request):
        _answered.append(item)
        item.reply()


def what_is_accepted(portal: dss.Portal[Any]) -> str:
    """Call *portal* in every way there is, after its hub has ended."""
    for name, call in {
        "send": lambda: portal.send("late"),
        "send with a timeout": lambda: portal.send("late", timeout=0),
        "send_nowait": lambda: portal.send_nowait("late"),
        "send_many": lambda: portal.send_many(["late"]),
        "request": lambda: portal.request("late"),
        "request_soon": lambda: portal.request_soon("late"),
        "request_callback": lambda: portal.request_callback(timeout=None)("late"),
        "call": lambda: portal.call(int),
        "start_task_soon": lambda: portal.start_task_soon(int),
        "clone": portal.clone,
    }.items():
        try:
            call()
        except anyio.BrokenResourceError:
            pass
        except BaseException as exc:
            return f"{name} raises {exc!r}"
        else:
            return f"{name} is accepted"
    if portal.offer("late"):
        return "offer is accepted"
    if portal.send_callback()("late") is not None:
        return "a callback returns something"
    if portal.request_callback(timeout=None, default="default")("late") != "default":
        return "a request"
    return "nothing"


class Crowd:
    """Four threads that are blocked in ``send``, two in ``request``; two never stop calling.

    One of those that send, and one of those that ask, was made by C.

    The callers are daemons, and go on until they are seen off, or else until Python exits.
    """

    def __init__(self) -> None:
        self._inside = 0
        self._left = threading.Semaphore(0)
        self._over = False
        self._callers: list[threading.Thread] = []
        self._in_c: list[ctypes.c_void_p] = []

    def come(self, hub: dss.Hub[Any] | dss.PolledHub[Any]) -> None:
        """Start the threads. The hub must be small, and a portal of it has to be free."""
        self._inside = BLOCKED
        portal = hub.portal
        registered = hub.register("registered")
        callback = portal.send_callback()
        for who, its, call in (
            ("first", portal, portal.send),
            ("second", portal, portal.send),
            ("registered", registered, registered.send),
            ("asker", registered, registered.request),
        ):
            args = who, its, call
            threading.Thread(target=self._go_on, args=args, name=who, daemon=False).start()
        self._in_c = [
            start_in_c(lambda: self._go_on("native", portal, portal.send)),
            start_in_c(lambda: self._go_on("native asker", portal, portal.request)),
        ]
        self._callers = [
            threading.Thread(target=self._call, args=(call,), daemon=True)
            for call in (lambda: portal.offer("offered"), lambda: callback("called back"))
        ]
        for caller in self._callers:
            caller.start()

    def _go_on(self, who: str, portal: dss.Portal[Any], call: Callable[[str], object]) -> None:
        try:
            while True:
                try:
                    call(who)
                except dss.NoReplyError:
                    pass  # who receives it has no answer
        except anyio.BrokenResourceError:
            accepted = what_is_accepted(portal)
            say(f"{who} is released, then {accepted} is accepted")
        except BaseException as exc:
            say(f"{who} gets {exc!r}")
        self._left.release()

    def _call(self, call: Callable[[], object]) -> None:
        while not self._over:
            call()

    def surround_polled(self, hub: dss.PolledHub[Any]) -> None:
        """Start the threads and wait until those that send are blocked."""
        self.come(hub)
        wait_until(lambda: len(hub.blocked()) == BLOCKED)

    async def surround(self, hub: dss.Hub[Any]) -> None:
        """The same in an event loop."""
        self.come(hub)
        while len(hub.blocked()) < BLOCKED:
            await anyio.sleep(0.001)

    def wait_until_released(self) -> None:
        while self._inside:
            self._left.acquire()
            self._inside -= 1

    def see_off(self) -> None:
        """Wait until all threads have ended, those that never stop calling as well.

        Before 3.14, CPython itself crashes now and then if a daemon runs while it exits (its issues
        87135 and 110052). So only those programs that are about just that let it come to it.
        """
        self.wait_until_released()
        self._over = True
        for caller in self._callers:
            caller.join()
        for handle in self._in_c:
            ctypes.CDLL(None).pthread_join(handle, None)


_THREAD = ctypes.CFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p)
_functions_in_c: list[object] = []  # C calls them, so they must stay


def start_in_c(func: Callable[[], object]) -> ctypes.c_void_p:
    """Call *func* in a thread that C makes and Python does not know of; return its handle."""
    c = ctypes.CDLL(None)

    def main(_: object) -> None:
        func()

    in_c = _THREAD(main)
    _functions_in_c.append(in_c)
    handle = ctypes.c_void_p()
    if c.pthread_create(ctypes.byref(handle), None, in_c, None):
        raise OSError("pthread_create has failed")
    return handle
