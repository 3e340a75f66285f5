"""Break the library on purpose, one guard at a time, and see which test fails.

    python tests/mutants.py                  all of them, ten minutes
    python tests/mutants.py P1 P4            those of some promises
    python tests/mutants.py --one-of-each    the first one of each promise, two minutes

Each mutant names the promise that it breaks (see ``docs/reliability.md``), and the tests that must
fail, each of them, and that must pass if nothing is broken. ``test_reliability.py`` sees to it that
the list stays true to the source.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
ONE_OF_EACH = "--one-of-each"


class Mutant(NamedTuple):
    promise: str
    breaks: str  # what is missing then
    module: str
    old: str
    new: str
    tests: str  # each of them must fail then


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
        "test_mailbox.py::test_closing_one_portal_releases_those_who_wait_in_it_and_no_others",
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
        "test_mailbox.py::test_a_wait_ends_at_once_if_the_portal_was_closed_meanwhile",
    ),
    Mutant(
        "P1",
        "nobody watches for a loop that is closed",
        "_wake",
        "        self._when_closed(self._loop)\n",
        "        pass\n",
        "test_wake.py::test_closing_the_loop_tells_once_and_at_once_in_the_thread_that_closes_it",
    ),
    Mutant(
        "P1",
        "a hub that is garbage does not end",
        "_face",
        "            _abandon(mailbox)\n",
        "            pass\n",
        "test_ending.py::test_no_thread_is_left_behind_by_a_hub_that_is_garbage",
    ),
    Mutant(
        "P1",
        "a forked child takes the hub for its own",
        "_ending",
        "        mailbox.forget()\n",
        "        pass\n",
        "test_ending.py::test_a_forked_child_has_a_dead_hub_and_the_parent_does_not_notice",
    ),
    Mutant(
        "P1",
        "a thread that gives up a wrapped context manager leaves its task behind",
        "_asking",
        "            self._future.cancel()  # whoever gives up lets nobody work on it, as in ``call``\n",
        "",
        "test_faults.py::test_threads_that_wait_are_struck_and_leave",
    ),
    Mutant(
        "P1",
        "who has put a request does not look again whether the stream has ended meanwhile",
        "_mailbox",
        "        else:\n            self._look_again(question)\n",
        "",
        "test_request.py::test_a_request_is_received_or_released_if_the_stream_ends_at_any_bytecode_of_asking",
    ),
    Mutant(
        "P1",
        "nor does who puts one that has waited for room",
        "_mailbox",
        """                    if question is not None:
                        self._look_again(question)
""",
        "",
        "test_request.py::test_a_request_is_received_or_released_if_the_stream_ends_at_any_bytecode_of_asking",
    ),
    Mutant(
        "P1",
        "a hub is left without its tasks",
        "_hub",
        "            if exc_val is None and not mailbox.has_tasks:\n",
        "            if exc_val is None:\n",
        "test_hub.py::test_tasks_of_a_hub_live_as_long_as_the_hub",
    ),
    Mutant(
        "P2",
        "a queue counts as full before all its places were made",
        "_mailbox",
        "                    if rest is None:\n",
        "                    if room is not None:\n",
        "test_mailbox.py::test_a_hub_takes_exactly_as_many_items_as_it_has_places",
    ),
    Mutant(
        "P2",
        "a sender that has no memory for an item keeps its place",
        "_mailbox",
        """        if self.room is not None:
            self.room.append(None)
            if self.waiting:
                self.admit()

    def _more""",
        """        pass

    def _more""",
        "test_faults.py::test_a_send_without_memory_was_accepted_or_has_raised",
    ),
    Mutant(
        "P2",
        "an item for whose turn there is no memory stays in its lane",
        "_mailbox",
        "        last = own.pop()\n        if last is not item:\n",
        "        last = item\n        if last is not item:\n",
        "test_faults.py::test_a_send_without_memory_was_accepted_or_has_raised",
    ),
    Mutant(
        "P2",
        "a receiver that was woken and is cancelled keeps the wake",
        "_receiver",
        "            self._rouse_soon()  # pass the wake on; if nobody sleeps now, disarm\n",
        "",
        "test_wake.py::test_a_receiver_that_was_woken_and_is_cancelled_passes_the_wake_on",
    ),
    Mutant(
        "P2",
        "an item that comes after the last sweep is forgotten",
        "_mailbox",
        "        self.bell[None] = Mailbox.sweep\n",
        "",
        "test_mailbox.py::test_an_item_that_was_on_its_way_when_the_mailbox_ended_goes_back",
    ),
    Mutant(
        "P2",
        "a sender takes no place",
        "_mailbox",
        """                if take_place is not None:
                    try:
                        take_place()
                    except IndexError:
                        return otherwise(self, lane, item)
