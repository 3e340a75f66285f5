"""Watch a solver improve its solution, and stop it as soon as one is good enough.

By hand, a cancelled ``asyncio.to_thread(solver.solve, ...)`` goes on solving until it is done.
"""

import sys
import threading
from itertools import combinations, pairwise

import anyio
from ortools.sat.python import cp_model

import dss_anyio as dss

MARKS = 12
GOOD_ENOUGH = 120  # the best length is 85, but it takes long to prove that


def golomb_ruler() -> tuple[cp_model.CpModel, list[cp_model.IntVar]]:
    """Find a short ruler on which no two pairs of marks have the same distance."""
    model = cp_model.CpModel()
    marks = [model.new_int_var(0, 200, f"mark {number}") for number in range(MARKS)]
    model.add(marks[0] == 0)
    for left, right in pairwise(marks):
        model.add(left < right)
    model.add_all_different([right - left for left, right in combinations(marks, 2)])
    model.minimize(marks[-1])
    return model, marks


class Search:
    def __init__(self, portal: dss.Portal[list[int]]) -> None:
        model, marks = golomb_ruler()
        send = portal.send_callback()

        class Show(cp_model.CpSolverSolutionCallback):
            def on_solution_callback(self) -> None:  # runs in a solver's thread
                send([self.value(mark) for mark in marks])

        self._solver = cp_model.CpSolver()
        self._solver.parameters.num_workers = 2
        self._thread = threading.Thread(target=self._solver.solve, args=[model, Show()])
        self._thread.start()

    def stop(self) -> None:
        self._solver.stop_search()
        self._thread.join()
        print("the solver has stopped")


async def main() -> None:
    async with (
        dss.open_hub[list[int]]() as hub,
        hub.open_source("solver", Search, Search.stop),
    ):
        with anyio.move_on_after(20):  # or another reason to end
            async for ruler in hub:
                if ruler[-1] <= GOOD_ENOUGH:
                    print(f"good enough: {len(ruler)} marks on at most {GOOD_ENOUGH}")
                    break


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
