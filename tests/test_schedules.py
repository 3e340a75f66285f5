"""Two senders, a receiver and somebody who closes; askers and answerers: under many schedules.

``test_interleavings.py`` lets one call run inside of another. Here each thread can be interrupted
in the middle, by one that is then interrupted as well. More of it than a test run has time for:

    python tests/test_schedules.py PREEMPTIONS      all schedules with so many
    python tests/test_schedules.py --seeds FROM TO  random ones
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
from anyio import BrokenResourceError, ClosedResourceError, EndOfStream
from conftest import WITHOUT_GIL
from schedules import Actors, Run, Scene, explore, replay, wander

import dss_anyio as dss

Parts = tuple[Actors, Callable[[], object], Callable[[Run], object]]
REFUSED = (BrokenResourceError, ClosedResourceError)


class Books:
    """A polled hub, and what becomes of the items."""

    def __init__(self, limit: float, overflow: Any = "block") -> None:
        self.hub = dss.open_polled_hub[Any](limit, overflow=overflow)
        self.accepted: list[Any] = []
        self.received: list[Any] = []
        self.undelivered: list[Any] = []
        self.sources = [
            self.hub.register(name, on_undelivered=self.undelivered.append) for name in "ab"
        ]

    def send(self, sender: int, items: int) -> None:
        name = "ab"[sender]
        for number in range(items):
            try:
                self.sources[sender].send(f"{name}{number}")
            except REFUSED:
                return
            assert len(self.hub) <= self.hub.statistics().max_buffer_size
            self.accepted.append(f"{name}{number}")

    def receive(self, most: int) -> None:
        hub = self.hub
        with suppress(EndOfStream, ClosedResourceError):
            while len(self.received) < most:
                hub.wait()
                self.received += hub.poll()

    def poll(self) -> None:
        with suppress(EndOfStream, ClosedResourceError):
            self.received += self.hub.poll()

    def check(self, run: Run) -> None:
        assert run.stuck == []
        hub = self.hub
        assert hub.blocked() == []
        hub.close()
        assert sorted(self.received + self.undelivered) == sorted(self.accepted)
        for name in "ab":
            of_one = [item for item in self.received if item.startswith(name)]
            assert of_one == sorted(of_one), "in the order of its sender"
        counts = hub.statistics()
        assert counts.received == len(self.received)
        assert counts.dropped + counts.undelivered == len(self.undelivered)
        assert (counts.queued, counts.errors) == (0, 0)


CLOSING: dict[str, Callable[[Books], object] | None] = {
    "nobody": None,
    "the hub": lambda books: books.hub.close(),
    "the senders": lambda books: books.hub.close_senders(),
    "one portal": lambda books: books.sources[0].close(),
    "one portal, at once": lambda books: books.sources[0].abort(),
}


def deliveries(limit: float, overflow: str, closing: str) -> Parts:
    books = Books(limit, overflow)
    items = 2 if limit == 1 else 1
    actors: list[Callable[[], object]] = [
        partial(books.send, 0, items),
        partial(books.send, 1, items),
    ]
    close = CLOSING[closing]
    if close is None:
        actors.append(partial(books.receive, 2 * items))
    else:
        actors += [books.poll, lambda: (close(books), books.hub.close())]
    return actors, books.hub.close, books.check


class Questions:
    """A polled hub, a question, and what each side is told of it."""

    def __init__(self) -> None:
        self.hub = dss.open_polled_hub[Any]()
        self.portal = self.hub.register("library")
        self.asker: list[str] = []  # how it has ended, for the asker
        self.answerers: list[bool] = []  # what reply() has returned, for each of them
        self.future: Future[Any] | None = None
        self.token: dss.Request[Any] | None = None

    def ask(self) -> None:
        try:
            self.asker.append(self.portal.request("question"))
        except dss.NoReplyError:
            self.asker.append("unanswered")
        except ZeroDivisionError:
            self.asker.append("refused")
        except REFUSED:
            self.asker.append("released")

    def ask_soon(self) -> None:
        with suppress(*REFUSED):
            self.future = self.portal.request_soon("question")

    def give_up(self) -> None:
        if self.future is not None:
            self.future.cancel()

    def answer(self, how: Callable[[dss.Request[Any]], bool | None]) -> None:
        with suppress(EndOfStream, ClosedResourceError):
            self.hub.wait()
            for request in self.hub.poll():
                told = how(request)
                if told is not None:
                    self.answerers.append(told)

    def answer_too(self) -> None:
        """Another thread answers as well, if it can get hold of the token."""
        if self.token is not None:
            self.answerers.append(self.token.reply("other answer"))

    def reply(self, request: dss.Request[Any]) -> bool:
        self.token = request
        return request.reply("answer")

    def check(self, run: Run) -> None:
        assert run.stuck == []
        self.token = None
        self.hub.close()
        assert self.hub.blocked() == []
        if self.future is not None:
            self.asker.append(ending_of(self.future))
        counts = self.hub.statistics().requests
        ended = {name for name in counts._fields if getattr(counts, name)}
        if self.asker:
            [ending] = self.asker
            ending = ending if ending in counts._fields else "answered"
            # One that is refused entry has not been asked.
            assert ended in ({ending}, set() if ending == "released" else {ending})
        assert sum(counts) <= 1
        assert self.answerers.count(True) == counts.answered + counts.refused


def ending_of(future: Future[Any]) -> str:
    assert future.done()
    try:
        return str(future.result())
    except CancelledError:
        return "abandoned"
    except dss.NoReplyError:
        return "unanswered"
    except ZeroDivisionError:
        return "refused"
    except REFUSED:
        return "released"


ANSWERS: dict[str, Callable[[Questions, dss.Request[Any]], bool | None]] = {
    "answered": Questions.reply,
    "refused": lambda _, request: request.reply_error(ZeroDivisionError()),
    "forgotten": lambda _, request: None,
}
if WITHOUT_GIL:
    # An object that another thread forgets goes in the thread that has made it. That is the asker,
    # which is held up by the schedule.
    del ANSWERS["forgotten"]
MEANWHILE: dict[str, Callable[[Questions], object]] = {
    "the hub ends": lambda qs: qs.hub.close(),
    # The other portal as well: or whoever is to answer might wait for the next one's question.
    "its portal is closed": lambda qs: (qs.portal.close(), qs.hub.portal.close()),
    "its portal is aborted": lambda qs: (qs.portal.abort(), qs.hub.portal.close()),
    "the senders are closed": lambda qs: qs.hub.close_senders(),
    "another one answers": Questions.answer_too,
    "it is given up": Questions.give_up,
}


def question(answer: str, meanwhile: str) -> Parts:
    questions = Questions()
    ask = questions.ask_soon if meanwhile == "it is given up" else questions.ask
    actors = [
        ask,
        partial(questions.answer, partial(ANSWERS[answer], questions)),
        partial(MEANWHILE[meanwhile], questions),
    ]
    return actors, questions.hub.close, questions.check


SCENES: dict[str, Scene] = {
    f"{limit} {overflow}, {closing} closes": partial(deliveries, limit, overflow, closing)
    for limit, overflow in [
        (1, "block"),
        (math.inf, "block"),
        (1, "drop_oldest"),
        (1, "drop_newest"),
    ]  # fmt: skip
    for closing in CLOSING
    if overflow == "block" or closing != "nobody"  # of what is dropped the receiver does not hear
}
SCENES |= {
    f"a question is {answer}, {meanwhile}": partial(question, answer, meanwhile)
    for answer in ANSWERS
    for meanwhile in MEANWHILE
}


@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES.keys())
def test_no_order_of_the_threads_breaks_a_promise(scene: Scene) -> None:
    """Without any preemption: whoever runs goes on until it waits or has ended."""
    plans = [run.plan for run in explore(scene, 0)]
    assert len(plans) > 5
    assert all(plan not in plans[:at] for at, plan in enumerate(plans))


@pytest.mark.parametrize("scene", SCENES.values(), ids=SCENES.keys())
def test_no_random_schedule_breaks_a_promise(scene: Scene) -> None:
    """The seed of one that does is a parameter of ``wander``; its plan is printed."""
    for seed in range(15):
        wander(scene, seed)


def test_who_waits_for_ever_is_stuck() -> None:
    """Otherwise none of these tests would notice a lost wake."""
    questions = Questions()

    def scene() -> Parts:
        return [questions.ask, lambda: None], questions.hub.close, lambda run: None

    assert replay(scene, {}).stuck == ["actor 0"]
    assert questions.asker == ["released"]


def test_a_plan_is_replayed() -> None:
    scene = SCENES["1 block, the hub closes"]
    plan = wander(scene, 7).plan
    assert replay(scene, plan).plan == plan
    assert wander(scene, 7).plan == plan
    assert wander(scene, 8).plan != plan


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("preemptions", nargs="?", type=int, default=2)
    parser.add_argument("--seeds", nargs=2, type=int, metavar=("FROM", "TO"))
    parser.add_argument("--match", default="", help="only scenes with this in their name")
    options = parser.parse_args()
    for name, scene in SCENES.items():
        if options.match not in name:
            continue
        if options.seeds:
            runs = sum(1 for seed in range(*options.seeds) if wander(scene, seed))
        else:
            runs = sum(1 for _ in explore(scene, options.preemptions))
        print(f"{runs:8,} schedules: {name}", flush=True)


if __name__ == "__main__":
    main()
