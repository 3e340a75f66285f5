"""Everything at once, for as long as one likes, and every item and request is accounted for.

    python tests/soak.py                          a minute: asyncio, uvloop and trio in turn
    python tests/soak.py --seconds 1800           half an hour

Sixteen threads send, others ask and call, sources come and go, libraries are started and stopped,
receivers are cancelled, a feed is taken from, a library fails thousands of times a second, polled
hubs are polled in nested loops and closed from other threads; and every two seconds the hub ends,
each time in another way and with another limit and policy. Then all threads must return, and the
books of the senders, of the handlers and of the hub must agree, and no timer may have been late.
Memory, threads and files must not grow.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import math
import os
import random
import re
import resource
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import anyio

import dss_anyio as dss
from dss_anyio.testing import until

BACKENDS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {}),
    "uvloop": ("asyncio", {"use_uvloop": True}),
    "trio": ("trio", {}),
}
ROUND = 2.0  # seconds
SENDERS, ASKERS, CALLERS = 16, 4, 2
KINDS: list[tuple[float, Any]] = [
    (64, "block"), (1, "block"), (0, "block"), (math.inf, "block"),
    (64, "drop_oldest"), (1, "drop_oldest"), (64, "drop_newest"),
]  # fmt: skip
ENDS = ["cancelled", "drained", "an error"]
GONE = (anyio.BrokenResourceError, anyio.ClosedResourceError)
MOST_GROWTH = 10 * 2**20  # bytes
MOST_LATE = 2.0  # seconds that a timer of 10 ms may be late, on a machine that is busy


class RefusalError(Exception):
    """What a handler refuses with."""


class FailureError(Exception):
    """What ends a hub."""


class Question:
    """The item of a request."""


class Round:
    """One hub, from opening to the last word of the last thread."""

    def __init__(self, number: int, seed: int, native: bool) -> None:
        self.seed = f"{seed}, round {number}"
        self.limit, self.overflow = KINDS[number % len(KINDS)]
        self.end = ENDS[number % len(ENDS)]
        self.native = native  # asyncio's own cancellation is there to be tried
        self.books: list[Counter[str]] = []  # of each thread and task, so none is shared
        self.errors: list[BaseException] = []
        self.over = threading.Event()
        self.told = 0
        self.latest = 0.0  # of the timer
        self._handed: list[itertools.count[int]] = []
        self._threads: list[threading.Thread] = []

    async def run(self, seconds: float) -> Counter[str]:
        try:
            async with dss.open_hub[Any](
                self.limit, overflow=self.overflow, on_error=self._on_error
            ) as hub:
                self._start(hub)
                await anyio.sleep(seconds)
                self.over.set()
                if self.end == "an error":
                    raise FailureError
                if self.end == "cancelled":
                    hub.task_group.cancel_scope.cancel()
                else:
                    hub.close_senders()
                    await self._served.wait()
                    hub.task_group.cancel_scope.cancel()
        except BaseException as exc:
            if not is_failure(exc):
                raise
        for thread in self._threads:
            await anyio.to_thread.run_sync(thread.join, 20)
            assert not thread.is_alive(), f"{thread.name} was left behind"
        if self.errors:
            raise self.errors[0]
        return self._balance(hub)

    def _balance(self, hub: dss.Hub[Any]) -> Counter[str]:
        books = sum(self.books, Counter[str]())
        books["handed back"] = sum(map(next, self._handed))
        books["left in the feed"] = len(self._feed)
        counts = hub.statistics()
        assert hub.blocked() == []
        assert counts.queued == 0
        assert counts.sent == counts.received + counts.dropped + counts.undelivered
        plain = books["handled"] + books["received"] + books["handed back"]
        assert books["accepted"] == plain, f"{books}\n{counts}"
        requests = counts.requests
        for ending in ("answered", "refused", "unanswered", "abandoned"):
            assert getattr(requests, ending) == books[ending], f"{ending}: {books}\n{counts}"
        # The last request of each asker may have been turned away at the door.
        assert 0 <= books["released"] - requests.released <= ASKERS, f"{books}\n{counts}"
        assert requests.open == 0
        assert 0 < self.told <= counts.errors, f"{self.told} told\n{counts}"
        assert counts.errors >= books["failed"], f"{books}\n{counts}"
        assert self.latest < MOST_LATE, f"a timer was late by {self.latest:.2f} s"
        assert books["fed"] == books["taken"] + books["left in the feed"]
        return books

    def _start(self, hub: dss.Hub[Any]) -> None:
        self._served = anyio.Event()
        self._feed = feed = hub.open_feed(8)
        tasks = [self._serve, self._receive_now_and_then, self._open_sources, self._tick]
        for each in tasks:
            hub.task_group.start_soon(each, hub)
        hub.task_group.start_soon(self._fill, feed)
        jobs: list[tuple[Callable[..., None], Any]] = [
            *((self._send, hub.register(f"sender {n}", on_undelivered=self._handed_back()))
              for n in range(SENDERS)),
            *((self._ask, hub.register(f"asker {n}")) for n in range(ASKERS)),
            *((self._call, hub.portal.clone()) for _ in range(CALLERS)),
            (self._come_and_go, hub),
            (self._take, feed),
            (self._fail, hub.register("failing")),
            (self._poll_and_close, None),
        ]  # fmt: skip
        for number, (job, what) in enumerate(jobs):
            chance = random.Random(f"{self.seed}, thread {number}")
            thread = threading.Thread(target=self._act, args=(job, what, chance), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _act(self, job: Callable[..., None], what: Any, chance: random.Random) -> None:
        try:
            job(what, chance, self._book())
        except BaseException as exc:
            self.errors.append(exc)

    def _book(self) -> Counter[str]:
        self.books.append(Counter())
        return self.books[-1]

    def _handed_back(self) -> Callable[[Any], None]:
        ticks = itertools.count()  # any thread may hand something back, and two of them at once
        self._handed.append(ticks)
        return lambda _: next(ticks)

    # -- threads -----------------------------------------------------------------------------------

    def _send(self, portal: dss.Portal[Any], chance: random.Random, book: Counter[str]) -> None:
        with suppress(*GONE):
            while True:
                send_somehow(portal, chance, book)
                if chance.random() < 0.05:
                    time.sleep(chance.random() / 500)

    def _ask(self, portal: dss.Portal[Any], chance: random.Random, book: Counter[str]) -> None:
        while True:
            try:
                portal.request(Question(), timeout=chance.choice([None, 1.0, 0.01, 0.001]))
            except TimeoutError:
                book["abandoned"] += 1
            except RefusalError:
                book["refused"] += 1
            except dss.NoReplyError:
                book["unanswered"] += 1
            except anyio.WouldBlock:
                book["dropped requests"] += 1
            except GONE:
                book["released"] += 1
                return
            else:
                book["answered"] += 1

    def _call(self, portal: dss.Portal[Any], chance: random.Random, book: Counter[str]) -> None:
        with suppress(dss.NoReplyError, *GONE):
            while True:
                number = chance.randrange(1000)
                assert portal.call(lambda number=number: number + 1) == number + 1
                assert portal.call(echo, number) == number
                book["called"] += 2

    def _come_and_go(self, hub: dss.Hub[Any], chance: random.Random, book: Counter[str]) -> None:
        with suppress(*GONE):
            for number in itertools.count():
                portal = hub.register(f"guest {number}", on_undelivered=self._handed_back())
                try:
                    for _ in range(chance.randrange(10)):
                        send_somehow(portal, chance, book)
                finally:
                    if chance.random() < 0.5:
                        portal.close()
                    else:
                        portal.abort()
                book["guests"] += 1

    def _take(self, feed: dss.Feed[int], chance: random.Random, book: Counter[str]) -> None:
        while not self.over.is_set():
            book["taken"] += feed.take(timeout=0.01, default=0)
        while feed.take_nowait(default=0):
            book["taken"] += 1

    def _on_error(self, exc: BaseException, source: str | None) -> None:
        """Fails itself, as one that logs into the hub: what it causes is counted, and not told."""
        assert isinstance(exc, FailureError), exc
        self.told += 1
        self._failing()

    def _fail(self, portal: dss.Portal[Any], chance: random.Random, book: Counter[str]) -> None:
        """5,000 errors a second; most of them can only be counted."""

        def pack() -> None:
            raise FailureError

        self._failing = failing = portal.send_callback(pack)
        while not self.over.is_set():
            for _ in range(5):
                failing()
                book["failed"] += 1
            time.sleep(0.001)

    def _poll_and_close(self, _: None, chance: random.Random, book: Counter[str]) -> None:
        """A polled hub: nested loops poll it, while it is closed in another thread."""
        while not self.over.is_set():
            book.update(polled_and_closed(chance))

    # -- tasks -------------------------------------------------------------------------------------

    async def _tick(self, _: dss.Hub[Any]) -> None:
        while True:
            due = time.monotonic() + 0.01
            await anyio.sleep(0.01)
            self.latest = max(self.latest, time.monotonic() - due)

    async def _serve(self, hub: dss.Hub[Any]) -> None:
        book = self._book()
        chance = random.Random(self.seed)

        async def answer_later() -> str:
            await anyio.sleep(chance.random() / 100)
            return "later"

        def handle(item: Any) -> Any:
            if type(item) is not Question:
                book["handled"] += 1
                return None
            what = chance.random()
            if what < 0.1:
                raise RefusalError
            return answer_later() if what < 0.3 else "at once"

        try:
            await hub.serve(handle, max_concurrency=8)
        finally:
            self._served.set()

    async def _receive_now_and_then(self, hub: dss.Hub[Any]) -> None:
        book = self._book()
        with suppress(anyio.EndOfStream, *GONE), hub.clone() as end:
            while True:
                item: Any = None
                if self.native:
                    with suppress(asyncio.TimeoutError):
                        item = await asyncio.wait_for(end.receive(), 0.001)
                else:
                    with anyio.move_on_after(0.001):
                        item = await end.receive()
                if isinstance(item, dss.Request):
                    book["forgotten"] += 1
                elif item is not None:
                    book["received"] += 1
                del item
                await anyio.sleep(0.001)

    async def _open_sources(self, hub: dss.Hub[Any]) -> None:
        book = self._book()
        chance = random.Random(self.seed)
        for number in itertools.count():
            library = Library(chance.random(), self._book())
            with suppress(*GONE):
                async with hub.open_source(
                    f"library {number}",
                    library.start,
                    Library.stop,
                    on_undelivered=self._handed_back(),
                ):
                    await anyio.sleep(chance.random() / 20)
            book["libraries"] += 1
            if self.over.is_set():
                return

    async def _fill(self, feed: dss.Feed[int]) -> None:
        book = self._book()
        while not self.over.is_set():
            with anyio.move_on_after(0.01):
                while True:
                    await feed.send(1)
                    book["fed"] += 1


class Library:
    """A library with a thread of its own, which it joins when it is stopped."""

    def __init__(self, seed: float, book: Counter[str]) -> None:
        self.book = book
        self._chance = random.Random(seed)
        self._stopping = threading.Event()

    def start(self, portal: dss.Portal[Any]) -> Library:
        self._thread = threading.Thread(target=self._run, args=(portal,), daemon=True)
        self._thread.start()
        return self

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self, portal: dss.Portal[Any]) -> None:
        with suppress(*GONE):
            while not self._stopping.is_set():
                send_somehow(portal, self._chance, self.book)
                time.sleep(0.0001)


def polled_and_closed(chance: random.Random) -> Counter[str]:
    """One polled hub, and what became of all that was in it."""
    book: Counter[str] = Counter()
    told: list[BaseException] = []
    back: list[int] = []
    raised: list[BaseException] = []
    hub = dss.open_polled_hub[Any](on_error=lambda exc, _: told.append(exc))
    library = hub.register("library", on_undelivered=back.append, stop=_raise)
    failing = library.send_callback(_raise)
    many = chance.randrange(1, 30)
    for _ in range(many):
        failing()
        library.send(0)
    pause = chance.choice([0.0, 0.0001, 0.001])

    def poll(left: int) -> None:
        with suppress(*GONE):
            for _ in range(10):
                if left:
                    hub.portal.start_task_soon(poll, left - 1)
                    book["nested polls"] += 1
                batch = hub.poll(2)  # counts what it has polled inside
                book["polled"] += len(batch)

    def close() -> None:
        time.sleep(pause)
        try:
            hub.close()
        except BaseException as exc:
            raised.append(exc)

    closer = threading.Thread(target=close)
    closer.start()
    poll(2)
    closer.join()
    assert is_failure(raised[0]), raised
    counts = hub.statistics()
    assert counts.sent == counts.received + counts.undelivered == many
    assert (counts.received, counts.undelivered) == (book["polled"], len(back))
    assert len(told) == len(set(map(id, told))) == many == counts.errors
    book["closed while polled"] += 1
    return book


def _raise() -> None:
    raise FailureError


async def echo(number: int) -> int:
    await anyio.lowlevel.checkpoint()
    return number


def send_somehow(portal: dss.Portal[Any], chance: random.Random, book: Counter[str]) -> None:
    """Send an item or a few, in any way there is."""
    how = chance.randrange(4)
    try:
        if how == 0:
            portal.send(0, timeout=chance.choice([None, 0.001]))
            book["accepted"] += 1
        elif how == 1:
            portal.send_nowait(0)
            book["accepted"] += 1
        elif how == 2:
            book["accepted"] += portal.offer(0)
        else:
            portal.send_many([0] * 5, timeout=0.001)
            book["accepted"] += 5
    except (TimeoutError, anyio.WouldBlock) as exc:
        book["accepted"] += accepted_before(exc)
    except GONE as exc:
        book["accepted"] += accepted_before(exc)
        raise


def accepted_before(exc: BaseException) -> int:
    found = re.search(r"\((\d+) of \d+ items were accepted\)", str(exc))
    return int(found[1]) if found else 0


def is_failure(exc: BaseException) -> bool:
    inner = getattr(exc, "exceptions", None)
    return isinstance(exc, FailureError) if inner is None else all(map(is_failure, inner))


class Level(NamedTuple):
    """What must not grow from round to round."""

    threads: int
    files: int
    objects: int
    memory: int  # bytes

    @classmethod
    def now(cls) -> Level:
        until(lambda: not any(map(is_ours, threading.enumerate())))  # a worker may be leaving
        gc.collect()
        return cls(threading.active_count(), count_files(), len(gc.get_objects()), memory())


def is_ours(thread: threading.Thread) -> bool:
    return thread.name.startswith("dss_anyio: ")


def count_files() -> int:
    return len(os.listdir("/dev/fd"))


def memory() -> int:
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # the most there ever was


def check_flat(levels: list[Level]) -> None:
    """The last third of the rounds against the one before; the first one warms up."""
    third = len(levels) // 3
    if third < 2:
        return
    before, after = levels[third : 2 * third], levels[2 * third :]
    for what, room in (("threads", 0), ("files", 0), ("objects", 500), ("memory", MOST_GROWTH)):
        then, now = (max(getattr(level, what) for level in part) for part in (before, after))
        assert now <= then + room, f"{what} grow: {then:,}, then {now:,}"


def soak(backend: str, seconds: float, seed: int) -> None:
    name, options = BACKENDS[backend]
    books: Counter[str] = Counter()
    levels: list[Level] = []

    async def main() -> None:
        begun = time.monotonic()
        while not levels or time.monotonic() - begun < seconds:
            books.update(await Round(len(levels), seed, name == "asyncio").run(ROUND))
            levels.append(Level.now())

    anyio.run(main, backend=name, backend_options=options)
    check_flat(levels)
    print(f"{backend}: {len(levels)} hubs, and every book agrees. {levels[-1]}")
    print(
        "   ", ", ".join(f"{count:,} {what}" for what, count in sorted(books.items())), flush=True
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60, help="of all backends together")
    parser.add_argument("--backend", choices=BACKENDS, action="append", help="only this one")
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    options = parser.parse_args()
    print(f"--seed {options.seed}", flush=True)
    sys.setswitchinterval(1e-4)
    backends = options.backend or list(BACKENDS)
    for backend in backends:
        soak(backend, options.seconds / len(backends), options.seed)


if __name__ == "__main__":
    main()