""",
        "",
        "test_mailbox.py::test_a_hub_takes_exactly_as_many_items_as_it_has_places",
    ),
    Mutant(
        "P2",
        "to abort one portal turns the order of the others around",
        "_mailbox",
        "        self.items.extendleft(reversed(turns))",
        "        self.items.extendleft(turns)",
        "test_portal.py::test_aborting_the_hubs_own_portal_leaves_other_sources_alone",
    ),
    Mutant(
        "P2",
        "the stream ends before an item that is hidden by a husk which is withdrawn",
        "_receiver",
        """            if finished and not mailbox.items:
                raise no_more() from None
""",
        """            if finished and not len(mailbox):
                raise no_more() from None
""",
        "test_mailbox.py::test_the_stream_does_not_end_before_an_item_that_such_a_husk_hides",
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
        "test_mailbox.py::test_a_counter_loses_nothing_if_somebody_counts_at_any_bytecode_of_counting "
        "test_interleavings.py::test_any_two_calls_may_meet_at_any_bytecode",
    ),
    Mutant(
        "P3",
        "what drops an item holds the place of the one that comes while it is handed back",
        "_mailbox",
        """                try:
                    self._append(lane, item)
                    self.notify()
                finally:
                    if oldest is not None:
                        source, dropped, over = oldest
                        (self.undeliver if over else self.drop)(source, dropped)
""",
        """                if oldest is not None:
                    source, dropped, over = oldest
                    (self.undeliver if over else self.drop)(source, dropped)
                self._append(lane, item)
                self.notify()
""",
        "test_mailbox.py::test_on_undelivered_may_send_to_the_hub_that_drops",
    ),
    Mutant(
        "P4",
        "the receiver looks first and arms the bell then",
        "_receiver",
        """            self._armed = True
            mailbox.arm(self._wake)
            if len(mailbox) <= self._roused and mailbox.lanes and not mailbox.reports:
                return first
""",
        """            self._armed = True
            idle = len(mailbox) <= self._roused and mailbox.lanes and not mailbox.reports
            mailbox.arm(self._wake)
            if idle:
                return first
""",
        "test_interleavings.py::test_no_wake_is_lost_if_an_item_comes_at_any_bytecode_of_a_receive",
    ),
    Mutant(
        "P4",
        "a handler that is called in the wake goes to sleep without a second look",
        "_receiver",
        """                if self.nothing_for(receiver):
                    return
