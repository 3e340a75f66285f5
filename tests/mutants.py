"""Break the library on purpose, one guard at a time, and see which test fails.

    python tests/mutants.py            all of them, a few minutes
    python tests/mutants.py P1 P4      those of some promises

Each mutant names the promise that it breaks (see ``docs/reliability.md``), and the tests that must
fail. ``test_reliability.py`` sees to it that the list stays true to the source.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent


class Mutant(NamedTuple):
    promise: str
    breaks: str  # what is missing then
    module: str
    old: str
    new: str
    tests: str  # what is given to pytest


MUTANTS = [
    Mutant(
        "P1",
        "the end of a hub does not release those who are blocked",
        "_mailbox",
        """        for blocked in list(self.blocked):
            if blocked.lane is lane:
                blocked.refuse(refusal)
        # Last""",
        "        # Last",
        "tests/test_mailbox.py -k releases_those_who_wait",
    ),
    Mutant(
        "P1",
        "a sender does not look again whether its portal was closed when it enters",
        "_mailbox",
        """        if blocked.lane.refusal is None:
            self.admit()
        else:
            blocked.refuse(blocked.lane.refusal)
""",
        "        self.admit()\n",
        "tests/test_mailbox.py -k closed_meanwhile",
    ),
    Mutant(
        "P1",
        "nobody watches for a loop that is closed",
        "_wake",
        "        for gone in self._watching:\n            gone()\n",
        "        pass\n",
        "tests/test_wake.py -k closing_the_loop",
    ),
    Mutant(
        "P1",
        "a hub that is garbage does not end",
        "_face",
        "            _abandon(self._mailbox)\n",
        "            pass\n",
        "tests/test_ending.py -k garbage",
    ),
    Mutant(
        "P1",
        "a forked child takes the hub for its own",
        "_ending",
        "            mailbox.forget()\n",
        "            pass\n",
        "tests/test_ending.py -k forked_child",
    ),
    Mutant(
        "P1",
        "a thread that gives up a wrapped context manager leaves its task behind",
        "_asking",
        "            self._future.cancel()  # whoever gives up lets nobody work on it, as in ``call``\n",
        "",
        "tests/test_faults.py -k struck_and_leave",
    ),
    Mutant(
        "P2",
        "a sender that has no memory for an item keeps its place",
        "_mailbox",
        """        if self.room is not None:
            self.room.append(None)
            if self.waiting:
                self.admit()

    # ``put`` as""",
        """        pass

    # ``put`` as""",
        "tests/test_faults.py -k without_memory",
    ),
    Mutant(
        "P2",
        "an item for whose turn there is no memory stays in its lane",
        "_mailbox",
        "        last = own.pop()\n        if last is not item:\n",
        "        last = item\n        if last is not item:\n",
        "tests/test_faults.py -k without_memory",
    ),
    Mutant(
        "P2",
        "a receiver that was woken and is cancelled keeps the wake",
        "_receiver",
        "            self._rouse_soon()  # pass the wake on; if nobody sleeps now, disarm\n",
        "",
        "tests/test_wake.py -k passes_the_wake_on",
    ),
    Mutant(
        "P2",
        "an item that comes after the last sweep is forgotten",
        "_mailbox",
        "        self.bell[None] = self.sweep\n",
        "",
        "tests/test_mailbox.py -k was_on_its_way",
    ),
    Mutant(
        "P2",
        "a sender takes no place",
        "_mailbox",
        """                if take_place is not None:
                    try:
                        take_place()
                    except IndexError:
                        return otherwise(item)
""",
        "",
        "tests/test_mailbox.py tests/test_portal.py",
    ),
    Mutant(
        "P2",
        "to abort one portal turns the order of the others around",
        "_mailbox",
        "        self.items.extendleft(reversed(turns))",
        "        self.items.extendleft(turns)",
        "tests/test_portal.py -k leaves_other_sources_alone",
    ),
    Mutant(
        "P3",
        "a counter reads and writes",
        "_counter",
        "        add_one = Ticks.__next__\n",
        """        n = 0

        def add_one(self):
            self.n += 1

        def __repr__(self):
            return f"Counter({self.n})"
""",
        "tests/test_mailbox.py -k counter",
    ),
    Mutant(
        "P3",
        "what drops an item holds the place of the one that comes while it is handed back",
        "_mailbox",
        """                oldest = self._open(entry)  # None for a husk: its place is as good
                self._put_in_place(lane, [item])
                if oldest is not None:
                    self.drop(*oldest)
""",
        """                oldest = self._open(entry)  # None for a husk: its place is as good
                if oldest is not None:
                    self.drop(*oldest)
                self._put_in_place(lane, [item])
""",
        "tests/test_mailbox.py tests/test_interleavings.py",
    ),
    Mutant(
        "P4",
        "the receiver looks first and arms the bell then",
        "_receiver",
        """            self._armed = True
            mailbox.arm(self.wake)
            if len(mailbox) <= self._roused and mailbox.lanes and not mailbox.reports:
                return first
""",
        """            self._armed = True
            idle = len(mailbox) <= self._roused and mailbox.lanes and not mailbox.reports
            mailbox.arm(self.wake)
            if idle:
                return first
""",
        "tests/test_interleavings.py -k no_wake_is_lost",
    ),
    Mutant(
        "P4",
        "a handler that is called in the wake goes to sleep without a second look",
        "_receiver",
        """                if self.nothing_for(receiver):
                    return
""",
        "                return\n",
        "tests/test_interleavings.py -k handled_in_the_wake",
    ),
    Mutant(
        "P4",
        "a wake by the short way into trio is lost if that was cut",
        "_trio",
        "        if bell is None or not bell.ring():\n",
        "        if bell is None or bell.ring() is None:\n",
        "tests/test_faults.py -k short_way",
    ),
    Mutant(
        "P4",
        "the bell stays armed for the next sender",
        "_mailbox",
        """                ring = take_bell(None, None)
""",
        """                ring = bell.get(None)
""",
        "tests/test_wake.py -k wakes_once",
    ),
    Mutant(
        "P4",
        "a stranger's datagram wakes",
        "_datagram",
        "                self._listener.connect(sender.getsockname())\n",
        "                pass\n",
        "tests/test_datagram.py tests/test_polled.py -k stranger",
    ),
    Mutant(
        "P5",
        "a token that is forgotten releases nobody",
        "_request",
        """            self._question.settle("unanswered", "the request was forgotten without a reply")
""",
        "            pass\n",
        "tests/test_request.py -k ends_once_and_is_counted",
    ),
    Mutant(
        "P5",
        "a question may end twice",
        "_request",
        "            if self._outcome.setdefault(None, outcome) is not outcome:\n",
        "            if self._outcome.update({None: outcome}):\n",
        "tests/test_request.py -k of_two_that_settle",
    ),
    Mutant(
        "P5",
        "who gives up does not tell the handler",
        "_request",
        """        if ending in _GIVEN_UP:
            self._tell_watchers()
""",
        "",
        "tests/test_serve.py -k gives_up",
    ),
    Mutant(
        "P5",
        "a handler that begins does not look whether its asker has gone",
        "_request",
        """        if self.given_up:
            self._tell_watchers()
        return key
""",
        "        return key\n",
        "tests/test_request.py tests/test_serve.py",
    ),
    Mutant(
        "P5",
        "the asker and the hub raise one exception, each in its thread",
        "_request",
        'self.settle("refused", twin(exc))',
        'self.settle("refused", exc)',
        "tests/test_calls.py -k ends_a_program_in_a_task",
    ),
    Mutant(
        "P6",
        "a library is stopped before the released calls have left",
        "_ending",
        """    _wait_until_left(mailbox, None)
    errors: list[BaseException] = []
    while""",
        """    errors: list[BaseException] = []
    while""",
        "tests/test_ending.py tests/test_hub.py -k have_left",
    ),
    Mutant(
        "P6",
        "the oldest source is stopped first",
        "_ending",
        "            _, source = mailbox.sources.popitem()  # the newest one\n",
        """            source = mailbox.sources.pop(next(iter(mailbox.sources), ""))
""",
        "tests/test_ending.py -k newest_first",
    ),
    Mutant(
        "P6",
        "a stop that never returns is waited for",
        "_ending",
        "        join(thread, source.stop_timeout)\n",
        "        join(thread, 45)\n",
        "tests/test_hub.py -k does_not_return_in_time",
    ),
    Mutant(
        "P7",
        "what is dropped is not counted",
        "_mailbox",
        "        self.dropped.add_one()\n        source.dropped.add_one()\n",
        "        source.dropped.add_one()\n",
        "tests/test_mailbox.py -k overflow",
    ),
    Mutant(
        "P7",
        "with drop_oldest an item and its place leave in two steps",
        "_mailbox",
        """            self.room.extend(map(batch.append, starmap(self.items.popleft, repeat((), many))))
""",
        """            for _ in range(many):
                batch.append(self.items.popleft())
                self.room.append(None)
""",
        "tests/test_interleavings.py -k latest_item",
    ),
    Mutant(
        "P8",
        "on trio the loop does not hear of what is sent during a cancellation",
        "_trio",
        "CancelScope(shield=True)",
        "CancelScope()",
        "tests/test_trio.py -k hears",
    ),
    Mutant(
        "P9",
        "a loop's own exception escapes into a library",
        "_request",
        '        if isinstance(exc, Exception):\n            return self.settle("refused", exc)\n',
        '        return self.settle("refused", exc)\n',
        "tests/test_request.py tests/test_serve.py tests/test_calls.py",
    ),
    Mutant(
        "P9",
        "whoever wants to leave in on_error leaves in the wake of somebody else",
        "_receiver",
        """            task_group = self.mailbox.task_group()
            if task_group is None:
                raise
""",
        """            task_group = self.mailbox.task_group()
            raise
""",
        "tests/test_faults.py -k leaves_by_a_task",
    ),
    Mutant(
        "P9",
        "a callback that comes after the end is not counted",
        "_portal",
        "                mailbox.late.add_one()\n",
        "                pass\n",
        "tests/test_portal.py -k after_the_end",
    ),
    Mutant(
        "P10",
        "an iteration never lets the event loop run",
        "_receiver",
        "                    await checkpoint()\n                    self._turn_began",
        "                    self._turn_began",
        "tests/test_receiver.py -k iterating",
    ),
]


def is_killed(mutant: Mutant) -> bool:
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "src", f"{folder}/src")
        path = Path(folder, "src", "dss_anyio", f"{mutant.module}.py")
        path.write_text(path.read_text().replace(mutant.old, mutant.new))
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--timeout=30"]
        done = subprocess.run(
            [*command, *mutant.tests.split()],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{folder}/src"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            timeout=600,
            check=False,
        )
    return done.returncode == 1  # tests have failed; anything else went wrong before


def main(promises: list[str]) -> None:
    alive = 0
    for mutant in MUTANTS:
        if not promises or mutant.promise in promises:
            killed = is_killed(mutant)
            alive += not killed
            verdict = "killed" if killed else "ALIVE"
            print(f"{mutant.promise:4}{verdict:8}{mutant.breaks}", flush=True)
    raise SystemExit(alive)


if __name__ == "__main__":
    main(sys.argv[1:])
