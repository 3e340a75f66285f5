"""Run a few threads under a schedule: which of them goes on is chosen, not left to chance.

Each actor is a real thread, but only the one with the baton runs. At each line of the library, and
before each call of a function written in C (which is what one atomic step is), the schedule chooses
who goes on. A thread that waits, in ``_waiting.acquire`` or for an event, goes on only when that
would return; if nobody can go on, the actors are stuck, which is how a lost wake shows.

``explore`` walks through all schedules with up to *preemptions* switches away from a thread that
could have gone on. (That a small number of these finds most bugs: Musuvathi and Qadeer, "Iterative
Context Bounding for Systematic Testing of Multithreaded Programs", PLDI 2007.) ``wander`` tries
random ones. Each run has a ``plan``, which ``replay`` runs again: at which of the choices somebody
else than the first one went on.
"""

from __future__ import annotations

import gc
import itertools
import random
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

from dss_anyio._loops import slices as _waiting

Actors = Sequence[Callable[[], object]]
Choose = Callable[[int], int]  # from the number of options; the first one is to go on


def is_ours(frame: FrameType) -> bool:
    return bool(frame.f_globals.get("__name__", "").startswith("dss_anyio."))


class Run:
    """One run of *actors* under the schedule that *choose* makes up as it goes."""

    def __init__(self, actors: Actors, choose: Choose) -> None:
        self.chosen: list[int] = []  # wherever there was a choice
        self.options: list[int] = []  # out of how many
        self.forced: list[bool] = []  # the one who ran could not go on: no preemption
        self.stuck: list[str] = []  # those who wait for ever
        self.errors: list[BaseException] = []
        self._choose = choose
        self._batons = [threading.Semaphore(0) for _ in actors]
        self._waits: dict[int, Callable[[], bool]] = {}  # of those who do not run: may they?
        self._left = set(range(len(actors)))
        self._threads = [
            threading.Thread(target=self._act, args=(number, actor), daemon=True)
            for number, actor in enumerate(actors)
        ]

    @property
    def plan(self) -> dict[int, int]:
        return {at: chosen for at, chosen in enumerate(self.chosen) if chosen}

    def finish(self, release: Callable[[], object]) -> None:
        """Run all actors; those who are stuck go on after *release*, without a schedule."""
        gc.disable()  # a finalizer would be an actor that nobody has planned
        try:
            for thread in self._threads:
                thread.start()
            self._pass_on(None)
            for thread in self._threads:
                while thread.is_alive() and not self.stuck:
                    thread.join(0.05)
            if self.stuck:
                for baton in self._batons:
                    baton.release()
                release()
            for thread in self._threads:
                thread.join(20)
                assert not thread.is_alive(), "released, and still there"
        finally:
            gc.enable()
        if self.errors:
            raise self.errors[0]

    def _act(self, me: int, actor: Callable[[], object]) -> None:
        self._batons[me].acquire()
        trace, profile = self._watchers(me)
        sys.setprofile(profile)
        sys.settrace(trace)
        try:
            actor()
        except BaseException as exc:
            self.errors.append(exc)
        finally:
            sys.settrace(None)
            sys.setprofile(None)
            self._left.discard(me)
            self._pass_on(None)

    def _watchers(self, me: int) -> tuple[Any, Any]:
        def trace(frame: FrameType, event: str, _: Any) -> Any:
            if frame.f_code is _waiting.acquire.__code__:
                if frame.f_locals["timeout"] != 0:
                    lock = frame.f_locals["lock"]
                    self._waits[me] = lambda: not lock.locked()
                    self._point(me)
                return None
            if event == "line":
                self._point(me)
            return trace

        def trace_calls(frame: FrameType, event: str, _: Any) -> Any:
            if frame.f_code is threading.Event.wait.__code__ and frame.f_back is not None:
                if is_ours(frame.f_back):
                    self._waits[me] = frame.f_locals["self"].is_set
                    self._point(me)
                return None
            if frame.f_globals is vars(_waiting) and frame.f_code is not _waiting.acquire.__code__:
                return None  # how long to wait: nobody else has a part in that
            return trace(frame, event, _) if is_ours(frame) else None

        def profile(frame: FrameType, event: str, _: Any) -> None:
            if event == "c_call" and is_ours(frame) and frame.f_globals is not vars(_waiting):
                self._point(me)

        return trace_calls, profile

    def _point(self, me: int) -> None:
        if self.stuck:
            return  # all run freely
        self._pass_on(me)
        self._batons[me].acquire()
        self._waits.pop(me, None)

    def _can_go_on(self, actor: int) -> bool:
        may_go_on = self._waits.get(actor)
        return may_go_on is None or may_go_on()

    def _pass_on(self, me: int | None) -> None:
        """Give the baton to whoever is chosen; it may come back to *me* at once."""
        if self.stuck:
            return
        able = [actor for actor in sorted(self._left) if self._can_go_on(actor)]
        if not able:
            self.stuck = [f"actor {actor}" for actor in sorted(self._left)]
            return
        if me in able:
            able.remove(me)
            able.insert(0, me)
        chosen = 0
        if len(able) > 1:
            chosen = self._choose(len(able))
            self.chosen.append(chosen)
            self.options.append(len(able))
            self.forced.append(able[0] != me)
        self._batons[able[chosen]].release()


Scene = Callable[[], tuple[Actors, Callable[[], object], Callable[[Run], object]]]


def play(scene: Scene, choose: Choose) -> Run:
    """One run of a new *scene*: its actors, what releases them, and what must be true then."""
    actors, release, check = scene()
    run = Run(actors, choose)
    try:
        run.finish(release)
        check(run)
    except BaseException:
        print(f"replay(scene, {run.plan}) shows this again")
        raise
    return run


def replay(scene: Scene, plan: Mapping[int, int]) -> Run:
    """The run that has made *plan*; where that says nothing, whoever runs goes on."""
    choices = itertools.count()
    return play(scene, lambda options: min(plan.get(next(choices), 0), options - 1))


def explore(scene: Scene, preemptions: int) -> Iterator[Run]:
    """Every schedule with at most so many *preemptions*."""
    plan: dict[int, int] | None = {}
    while plan is not None:
        run = replay(scene, plan)
        yield run
        plan = _next_plan(run, preemptions)


def _next_plan(run: Run, preemptions: int) -> dict[int, int] | None:
    """Depth first: the last choice that has another option left, and may have it."""
    taken = [
        chosen > 0 and not forced for chosen, forced in zip(run.chosen, run.forced, strict=True)
    ]
    for at in reversed(range(len(run.chosen))):
        if run.chosen[at] + 1 < run.options[at] and (
            run.forced[at] or sum(taken[:at]) < preemptions
        ):
            return {n: chosen for n, chosen in run.plan.items() if n < at} | {
                at: run.chosen[at] + 1
            }
    return None


def wander(scene: Scene, seed: int, eagerness: float = 0.1) -> Run:
    """A random schedule. Whoever could go on is interrupted with the probability *eagerness*."""
    chance = random.Random(seed)

    def choose(options: int) -> int:
        return chance.randrange(options) if chance.random() < eagerness else 0

    return play(scene, choose)