""",
        "                return\n",
        "test_interleavings.py::test_no_wake_is_lost_if_an_item_comes_while_another_one_is_handled_in_the_wake",
    ),
    Mutant(
        "P4",
        "a wake by the short way into trio is lost if that was cut",
        "_trio",
        "        if bell is None or not bell.ring():\n",
        "        if bell is None or bell.ring() is None:\n",
        "test_faults.py::test_the_short_way_into_trio_may_be_cut_and_the_long_one_goes_on",
    ),
    Mutant(
        "P4",
        "on trio who listens while it sleeps is woken by what it hears only",
        "_trio",
        "            _tell(self.ear)\n",
        "            pass\n",
        "test_trio.py::test_who_listens_is_woken_by_another_task_as_well",
    ),
    Mutant(
        "P4",
        "on trio a wake is lost in a task that has no stack left for it",
        "_receiver",
        "        reach(STACK_FOR_A_WAKE)\n",
        "",
        "test_trio.py::test_at_each_depth_of_the_stack_a_sleeper_is_woken_or_refused",
    ),
    Mutant(
        "P4",
        "the bell stays armed for the next sender",
        "_mailbox",
        "\n                        ring = bell.pop(None, None)\n",
        "\n                        ring = bell.get(None)\n",
        "test_wake.py::test_a_burst_of_100_000_items_wakes_once",
    ),
    Mutant(
        "P4",
        "a stranger's datagram wakes",
        "_datagram",
        "                self._listener.connect(sender.getsockname())\n",
        "                pass\n",
        "test_datagram.py::test_a_strangers_datagrams_do_not_make_it_readable",
    ),
    Mutant(
        "P4",
        "who has withdrawn a husk does not tell the receiver that has counted it",
        "_mailbox",
        """                if not self.ended:
                    self.notify()  # who has counted""",
        """                if self.ended:
                    self.notify()  # who has counted""",
        "test_mailbox.py::test_no_wake_is_lost_while_another_source_is_aborted",
    ),
    Mutant(
        "P4",
        "with limit 0 an item that is for one who was woken takes the seat of one that sleeps",
        "_mailbox",
        "max(0, sleepers - max(0, len(self) - roused))",
        "max(0, sleepers - len(self))",
        "test_receiver.py::test_with_no_buffer_a_cancelled_receiver_takes_no_other_ones_seat",
    ),
    Mutant(
        "P4",
        "an exception that a signal handler raises at the bell costs the wake",
        "_mailbox",
        "            self.bell.setdefault(None, self._ring)(self)\n",
        "            pass\n",
        "test_polled.py::test_wherever_a_signal_handler_raises_in_a_sender_the_hub_is_not_deaf",
    ),
    Mutant(
        "P4",
        "a poll that raises leaves the bell unrung beside what is queued",
        "_polled",
        "            mailbox.notify()  # what is left is for the next poll\n",
        "",
        "test_polled.py::test_a_poll_that_raises_leaves_what_is_queued_readable",
    ),
    Mutant(
        "P4",
        "an error that comes after the look of a wake is told with the next wake only",
        "_receiver",
        "                if mailbox.reports:  # they may have come",
        "                if False:  # they may have come",
        "test_serve.py::test_an_error_that_is_reported_while_a_handler_runs_in_the_wake_is_told_at_once",
    ),
    Mutant(
        "P5",
        "a token that is forgotten releases nobody",
        "_request",
        """            self._question.settle("unanswered", "the request was forgotten without a reply")
""",
        "            pass\n",
        "test_request.py::test_a_request_ends_once_and_is_counted",
    ),
    Mutant(
        "P5",
        "a question may end twice",
        "_request",
        "            if self._outcome.setdefault(None, outcome) is not outcome:\n",
        "            if self._outcome.update({None: outcome}):\n",
        "test_request.py::test_of_two_that_settle_a_request_one_wins_at_any_bytecode",
    ),
    Mutant(
        "P5",
        "who gives up does not tell the handler",
        "_request",
        """        if ending in _GIVEN_UP:
            self._tell_watchers()
""",
        "",
        "test_serve.py::test_an_asker_that_gives_up_cancels_its_handler_and_no_other",
    ),
    Mutant(
        "P5",
        "a handler that begins does not look whether its asker has gone",
        "_request",
        """        if self.given_up or self._called_off:
            self._tell_watchers()
        return key
""",
        "        return key\n",
        "test_request.py::test_wait_abandoned_returns_when_the_asker_gives_up",
    ),
    Mutant(
        "P5",
        "the asker and the hub raise one exception, each in its thread",
        "_request",
        'self.settle("refused", twin(exc))',
        'self.settle("refused", exc)',
        "test_calls.py::test_what_ends_a_program_in_a_task_reaches_the_caller_and_ends_the_hub",
    ),
    Mutant(
        "P5",
        "an answer for which there is no stack left is heard by nobody",
        "_request",
        "                self._untold = True  # if that fails again",
        "                self._untold = False  # if that fails again",
        "test_request.py::test_an_answer_for_which_there_is_no_stack_left_is_heard_within_a_second_or_at_the_end",
    ),
    Mutant(
        "P6",
        "a library is stopped before the released calls have left",
        "_ending",
        """        _wait_until_left(mailbox, None)
        while""",
        "        while",
        "test_ending.py::test_a_library_is_stopped_only_after_the_released_calls_have_left",
    ),
    Mutant(
        "P6",
        "the oldest source is stopped first",
        "_ending",
        "            _, source = mailbox.sources.popitem()  # the newest one\n",
        """            source = mailbox.sources.pop(next(iter(mailbox.sources), ""))
""",
        "test_ending.py::test_libraries_are_stopped_newest_first_and_get_their_items_back_last",
    ),
    Mutant(
        "P6",
        "a stop that never returns is waited for",
        "_ending",
        "        join(thread, source.stop_timeout)\n",
        "        join(thread, 45)\n",
        "test_hub.py::test_a_stop_that_does_not_return_in_time_is_an_error_and_goes_on",
    ),
    Mutant(
        "P6",
        "a second end goes to work beside the first",
        "_ending",
        "    if mailbox.ending.setdefault(None, ending) is not ending:\n",
        "    if mailbox.ending.setdefault(None, ending) is None:\n",
        "test_ending.py::test_a_second_close_hands_nothing_back_while_the_first_one_stops_a_library",
    ),
    Mutant(
        "P6",
        "the end of the hub does not wait for those of single sources",
        "_ending",
        "            stopped.wait(2 * source.stop_timeout + LEAVE_TIMEOUT)\n",
        "            pass\n",
        "test_ending.py::test_an_item_comes_back_after_the_stop_whoever_of_the_two_ends_the_source",
    ),
    Mutant(
        "P6",
        "Python exits while another thread ends a hub",
        "_ending",
        "        ending.done.wait(ending.deadline - time.monotonic())\n",
        "        pass\n",
        "test_ending.py::test_python_does_not_exit_while_a_library_of_a_closed_loop_is_being_stopped",
    ),
    Mutant(
        "P6",
        "a portal that is cloned while the last one of its source is closed is open",
        "_portal",
        "        if source.retired:\n",
        "        if False:\n",
        "test_portal.py::test_a_clone_that_meets_the_last_close_is_registered_or_closed",
    ),
    Mutant(
        "P7",
        "what is dropped is not counted",
        "_mailbox",
        '        self.counts["dropped"].add_one()\n        source.counts["dropped"].add_one()\n',
        '        source.counts["dropped"].add_one()\n',
        "test_mailbox.py::test_each_item_ends_once_while_many_threads_overflow_the_hub",
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
        "test_interleavings.py::test_the_latest_item_survives_drop_oldest_whoever_comes_between",
    ),
    Mutant(
        "P7",
        "a send begins without the stack to complete it",
        "_mailbox",
        "    if depth:\n        reach(depth - 1)\n",
        "    pass\n",
        "test_mailbox.py::test_at_each_depth_of_the_stack_what_is_accepted_is_counted_and_nothing_else",
    ),
    Mutant(
        "P8",
        "on trio the loop does not hear of what is sent during a cancellation",
        "_trio",
        "            try:\n                self._run_calls()\n",
        "            try:\n                pass\n",
        "test_trio.py::test_the_hub_hears_its_threads_as_long_as_somebody_receives",
    ),
    Mutant(
        "P8",
        "on asyncio only the first of several receivers goes on",
        "_wake",
        """            return  # it was cancelled before
        self._call_back_soon()
""",
        "            return  # it was cancelled before\n",
        "test_wake.py::test_ten_receivers_and_ten_items_take_one_wake",
    ),
    Mutant(
        "P8",
        "on asyncio a second native cancellation cuts the end short",
        "_worker",
        "            cancelled = exc\n",
        "            return exc\n",
        "test_ending.py::test_a_second_native_cancellation_does_not_cut_the_end_short",
    ),
    Mutant(
        "P8",
        "who waits in a polled hub meets no sender",
        "_polled",
        "                mailbox.seat(1)\n",
        "",
        "test_polled.py::test_a_rendezvous_takes_place_while_the_hub_waits",
    ),
    Mutant(
        "P8",
        "what a poll leaves does not stay readable",
        "_polled",
        "            mailbox.notify()  # what is left, and the end, stay readable\n",
        "            pass\n",
        "test_polled.py::test_the_descriptor_is_readable_from_the_first_item_until_the_last_was_polled",
    ),
    Mutant(
        "P9",
        "a loop's own exception escapes into a library",
        "_request",
        '        if isinstance(exc, Exception):\n            return self.settle("refused", exc)\n',
        '        return self.settle("refused", exc)\n',
        "test_request.py::test_a_request_ends_once_and_is_counted",
    ),
    Mutant(
        "P9",
        "whoever wants to leave in on_error leaves in the wake of somebody else",
        "_receiver",
        """            task_group = self.mailbox.task_group
            if task_group is None:
                raise
""",
        """            task_group = self.mailbox.task_group
            raise
""",
        "test_faults.py::test_who_wants_to_leave_in_on_error_leaves_by_a_task_of_the_hub",
    ),
    Mutant(
        "P9",
        "a callback that comes after the end is not counted",
        "_portal",
        "                late.add_one()\n",
        "                pass\n",
        "test_portal.py::test_a_callback_after_the_end_calls_nothing_and_is_counted",
    ),
    Mutant(
        "P10",
        "an iteration never lets the event loop run",
        "_receiver",
        "                    await checkpoint()\n                    self._turn_began",
        "                    self._turn_began",
        "test_receiver.py::test_iterating_lets_others_run_every_128_items_or_after_a_quarter_of_a_millisecond",
    ),
    Mutant(
        "P10",
        "to receive an item that is there is no checkpoint",
        "_receiver",
        """        await checkpoint()
        while True:
            try:
                return self.receive_nowait()
""",
        """        while True:
            try:
                return self.receive_nowait()
""",
        "test_receiver.py::test_receiving_is_a_checkpoint_also_if_there_is_an_item",
    ),
    Mutant(
        "P10",
        "handlers that are called in the wake never let the event loop run",
        "_serve",
        "                if monotonic() - begun > TURN_SECONDS:\n                    return False\n",
        "",
        "test_serve.py::test_a_handler_that_sends_in_the_wake_is_called_again_but_lets_the_loop_run",
    ),
]


def passes(test: str, source: str) -> bool:
    """Run *test* on the library in the folder *source*. Errors are neither: they are raised."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "--timeout=30", f"tests/{test}"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": source},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=600,
        check=False,
        text=True,
    )
    if done.returncode not in (0, 1):
        raise RuntimeError(done.stdout)  # no such test, or what is there is no Python
    return done.returncode == 0


@cache
def passes_unbroken(test: str) -> bool:
    return passes(test, str(ROOT / "src"))


def verdict_on(mutant: Mutant) -> str:
    for test in mutant.tests.split():
        if not passes_unbroken(test):
            return f"ERROR: {test} fails anyway"
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "src", f"{folder}/src")
        path = Path(folder, "src", "dss_anyio", f"{mutant.module}.py")
        path.write_text(path.read_text().replace(mutant.old, mutant.new))
        alive = [test for test in mutant.tests.split() if passes(test, f"{folder}/src")]
    return f"ALIVE: {', '.join(alive)} passes" if alive else "killed"


def chosen(arguments: list[str]) -> list[Mutant]:
    promises = [argument for argument in arguments if argument != ONE_OF_EACH]
    mutants = [mutant for mutant in MUTANTS if not promises or mutant.promise in promises]
    if ONE_OF_EACH in arguments:
        mutants = list({mutant.promise: mutant for mutant in reversed(mutants)}.values())[::-1]
    return mutants


def main(arguments: list[str]) -> None:
    verdicts: list[str] = []
    for mutant in chosen(arguments):
        verdicts.append(verdict_on(mutant))
        print(f"{mutant.promise:4}{mutant.breaks}: {verdicts[-1]}", flush=True)
    killed = verdicts.count("killed")
    print(f"{killed} of {len(verdicts)} killed")
    raise SystemExit(killed < len(verdicts))


if __name__ == "__main__":
    main(sys.argv[1:])
