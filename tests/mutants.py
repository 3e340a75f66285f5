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
import sysconfig
import tempfile
from functools import cache
from pathlib import Path
from typing import NamedTuple

from dss_anyio import _native

ROOT = Path(__file__).parent.parent
ONE_OF_EACH = "--one-of-each"


class Mutant(NamedTuple):
    promise: str
    breaks: str  # what is missing then
    module: str
    old: str
    new: str
    tests: str  # each of them must fail then

    @property
    def file(self) -> str:
        return self.module if self.is_in_c else f"{self.module}.py"

    @property
    def is_in_c(self) -> bool:
        return self.module.endswith(".c")

    @property
    def needs_the_extension(self) -> bool:
        return self.promise[0] == "N" and "test_native_ring.py" not in self.tests


WITHOUT_THE_GIL = """    int status = dss_ring_enter(ring) ? put(ring, item) : DSS_CLOSED;
    dss_ring_leave(ring);
"""
WITH_THE_GIL = f"""    extern int PyGILState_Ensure(void);
    extern void PyGILState_Release(int);
    int state = PyGILState_Ensure();
{WITHOUT_THE_GIL}    PyGILState_Release(state);
"""

MUTANTS = [
    Mutant(
        "P1",
        "the end of a hub does not release those who are blocked",
        "_core/registry",
        "            self._inside.refuse(lane, refusal)\n",
        "            pass\n",
        "test_mailbox.py::test_closing_one_portal_releases_those_who_wait_in_it_and_no_others",
    ),
    Mutant(
        "P1",
        "a sender does not look again whether its portal was closed when it enters",
        "_core/mailbox",
        """        if refusal is None:
            waiter.lane.places.wait(waiter)
        else:
            waiter.refuse(refusal)
""",
        "        waiter.lane.places.wait(waiter)\n",
        "test_mailbox.py::test_a_wait_ends_at_once_if_the_portal_was_closed_meanwhile",
    ),
    Mutant(
        "P1",
        "nobody watches for a loop that is closed",
        "_loops/on_asyncio",
        "                    self._when_closed(self.number)\n",
        "                    pass\n",
        "test_wake.py::test_closing_the_loop_tells_once_and_at_once_in_the_thread_that_closes_it",
    ),
    Mutant(
        "P1",
        "the last hub of a loop does not give it its close back",
        "_loops/on_asyncio",
        "        if not self.guests:\n            self._withdraw()\n",
        "",
        "test_wake.py::test_hubs_set_no_timer_in_their_loop_and_leave_nothing_in_it "
        "test_wake.py::test_others_may_put_something_in_place_of_a_loops_close_before_and_after_us",
    ),
    Mutant(
        "P1",
        "nor does one that is garbage",
        "_ending/ways_out",
        "        mailbox.home.way_in.leave_loop_soon(mailbox.home)\n",
        "        pass\n",
        "test_wake.py::test_a_hub_that_is_garbage_leaves_nothing_in_its_loop_either",
    ),
    Mutant(
        "P1",
        "an opening that fails leaves its scope entered",
        "_hub/hub",
        "            await task_group.__aexit__(None, None, None)\n            raise\n",
        "            raise\n",
        "test_wake.py::test_an_opening_that_fails_leaves_no_scope_entered_and_nothing_behind",
    ),
    Mutant(
        "P1",
        "a hub that is garbage does not end",
        "_hub/base",
        "            _abandon(mailbox)\n",
        "            pass\n",
        "test_ending.py::test_no_thread_is_left_behind_by_a_hub_that_is_garbage",
    ),
    Mutant(
        "P1",
        "a forked child takes the hub for its own",
        "_ending/ways_out",
        "        mailbox.forget()\n",
        "        pass\n",
        "test_ending.py::test_a_forked_child_has_a_dead_hub_and_the_parent_does_not_notice",
    ),
    Mutant(
        "P1",
        "a forked child waits for a thread of the parent at the end of start_hub",
        "_hub/threaded",
        "        if os.getpid() != self._process:\n",
        "        if self._process is None:\n",
        "test_ending.py::test_a_forked_child_has_a_dead_hub_and_the_parent_does_not_notice",
    ),
    Mutant(
        "P1",
        "a forked child goes on waiting in the call in which it was forked",
        "_core/mailbox",
        "        for waiter in mine:\n            waiter.refuse(other_process)\n",
        "",
        "test_ending.py::test_a_child_that_is_forked_in_a_call_which_waits_gets_an_error_there",
    ),
    Mutant(
        "P1",
        "Python joins the threads of an executor before the hubs have ended",
        "_ending/ways_out",
        "        try:\n            func()\n        finally:\n            shutdown()\n",
        "        shutdown()\n        func()\n",
        "test_ending.py::test_python_exits_although_threads_of_an_executor_that_came_later_wait_for_a_hub",
    ),
    Mutant(
        "P1",
        "nobody sees to a hub whose thread ends while Python exits",
        "_ending/ways_out",
        "            _guard(home)\n",
        "            pass\n",
        "test_ending.py::test_a_hub_that_a_thread_leaves_behind_while_python_waits_for_it_ends_with_that_thread",
    ),
    Mutant(
        "P1",
        "a thread that gives up a wrapped context manager leaves its task behind",
        "_portal/calling",
        "            future.cancel()  # if the caller gives up, the task is cancelled, as in ``call``\n",
        "",
        "test_faults.py::test_threads_that_wait_are_struck_and_leave",
    ),
    Mutant(
        "P1",
        "who has put a request does not look again whether the stream has ended meanwhile",
        "_core/mailbox",
        """            question.look_again()
            return
""",
        "            return\n",
        "test_request.py::test_a_request_is_received_or_released_if_the_stream_ends_at_any_bytecode_of_asking",
    ),
    Mutant(
        "P1",
        "nor does who puts one that has waited for room",
        "_core/places",
        """        if question is not None:
            question.look_again()
""",
        "",
        "test_request.py::test_a_request_is_received_or_released_if_the_stream_ends_at_any_bytecode_of_asking",
    ),
    Mutant(
        "P1",
        "a hub is left without its tasks",
        "_hub/hub",
        "                if exc_val is None and not home.has_tasks:\n",
        "                if exc_val is None:\n",
        "test_hub.py::test_tasks_of_a_hub_live_as_long_as_the_hub",
    ),
    Mutant(
        "P1",
        "threads that are blocked look every second",
        "_loops/slices",
        "            slice_ = min(2 * slice_, LONGEST_SLICE)\n",
        "            pass\n",
        "test_slices.py::test_each_slice_is_twice_as_long_as_the_one_before_up_to_a_minute",
    ),
    Mutant(
        "P1",
        "thousands of them want the GIL at the same time",
        "_loops/slices",
        "len(_waiting) / LOOKS_PER_SECOND",
        "0.0 / LOOKS_PER_SECOND",
        "test_slices.py::test_many_that_wait_look_200_times_a_second_all_together",
    ),
    Mutant(
        "P1",
        "an asker that nobody can wake looks as seldom as the others",
        "_loops/slices",
        "(looks and _WITHOUT_GIL)",
        "(False and _WITHOUT_GIL)",
        "test_slices.py::test_who_has_to_look_goes_on_to_look_every_second",
    ),
    Mutant(
        "P1",
        "who has left the line of those who wait for a place is kept in it",
        "_core/waiter",
        "            self._order.clear()  # let go",
        "            pass  # let go",
        "test_growth.py::test_who_has_left_is_not_kept",
    ),
    Mutant(
        "P1",
        "what threads share can be copied, and the copy ends the original",
        "_core/errors",
        "    def __reduce_ex__(self, protocol: SupportsIndex, /) -> NoReturn:",
        "    def reduce_ex(self, protocol: SupportsIndex, /) -> NoReturn:",
        "test_copies.py::test_what_threads_share_cannot_be_copied_and_goes_on "
        "test_copies.py::test_a_polled_hub_cannot_be_copied_and_goes_on",
    ),
    Mutant(
        "P1",
        "a hub can be copied",
        "_hub/base",
        "class Face(NotCopied, Typed, Docks, Generic[T_Item]):",
        "class Face(Typed, Docks, Generic[T_Item]):",
        "test_copies.py::test_a_polled_hub_cannot_be_copied_and_goes_on",
    ),
    Mutant(
        "P1",
        "a receiving end can be copied",
        "_receiving/receiver",
        "class Receiver(NotCopied, ObjectReceiveStream[T_Item], Generic[T_Item]):",
        "class Receiver(ObjectReceiveStream[T_Item], Generic[T_Item]):",
        "test_copies.py::test_what_threads_share_cannot_be_copied_and_goes_on",
    ),
    Mutant(
        "P1",
        "a portal can be copied",
        "_portal/calling",
        "class Caller(NotCopied):",
        "class Caller:",
        "test_copies.py::test_what_threads_share_cannot_be_copied_and_goes_on",
    ),
    Mutant(
        "P1",
        "a request can be copied",
        "_core/request",
        "class Request(NotCopied, Generic[T_Item]):",
        "class Request(Generic[T_Item]):",
        "test_copies.py::test_what_threads_share_cannot_be_copied_and_goes_on",
    ),
    Mutant(
        "P1",
        "a feed can be copied",
        "_portal/feed",
        "class Feed(NotCopied, Generic[T_Item]):",
        "class Feed(Generic[T_Item]):",
        "test_copies.py::test_what_threads_share_cannot_be_copied_and_goes_on",
    ),
    Mutant(
        "P1",
        "a hub that another task closes is left as if its opener did",
        "_hub/hub",
        "            if opener is not way_in.task_here():\n",
        "            if opener is None:\n",
        "test_early_close.py::test_another_task_may_close_a_hub_and_nobody_is_cancelled "
        "test_early_close.py::test_shutdown_asyncgens_ends_the_hub_before_it_returns_and_complains_of_nothing",
    ),
    Mutant(
        "P1",
        "the scope of its opener stays entered",
        "_loops/closing",
        "        left = _leave_in_the_name_of(opener, task_group.cancel_scope)\n",
        "        left = False\n",
        "test_early_close.py::test_another_task_may_close_a_hub_and_nobody_is_cancelled",
    ),
    Mutant(
        "P1",
        "a hub without tasks whose scope cannot be left is not closed elsewhere",
        "_loops/closing",
        "        if not has_tasks:\n            return\n",
        "",
        "test_early_close.py::test_a_hub_without_tasks_may_be_closed_elsewhere_whatever_scope_its_opener_is_in",
    ),
    Mutant(
        "P1",
        "tasks that cannot be cancelled without their opener are left in silence",
        "_loops/closing",
        "        if left or opener.done():\n",
        "        if True:\n",
        "test_early_close.py::test_what_cannot_be_closed_elsewhere_says_so_and_cancels_nobody",
    ),
    Mutant(
        "P1",
        "nor is it closed elsewhere once its opener has ended",
        "_loops/closing",
        "        if left or opener.done():\n",
        "        if left:\n",
        "test_early_close.py::test_a_hub_with_tasks_may_be_closed_once_its_opener_has_ended_in_whatever_scope",
    ),
    Mutant(
        "P1",
        "a task that leaves a scope for another one stays in its name",
        "_loops/closing",
        "        _leave_task(loop, task)\n        _enter_task(loop, here)\n",
        "        pass\n",
        "test_early_close.py::test_another_task_may_close_a_hub_and_nobody_is_cancelled",
    ),
    Mutant(
        "P1",
        "a generator that aclose() closes is taken for one that is being destroyed",
        "_loops/closing",
        "        running_task() is not None and not _is_being_destroyed(exc)\n",
        "        False\n",
        "test_early_close.py::test_in_a_running_task_it_is_seen_whether_a_coroutine_was_closed "
        "test_early_close.py::test_a_generator_that_is_closed_early_ends_its_hub_before_aclose_returns "
        "test_early_close.py::test_a_source_ends_with_its_generator_while_its_hub_goes_on",
    ),
    Mutant(
        "P1",
        "a coroutine that is being destroyed is taken for one that may await",
        "_loops/closing",
        "        running_task() is not None and not _is_being_destroyed(exc)\n",
        "        running_task() is not None\n",
        "test_early_close.py::test_in_a_running_task_it_is_seen_whether_a_coroutine_was_closed",
    ),
    Mutant(
        "P1",
        "a task of another loop sleeps for items, and nobody wakes it",
        "_receiving/sleepers",
        "        if way_in is None or way_in.is_here() or end.closed or mailbox.ended:\n",
        "        if True:\n",
        "test_messages.py::test_to_receive_in_another_event_loop_is_refused_at_once "
        "test_messages.py::test_to_receive_in_another_loop_of_the_same_thread_is_refused_at_once",
    ),
    Mutant(
        "P1",
        "an iteration in another thread takes items there",
        "_receiving/receiver",
        "            self._check_thread()\n        return self\n",
        "            pass\n        return self\n",
        "test_messages.py::test_to_receive_in_a_plain_thread_is_refused_at_once_and_the_remedy_works",
    ),
    Mutant(
        "P2",
        "a sender that has no memory for an item keeps its place",
        "_core/places",
        "            self._give_back(1)  # the item was not put, so its place must not stay taken\n",
        "            pass\n",
        "test_faults.py::test_a_send_without_memory_was_accepted_or_has_raised",
    ),
    Mutant(
        "P2",
        "a batch of which some had no memory keeps the places of all",
        "_core/places",
        "                    self._give_back(unused)\n",
        "                    pass\n",
        "test_faults.py::test_send_many_without_memory_says_how_many_were_accepted_and_costs_no_place",
    ),
    Mutant(
        "P2",
        "a receiver at the end of the stack loses what it has in hand",
        "_core/places",
        "        reach(STACK_TO_ADMIT)  # else the place or the waiter that we hold could get lost\n",
        "",
        "test_mailbox.py::"
        "test_at_each_depth_of_the_stack_a_receiver_lets_in_who_waits_or_takes_nothing",
    ),
    Mutant(
        "P2",
        "a receiver that goes late takes the last function out of the bell",
        "_core/bell",
        "            self.last(self)  # as in ``arm``: we may have taken out the last function\n",
        "            pass\n",
        "test_wake.py::"
        "test_what_is_put_after_the_end_is_handed_back_also_if_a_receiver_is_destroyed_then",
    ),
    Mutant(
        "P2",
        "an item for whose turn there is no memory stays in its lane",
        "_core/line",
        """        last = own.pop()
        if last is not item:
""",
        """        last = item
        if last is not item:
""",
        "test_faults.py::test_a_send_without_memory_was_accepted_or_has_raised",
    ),
    Mutant(
        "P2",
        "a receiver that was woken and is cancelled keeps the wake",
        "_receiving/sleepers",
        "            self._rouse_soon()  # pass the wake on; if no receiver sleeps now, disarm\n",
        "",
        "test_wake.py::test_a_receiver_that_was_woken_and_is_cancelled_passes_the_wake_on",
    ),
    Mutant(
        "P2",
        "an item that comes after the last sweep is forgotten",
        "_core/bell",
        """        self.armed[None] = last
        self._ring = None
""",
        "        self._ring = None\n",
        "test_mailbox.py::test_an_item_that_was_on_its_way_when_the_mailbox_ended_goes_back",
    ),
    Mutant(
        "P2",
        "a sender takes no place",
        "_core/sender",
        """            if take_place is not None:
                try:
                    take_place()
                except IndexError:
                    return otherwise(mailbox, lane, item, ABSENT, None)
""",
        "",
        "test_mailbox.py::test_a_hub_takes_exactly_as_many_items_as_it_has_places",
    ),
    Mutant(
        "P2",
        "dispatch takes all items before it handles the first",
        "_hub/polled",
        """            handle(*taken, handler, partial(tell, self._on_error, books=mailbox.books))
            handled += 1
        return handled
""",
        """            self.__dict__.setdefault("batch", []).append(taken)
            handled += 1
        for taken in self.__dict__.pop("batch", ()):
            handle(*taken, handler, partial(tell, self._on_error, books=mailbox.books))
        return handled
""",
        "test_dispatch.py::test_what_ends_the_program_leaves_the_other_items_and_releases_the_asker",
    ),
    Mutant(
        "P2",
        "the stream ends before an item that is hidden by a husk which is withdrawn",
        "_receiving/receiver",
        """            if finished and not mailbox.entries():
                raise no_more(mailbox) from None
""",
        """            if finished and not len(mailbox):
                raise no_more(mailbox) from None
""",
        "test_mailbox.py::test_the_stream_does_not_end_before_an_item_that_such_a_husk_hides",
    ),
    Mutant(
        "P2",
        "the functions of C of one portal have a queue each, so what a thread sends has no order",
        "_portal/for_c",
        """            made = self.__dict__.setdefault("_in_c", new)
""",
        "            made = new\n",
        "test_for_c.py::test_what_a_thread_tells_comes_before_what_it_asks_then",
    ),
    Mutant(
        "P2",
        "a ticket joins the first mark in the line, not the last one",
        "_core/line",
        "            last = self.entries[-1]\n",
        "            last = self.entries[0]\n",
        "test_own_places.py::test_the_order_of_acceptance_is_one_for_all_bounds",
    ),
    Mutant(
        "P2",
        "the ticket of a sender that makes a mark stands in that of another one, if there is one by then",
        "_core/line",
        "        ticket.mark = mark = Mark()\n",
        "        there = [each for each in self.entries if type(each) is Mark]\n"
        "        ticket.mark = mark = there[0] if there else Mark()\n",
        "test_own_places.py::"
        "test_what_a_sender_puts_stays_in_order_if_another_one_puts_at_any_bytecode",
    ),
    Mutant(
        "P2",
        "a sender does not look whether the receiver has closed the mark of its ticket",
        "_core/line",
        "            if not last.closed:  # read after the ticket was put\n",
        "            if last:\n",
        "test_own_places.py::test_any_two_calls_may_meet_at_any_bytecode_of_the_first",
    ),
    Mutant(
        "P2",
        "a receiver does not look once more when it has closed a mark",
        "_core/line",
        "        if list(mark.tickets):\n",
        "        if mark is None:\n",
        "test_own_places.py::test_a_ticket_that_comes_while_its_mark_is_closed_is_found_or_has_another_mark",
    ),
    Mutant(
        "P2",
        "the ticket of an item that was dropped before it was there stays in the line",
        "_core/policies",
        "            if ticket not in items:  # the item was dropped before the ticket was in the line\n",
        "            if not items and item is None:\n",
        "test_own_places.py::test_any_two_calls_may_meet_at_any_bytecode_of_the_first "
        "test_interleavings.py::test_any_two_calls_may_meet_at_any_bytecode",
    ),
    Mutant(
        "P3",
        "a counter reads and writes",
        "_core/steps",
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
        "_core/policies",
        """        try:
            self._put(ticket, item)
        finally:
            if oldest is not None:
                source, dropped, over = judged(oldest.lane, dropped)
                (self.books.undeliver if over else self.books.drop)(source, dropped)
""",
        """        if oldest is not None:
            source, dropped, over = judged(oldest.lane, dropped)
            (self.books.undeliver if over else self.books.drop)(source, dropped)
        self._put(ticket, item)
""",
        "test_mailbox.py::test_on_undelivered_may_send_to_the_hub_that_drops",
    ),
    Mutant(
        "P4",
        "the receiver looks first and arms the bell then",
        "_receiving/sleepers",
        """            self._armed = True
            mailbox.bell.arm(self._wake)
            if mailbox.inlets is not None:
                mailbox.inlets.arm()
            # No receiver is woken for an error. Items that come while we tell find the bell armed.
            if mailbox.reports:
                self.report_errors()
            if mailbox.entries() <= self._roused and mailbox.registry.open_lanes:
                return first
""",
        """            self._armed = True
            idle = mailbox.entries() <= self._roused and mailbox.registry.open_lanes
            mailbox.bell.arm(self._wake)
            if mailbox.inlets is not None:
                mailbox.inlets.arm()
            if mailbox.reports:
                self.report_errors()
            if idle:
                return first
""",
        "test_interleavings.py::test_no_wake_is_lost_if_an_item_comes_at_any_bytecode_of_a_receive",
    ),
    Mutant(
        "P4",
        "a handler that is called in the wake goes to sleep without a second look",
        "_receiving/sleepers",
        """                if self.nothing_for(end):
                    return
""",
        "                return\n",
        "test_interleavings.py::test_no_wake_is_lost_if_an_item_comes_while_another_one_is_handled_in_the_wake",
    ),
    Mutant(
        "P4",
        "a wake by the short way into trio is lost if that was cut",
        "_loops/on_trio",
        "        if bell is None or not bell.ring():\n",
        "        if bell is None or bell.ring() is None:\n",
        "test_faults.py::test_the_short_way_into_trio_may_be_cut_and_the_long_one_goes_on",
    ),
    Mutant(
        "P4",
        "on trio who listens while it sleeps is woken by what it hears only",
        "_loops/on_trio",
        "            rouse(self.ear)\n",
        "            pass\n",
        "test_trio.py::test_who_listens_is_woken_by_another_task_as_well",
    ),
    Mutant(
        "P4",
        "on trio a wake is lost in a task that has no stack left for it",
        "_receiving/sleepers",
        "        reach(STACK_FOR_A_WAKE)\n",
        "",
        "test_trio.py::test_at_each_depth_of_the_stack_a_sleeper_is_woken_or_refused",
    ),
    Mutant(
        "P4",
        "the bell stays armed for the next sender",
        "_core/sender",
        """                if armed:  # see ``Bell.ring``
                    ring = armed.pop(None, None)
""",
        """                if armed:  # see ``Bell.ring``
                    ring = armed.get(None)
""",
        "test_wake.py::test_a_burst_of_100_000_items_wakes_once",
    ),
    Mutant(
        "P4",
        "a stranger's datagram wakes",
        "_loops/datagram",
        "                self._listener.connect(sender.getsockname())\n",
        "                pass\n",
        "test_datagram.py::test_a_strangers_datagrams_do_not_make_it_readable",
    ),
    Mutant(
        "P4",
        "a poll takes the descriptor for ours, whatever comes out of it",
        "_loops/datagram",
        "        self._take_all(_DATAGRAM)\n\n",
        """        while True:
            try:
                self._listener.recv(16, DONT_WAIT)
            except ConnectionError:
                continue
            except OSError:
                return

""",
        "test_datagram.py::test_polling_and_sending_go_on_if_a_descriptor_is_another_files_by_now",
    ),
    Mutant(
        "P4",
        "a drain of which each call fails has no end",
        "_loops/datagram",
        "        for _ in range(_MOST):\n",
        "        while True:\n",
        "test_datagram.py::test_a_drain_ends_although_each_call_fails_and_nothing_can_be_told_from_a_refusal",
    ),
    Mutant(
        "P4",
        "a poll waits in a file that is not ours",
        "_loops/datagram",
        'getattr(socket, "MSG_DONTWAIT", 0)',
        "0",
        "test_datagram.py::test_polling_and_sending_go_on_if_a_descriptor_is_another_files_by_now",
    ),
    Mutant(
        "P4",
        "a receiver counts husks to see whether there is anything for it",
        "_receiving/sleepers",
        "            entries = mailbox.entries() - self._roused\n",
        "            entries = len(mailbox) - self._roused\n",
        "test_mailbox.py::test_no_receiver_sleeps_beside_an_item_that_a_husk_too_many_hides",
    ),
    Mutant(
        "P4",
        "who has withdrawn a husk does not tell the polled hub that has counted it",
        "_core/mailbox",
        "                if not self.ended:\n",
        "                if self.ended:\n",
        "test_mailbox.py::test_no_polled_hub_sleeps_on_beside_an_item_that_a_husk_too_many_has_hidden",
    ),
    Mutant(
        "P4",
        "with limit 0 an item that is for one who was woken takes the seat of one that sleeps",
        "_core/policies",
        "max(0, sleepers - max(0, there - roused))",
        "max(0, sleepers - there)",
        "test_receiver.py::test_with_no_buffer_a_cancelled_receiver_takes_no_other_ones_seat",
    ),
    Mutant(
        "P4",
        "an exception that a signal handler raises at the bell costs the wake",
        "_core/bell",
        "            self.armed.setdefault(None, ring)(self)\n",
        "            pass\n",
        "test_polled.py::test_wherever_a_signal_handler_raises_in_a_sender_the_hub_is_not_deaf",
    ),
    Mutant(
        "P4",
        "a poll that raises leaves the bell unrung beside what is queued",
        "_hub/polled",
        "            mailbox.bell.ring()  # the items left are for the next poll\n",
        "",
        "test_polled.py::test_a_poll_that_raises_leaves_what_is_queued_readable",
    ),
    Mutant(
        "P4",
        "an error that comes after the look of a wake is told with the next wake only",
        "_receiving/sleepers",
        "                if mailbox.reports:  # perhaps since",
        "                if False:  # perhaps since",
        "test_serve.py::test_an_error_that_is_reported_while_a_handler_runs_in_the_wake_is_told_at_once",
    ),
    Mutant(
        "P4",
        "a receiver that sleeps makes no seat for the first source without places",
        "_core/mailbox",
        "            self.bell.ring()  # receivers that sleep already make seats now\n",
        "",
        "test_own_places.py::test_a_receiver_that_sleeps_already_meets_a_source_that_comes_later",
    ),
    Mutant(
        "P5",
        "a token that is forgotten releases nobody",
        "_core/request",
        '            self._question.settle("unanswered", "was forgotten without a reply")\n',
        "            pass\n",
        "test_request.py::test_a_request_ends_once_and_is_counted",
    ),
    Mutant(
        "P5",
        "a question may end twice",
        "_core/steps",
        "        return self.setdefault(None, value) is value\n",
        """        self[None] = value
        return True
""",
        "test_request.py::test_of_two_that_settle_a_request_one_wins_at_any_bytecode",
    ),
    Mutant(
        "P5",
        "who gives up does not tell the handler",
        "_core/question",
        """        if ENDINGS[ending].given_up:
            self._tell_watchers()
""",
        "",
        "test_serve.py::test_an_asker_that_gives_up_cancels_its_handler_and_no_other",
    ),
    Mutant(
        "P5",
        "a handler that begins does not look whether its asker has gone",
        "_core/question",
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
        "_core/question",
        'self.settle("refused", twin(others) if ends_the_program(exc) else others)',
        'self.settle("refused", others)',
        "test_calls.py::test_what_ends_a_program_in_a_task_reaches_the_caller_and_ends_the_hub",
    ),
    Mutant(
        "P5",
        "dispatch does not refuse with what the handler raises",
        "_receiving/serve",
        "            question_of(request).fail(exc)\n",
        "            pass\n",
        "test_dispatch.py::test_what_the_handler_returns_answers_and_what_it_raises_refuses",
    ),
    Mutant(
        "P5",
        "an answer for which there is no stack left is heard by nobody",
        "_core/question",
        "                self._untold = True\n",
        "                self._untold = False\n",
        "test_request.py::test_an_answer_for_which_there_is_no_stack_left_is_heard_within_a_second_or_at_the_end",
    ),
    Mutant(
        "P6",
        "a library is stopped before the released calls have left",
        "_ending/order",
        "        mailbox.inside.wait_until_left(None, LEAVE_TIMEOUT)\n",
        "",
        "test_ending.py::test_a_library_is_stopped_only_after_the_released_calls_have_left",
    ),
    Mutant(
        "P6",
        "the oldest source is stopped first",
        "_ending/order",
        "            _, source = mailbox.registry.sources.popitem()  # the newest one\n",
        '            source = mailbox.registry.sources.pop(next(iter(mailbox.registry.sources), ""))\n',
        "test_ending.py::test_libraries_are_stopped_newest_first_and_get_their_items_back_last",
    ),
    Mutant(
        "P6",
        "a stop that never returns is waited for",
        "_ending/order",
        "        join(thread, source.stop_timeout)\n",
        "        join(thread, 45)\n",
        "test_hub.py::test_a_stop_that_does_not_return_in_time_is_an_error_and_goes_on",
    ),
    Mutant(
        "P6",
        "a coroutine that stop returns is not run",
        "_ending/order",
        "            if iscoroutine(result):\n",
        "            if False:\n",
        "test_coroutine_stops.py::test_each_kind_of_coroutine_function_stops_its_source_in_order_with_plain_ones",
    ),
    Mutant(
        "P6",
        "a coroutine is begun after the one who waits for it has gone",
        "_ending/errand",
        """            if way_in is None or not self._turn.decide("begun"):\n""",
        """            if way_in is None:\n""",
        "test_coroutine_stops.py::test_an_errand_that_was_called_off_is_never_begun",
    ),
    Mutant(
        "P6",
        "a coroutine that takes too long is not cancelled",
        "_ending/errand",
        "            self._scope.cancel()\n\n",
        "            pass\n\n",
        "test_coroutine_stops.py::test_a_coroutine_that_takes_too_long_is_cancelled_and_reported",
    ),
    Mutant(
        "P6",
        "what an end that nobody waits for has come to is not told",
        "_ending/ways_out",
        "    tell_all_late(mailbox, end_sources(mailbox))\n",
        "    end_sources(mailbox)\n",
        "test_coroutine_stops.py::test_where_the_loop_is_gone_a_coroutine_stop_is_reported_and_a_plain_one_called",
    ),
    Mutant(
        "P6",
        "a library that flushes its last items waits for a receiver that was cancelled",
        "_hub/open_source",
        "        _release(registry, source)  # the library may wait for a receiver that is cancelled, too\n",
        "",
        "test_drain.py::test_a_cancellation_releases_a_stop_that_waits_for_a_receiver",
    ),
    Mutant(
        "P6",
        "with drain, a source that an exception leaves is drained as well",
        "_hub/open_source",
        "            if self._drains and outcome is None and not mailbox.ended:\n",
        "            if self._drains and not mailbox.ended:\n",
        "test_drain.py::test_on_an_exception_the_end_is_the_usual_one",
    ),
    Mutant(
        "P6",
        "a second end goes to work beside the first",
        "_ending/order",
        "        if not mailbox.ending.decide(ending):\n",
        "        if mailbox.ending.decide(ending) is None:\n",
        "test_ending.py::test_a_second_close_hands_nothing_back_while_the_first_one_stops_a_library",
    ),
    Mutant(
        "P6",
        "the end of the hub does not wait for those of single sources",
        "_ending/order",
        "            wait_for(stopped, _alone_at_most(source))\n",
        "            pass\n",
        "test_ending.py::test_an_item_comes_back_after_the_stop_whoever_of_the_two_ends_the_source",
    ),
    Mutant(
        "P6",
        "nor can it wait as long as a stop may take",
        "_ending/order",
        "            wait_for(stopped, _alone_at_most(source))\n",
        "            stopped.wait(_alone_at_most(source))\n",
        "test_slices.py::test_a_stop_may_take_any_number_of_seconds_also_if_the_hub_ends_meanwhile",
    ),
    Mutant(
        "P6",
        "Python exits while a thread that ends a hub has not begun",
        "_loops/worker",
        "        begun.acquire(timeout=1.0)",
        "        pass",
        "test_worker.py::test_python_waits_for_a_thread_that_has_not_begun_and_then_starts_none",
    ),
    Mutant(
        "P6",
        "Python exits while another thread ends a hub",
        "_ending/ways_out",
        "        wait_for(ending.done, ending.deadline - time.monotonic())\n",
        "        pass\n",
        "test_ending.py::test_python_does_not_exit_while_a_library_of_a_closed_loop_is_being_stopped",
    ),
    Mutant(
        "P6",
        "a portal that is cloned while the last one of its source is closed is open",
        "_portal/portal",
        "        if source.retired:\n",
        "        if False:\n",
        "test_portal.py::test_a_clone_that_meets_the_last_close_is_registered_or_closed",
    ),
    Mutant(
        "P6",
        "a callback that raises in the middle of an end keeps the others in",
        "_core/steps",
        """        try:
            func(value)
        except BaseException as exc:
            struck = exc if struck is None else struck
""",
        "        func(value)\n",
        "test_strange_ends.py::test_a_future_whose_callback_raises_keeps_nobody_in_when_a_portal_is_closed",
    ),
    Mutant(
        "P6",
        "Ctrl-C while one library stops keeps a polled hub from stopping the others",
        "_hub/polled",
        """                struck = exc if struck is None else struck
                end_sources(mailbox, errors=errors)
""",
        "                struck = exc if struck is None else struck\n",
        "test_strange_ends.py::test_ctrl_c_while_a_polled_hub_stops_a_library_stops_the_others_first",
    ),
    Mutant(
        "P7",
        "what is dropped is not counted",
        "_core/books",
        '        self.counts["dropped"].add_one()\n        source',
        "        source",
        "test_mailbox.py::test_each_item_ends_once_while_many_threads_overflow_the_hub",
    ),
    Mutant(
        "P7",
        "with drop_oldest an item and its place leave in two steps",
        "_core/policies",
        "            self.pile.extend(map(claimed.append, map(items.pop, (ticket,))))\n",
        """            claimed.append(items.pop(ticket))
            self.pile.append(None)
""",
        "test_interleavings.py::test_the_latest_item_survives_drop_oldest_whoever_comes_between",
    ),
    Mutant(
        "P7",
        "the counts of a source go with its registration",
        "_hub/base",
        "            source.account = mailbox.books.account_of(name)  # before other threads know the lane\n",
        "            mailbox.books.accounts[name] = source.account\n",
        "test_statistics.py::test_the_counts_of_a_name_that_is_registered_again_add_up",
    ),
    Mutant(
        "P7",
        "an item that is put after its lane was forgotten is not counted as queued",
        "_core/registry",
        "                forgotten[ref(lane, is_gone)] = None  # in this order: see ``queued``\n",
        "",
        "test_statistics.py::test_an_item_that_is_put_after_its_lane_was_forgotten_is_counted",
    ),
    Mutant(
        "P7",
        "a lane is forgotten before it is entered among the forgotten ones",
        "_core/registry",
        """                forgotten[ref(lane, is_gone)] = None  # in this order: see ``queued``
                self.lanes.pop(lane, None)
""",
        """                self.lanes.pop(lane, None)
                forgotten[ref(lane, is_gone)] = None
""",
        "test_statistics.py::test_at_each_bytecode_of_tidying_somebody_may_look_at_the_statistics",
    ),
    Mutant(
        "P7",
        "requests are counted for the hub alone",
        "_core/books",
        "self.counts if source.name is None else source.account",
        "self.counts",
        "test_statistics.py::test_each_ending_of_a_request_is_counted_for_its_source",
    ),
    Mutant(
        "P7",
        "a source with a bound of its own takes the places of the hub",
        "_hub/base",
        "        lane = mailbox.open_lane(source, places)\n",
        "        lane = mailbox.open_lane(source)\n",
        "test_own_places.py::test_a_noisy_source_neither_fills_the_hub_nor_has_others_dropped "
        "test_own_places.py::test_a_full_hub_does_not_concern_a_source_with_room_of_its_own",
    ),
    Mutant(
        "P7",
        "the place of an item goes to the hub, whoever's it was",
        "_core/taking",
        "            (entry.places if type(entry) is Lane else self.places).leave()\n",
        "            self.places.leave()\n",
        "test_own_places.py::test_a_sender_waits_for_the_room_of_its_own_source_and_blocked_says_so",
    ),
    Mutant(
        "P7",
        "what gives way to a newer item leaves its ticket in the line",
        "_core/policies",
        """        if oldest is not None:
            self._line.drop_ticket(oldest)
""",
        "",
        "test_own_places.py::test_what_is_replaced_leaves_nothing_behind_while_nobody_receives",
    ),
    Mutant(
        "P7",
        "each ticket gets a mark of its own, which stays",
        "_core/line",
        "        if type(last) is Mark:\n",
        "        if last is ticket:\n",
        "test_own_places.py::test_what_is_replaced_leaves_nothing_behind_while_nobody_receives",
    ),
    Mutant(
        "P7",
        "sources without places have seats of their own, not those of the receivers",
        "_core/mailbox",
        "        places.free = meeting.free\n",
        "        places.free = [None]\n",
        "test_own_places.py::test_a_source_may_meet_the_receiver_in_a_hub_that_has_room",
    ),
    Mutant(
        "P7",
        "a send begins without the stack to complete it",
        "_core/steps",
        "    else:\n        _three()\n",
        "",
        "test_mailbox.py::test_at_each_depth_of_the_stack_what_is_accepted_is_counted_and_nothing_else",
    ),
    Mutant(
        "P8",
        "on trio the loop does not hear of what is sent during a cancellation",
        "_loops/short_way",
        "            try:\n                self._run_calls()\n",
        "            try:\n                pass\n",
        "test_trio.py::test_the_hub_hears_its_threads_as_long_as_somebody_receives",
    ),
    Mutant(
        "P8",
        "on asyncio only the first of several receivers goes on",
        "_loops/on_asyncio",
        """            return  # it was cancelled before
        self._call_back_soon()
""",
        "            return  # it was cancelled before\n",
        "test_wake.py::test_ten_receivers_and_ten_items_take_one_wake",
    ),
    Mutant(
        "P8",
        "on asyncio a second native cancellation cuts the end short",
        "_loops/worker",
        "            cancelled = exc\n",
        "            return exc\n",
        "test_ending.py::test_a_second_native_cancellation_does_not_cut_the_end_short",
    ),
    Mutant(
        "P8",
        "a time limit of a library is measured by the clock of the loop",
        "_loops/worker",
        "        return await outlast(clock._done)\n",
        """        with __import__("anyio").move_on_after(at_most):
            await self._done.wait()
        return None
""",
        "test_worker.py::test_a_time_limit_is_in_real_time_whatever_clock_the_loop_has",
    ),
    Mutant(
        "P8",
        "who waits in a polled hub meets no sender",
        "_hub/polled",
        "            mailbox.meeting.seat(1)\n",
        "",
        "test_polled.py::test_a_rendezvous_takes_place_while_the_hub_waits",
    ),
    Mutant(
        "P8",
        "what a poll leaves does not stay readable",
        "_hub/polled",
        "            mailbox.bell.ring()  # items that are left, and the end, stay readable\n",
        "            pass\n",
        "test_polled.py::test_the_descriptor_is_readable_from_the_first_item_until_the_last_was_polled",
    ),
    Mutant(
        "P9",
        "a loop's own exception escapes into a library",
        "_core/question",
        """        if isinstance(exc, Exception):
            return self.settle("refused", exc)
""",
        '        return self.settle("refused", exc)\n',
        "test_request.py::test_a_request_ends_once_and_is_counted",
    ),
    Mutant(
        "P9",
        "whoever wants to leave in on_error leaves in the wake of somebody else",
        "_receiving/sleepers",
        """            if task_group is None or home.way_in is None:
                raise
""",
        "            raise\n",
        "test_faults.py::test_who_wants_to_leave_in_on_error_leaves_by_a_task_of_the_hub",
    ),
    Mutant(
        "P9",
        "C gets a number that its type does not have",
        "_portal/signature",
        "        if not least <= number < least + (1 << bits):\n",
        "        if False:\n",
        "test_for_c.py::test_a_wrong_answer_is_an_error_here_and_the_default_there",
    ),
    Mutant(
        "P9",
        "a library gets what its convert refuses",
        "_portal/callbacks",
        """                raise NoReplyError(f"convert() of {who(lane)} {_REPORTED}") from None
            return default
""",
        """                raise NoReplyError(f"convert() of {who(lane)} {_REPORTED}") from None
            return value
""",
        "test_typed_answers.py::test_c_gets_what_convert_makes_or_the_default",
    ),
    Mutant(
        "P9",
        "a send callback with a pack returns nothing",
        "_portal/callbacks",
        "            send(item)\n        return returns\n",
        "            send(item)\n        return None\n",
        "test_typed_answers.py::test_a_send_callback_returns_what_was_chosen_whatever_becomes_of_the_item",
    ),
    Mutant(
        "P9",
        "a callback that comes after the end is not counted",
        "_portal/callbacks",
        """        if lane.refusal is not None:
            late.add_one()
            return returns
""",
        """        if lane.refusal is not None:
            return returns
""",
        "test_portal.py::test_a_callback_after_the_end_calls_nothing_and_is_counted",
    ),
    Mutant(
        "P9",
        "what the callback of a dropped request raises escapes into the thread of a sender",
        "_core/books",
        """        except BaseException as exc:
            self.report(source, exc)  # this may be a library's thread: no exception may escape
""",
        """        except Exception as exc:
            self.report(source, exc)  # this may be a library's thread: no exception may escape
""",
        "test_strange_ends.py::test_what_the_callback_of_a_dropped_request_raises_stays_out_of_the_senders_thread",
    ),
    Mutant(
        "P9",
        "an exception whose copy is none ends a poll",
        "_core/errors",
        """        if type(other) is not type(exc):
            return exc
""",
        "",
        "test_reports.py::test_a_twin_is_an_exception_of_the_same_class",
    ),
    Mutant(
        "P9",
        "an exception with which a loop cancels is the cause of the asker's",
        "_core/request",
        "            others = without_a_loops_own(exc_val)\n",
        "            others = exc_val\n",
        "test_messages.py::test_no_cancellation_of_a_loops_leaves_it_as_the_cause",
    ),
    Mutant(
        "P10",
        "an iteration never lets the event loop run",
        "_receiving/receiver",
        "                    await checkpoint()\n                    self._turn_began",
        "                    self._turn_began",
        "test_receiver.py::test_iterating_lets_others_run_every_128_items_or_after_a_quarter_of_a_millisecond",
    ),
    Mutant(
        "P10",
        "to receive an item that is there is no checkpoint",
        "_receiving/receiver",
        """        await checkpoint()
        while True:
            try:
                return self._receive_nowait()
""",
        """        while True:
            try:
                return self._receive_nowait()
""",
        "test_receiver.py::test_receiving_is_a_checkpoint_also_if_there_is_an_item",
    ),
    Mutant(
        "P10",
        "handlers that are called in the wake never let the event loop run",
        "_receiving/serve",
        """                if monotonic() - begun > TURN_SECONDS:
                    return False
""",
        "",
        "test_serve.py::test_a_handler_that_sends_in_the_wake_is_called_again_but_lets_the_loop_run",
    ),
    Mutant(
        "P10",
        "errors are told until there are no more, however long that takes",
        "_core/reports",
        """            if monotonic() - begun > seconds:
                return
""",
        "",
        "test_reports.py::test_a_poll_tells_one_turn_and_stays_readable_for_the_rest",
    ),
    Mutant(
        "P10",
        "an error that telling another one has caused is told as well",
        "_core/reports",
        """        if (get_ident(), id(self)) in _tellers:
            return  # caused by telling another error
""",
        "",
        "test_reports.py::test_a_report_that_causes_a_report_is_cut_off_and_counted",
    ),
    Mutant(
        "P10",
        "a wait is as long as there are errors to be told",
        "_hub/polled",
        """                if left == 0.0:
                    return self._has_news
""",
        "",
        "test_reports.py::test_a_wait_ends_in_time_while_errors_come_faster_than_they_are_told",
    ),
    # -- Native senders: N1 to N6 ------------------------------------------------------------------
    Mutant(
        "P10",
        "the line and the inlets share each batch anew for each inlet",
        "_core/inlets",
        """                there = min(there, most - len(batch))
""",
        """                self._turn = not self._turn
                there = min(there, (most - len(batch) + self._turn) // 2)
""",
        "test_native.py::test_the_line_and_each_of_many_senders_get_their_turn",
    ),
    Mutant(
        "P10",
        "of two that add an inlet at once, one has an iteration take from its own first",
        "_core/inlets",
        "            if len(self.all.copy()) != 1:\n",
        "            if not self.all:\n",
        "test_native.py::test_at_each_bytecode_of_making_a_sender_another_one_gets_its_turn",
    ),
    Mutant(
        "N1",
        "a send takes the GIL",
        "_native/ring.c",
        WITHOUT_THE_GIL,
        WITH_THE_GIL,
        "test_native_promises.py::test_threads_send_while_another_one_holds_the_gil",
    ),
    Mutant(
        "N1",
        "a send lets its caller see the errno of its own system call",
        "_native/bell.c",
        "    errno = error;\n    return done;\n",
        "    (void)error;\n    return done;\n",
        "test_native_ring.py::test_a_send_keeps_errno",
    ),
    Mutant(
        "N1",
        "a send asks for memory",
        "_native/ring.c",
        WITHOUT_THE_GIL,
        "    void *volatile wasted = malloc(1);\n    free(wasted);\n" + WITHOUT_THE_GIL,
        "test_native_costs.py::test_a_send_allocates_nothing_and_frees_nothing",
    ),
    Mutant(
        "N1",
        "each send makes a system call, although nobody sleeps",
        "_native/bell.c",
        "    if (!(flag & 1)) {\n        return true;\n",
        "    if (flag == 1) {\n        return true;\n",
        "test_native_costs.py::test_a_send_makes_one_system_call_for_each_who_is_woken_and_else_none",
    ),
    Mutant(
        "N2",
        "a sender writes to a descriptor although that was closed",
        "_native/bell.c",
        "    if (atomic_load(&out->open)) {\n        done = notify(atomic_load(&out->fd), out->kind);",
        "    if (true) {\n        done = notify(3, out->kind);",
        "test_native_ring.py::test_a_send_does_not_write_to_a_descriptor_that_was_closed",
    ),
    Mutant(
        "N2",
        "the memory of a queue goes while threads are inside",
        "_native/ring.c",
        "    if (atomic_load(&ring->inside) == 0) {\n",
        "    if (true) {\n",
        "test_native_ring.py::test_the_memory_of_a_queue_goes_when_nobody_is_inside",
    ),
    Mutant(
        "N2",
        "the first one who leaves closes a descriptor that another one is about to write to",
        "_native/bell.c",
        "    if (!atomic_load(&out->open) && atomic_load(&out->writers) == 0) {\n",
        "    if (!atomic_load(&out->open)) {\n",
        "test_native_ring.py::test_it_is_not_closed_while_another_one_writes_to_it",
    ),
    Mutant(
        "N3",
        "a ring has a place too many",
        "_native/ring.c",
        ">= (int64_t)ring->limit;",
        "> (int64_t)ring->limit;",
        "test_native_ring.py::test_the_bound_is_exact_for_each_limit",
    ),
    Mutant(
        "N3",
        "a ring is closed by its bit alone, and not by an entry",
        "_native/ring.c",
        "    atomic_fetch_or(&ring->tail, CLOSED); /* before LAST: who finds that finds the bit as well */\n",
        "    atomic_fetch_or(&ring->tail, CLOSED);\n    return;\n",
        "test_native_ring.py::test_what_was_accepted_stands_before_the_close",
    ),
    Mutant(
        "N3",
        "a putter that finds a ring full, and then empty, drops its own item",
        "_native/ring.c",
        "                if (any || full) {\n",
        "                if (any) {\n",
        "test_native_ring.py::test_the_oldest_item_is_dropped_and_only_if_the_ring_is_full",
    ),
    Mutant(
        "N3",
        "a putter drops the oldest item although others have made room by then",
        "_native/ring.c",
        "                if (any && (!full || oldest.position == head) && ",
        "                if (any && ",
        "test_native_ring.py::test_the_oldest_item_is_dropped_and_only_if_the_ring_is_full",
    ),
    Mutant(
        "N3",
        "a cell is taken without a swap, so that two may write to it",
        "_native/ring.c",
        "            !atomic_exchange(&candidate->taken, true)) {\n",
        "            (atomic_store(&candidate->taken, true), true)) {\n",
        "test_native_ring.py::test_each_threads_items_pass_in_order_and_once",
    ),
    Mutant(
        "N3",
        "a putter that has found no cell says that it is full, although others have got on",
        "_native/ring.c",
        "            if (RARE(!has_cell) && atomic_load(&ring->tail) != tail) {\n",
        "            if (false) {\n",
        "test_native_ring.py::test_who_looks_for_a_free_cell_and_is_overtaken_looks_again",
    ),
    Mutant(
        "N3",
        "an item that was claimed has a place until the head is moved",
        "_native/ring.c",
        "        if (RARE(full) && was_claimed(ring, head, atomic_load(slot_of(ring, head)))) {\n",
        "        if (false) {\n",
        "test_native_ring.py::test_an_item_that_was_claimed_has_no_place_any_more",
    ),
    Mutant(
        "N3",
        "an item is taken without a claim, so that two may take it",
        "_native/ring.c",
        """            slot_of(ring, look->position), &word, word_after(ring, look->position)
        )) {
        return false;
""",
        """            slot_of(ring, look->position), &word, word_after(ring, look->position)
        ) && false) {
        return false;
""",
        "test_native_ring.py::test_each_threads_items_pass_in_order_and_once",
    ),
    Mutant(
        "N3",
        "nobody hands back what a ring holds at the end of the hub",
        "_core/inlets",
        "        self.hand_back(None)\n",
        "        pass\n",
        "test_native.py::test_what_came_through_the_hubs_own_portal_counts_as_undelivered",
    ),
    Mutant(
        "N3",
        "what is delivered and never decoded has no last call, if its thread waits",
        "_native/sender.c",
        """            if (asker->decoded == NOT_DECODED) {
                decode(NULL, data);
""",
        """            if (asker->decoded == NOT_DECODED) {
                (void)decode;
""",
        "test_native_delivering.py::test_who_waits_is_released_and_makes_its_last_call_itself",
    ),
    Mutant(
        "N3",
        "an inlet counts as closed as soon as its portal refuses",
        "_core/inlet",
        "        if self.closed and not self.ring.count()",
        "        if self.lane.refusal is not None and not self.ring.count()",
        "test_native_asking.py::test_an_answer_in_the_middle_of_a_close_leaves_no_queue_open",
    ),
    Mutant(
        "N3",
        "whoever finds the inlets made relies on the thread that was about to have them looked at",
        "_hub/docks",
        "        if not inlets.docked:\n",
        "        if mailbox.inlets is None:\n",
        "test_native_docking.py::test_after_ctrl_c_while_the_first_sender_is_made_the_next_one_is_looked_at",
    ),
    Mutant(
        "N4",
        "an inlet is told of no end any more while a question of its is in hand",
        "_core/inlet",
        "not self.ring.count() and not self.taking and not self.asked",
        "not self.ring.count() and not self.asked",
        "test_native_asking.py::test_the_end_releases_who_asks_although_the_one_before_had_given_up",
    ),
    Mutant(
        "N4",
        "the end releases nobody who asks in C",
        "_native/sender.c",
        "        if (each->asker && settle_without_answer(each->asker, DSS_RELEASED)) {\n",
        "        if (each->asker && settle_without_answer(each->asker, DSS_RELEASED) < 0) {\n",
        "test_native_ring.py::test_the_end_releases_all_whom_nobody_answers",
    ),
    Mutant(
        "N4",
        "the end wakes an asker that may have been freed by then",
        "_native/sender.c",
        "            atomic_fetch_add(&each->asker->holds, 1);\n",
        "",
        "test_native_ring.py::test_who_begins_to_ask_at_the_end_is_released_and_then_freed",
    ),
    Mutant(
        "N4",
        "an answer is copied to an asker that has gone",
        "_native/sender.c",
        """            &asker->state, &state, size ? (uint32_t)BUSY : SETTLED(status)
        )) {
        return false;
""",
        """            &asker->state, &state, size ? (uint32_t)BUSY : SETTLED(status)
        ) && state != GONE) {
        return false;
""",
        "test_native_ring.py::test_each_ask_ends_in_one_way",
    ),
    Mutant(
        "N4",
        "a forked child waits with what its parent's threads have left behind",
        "_native/sleep.c",
        "    sleep_lock = fresh_lock;\n    sleep_change = fresh_change;\n",
        "    (void)fresh_lock, (void)fresh_change;\n",
        "test_native_ring.py::test_a_forked_child_waits_in_rings_of_its_own",
    ),
    Mutant(
        "N4",
        "who has the pthread_t of a thread that has polled is taken for the receiver",
        "_native/sleep.c",
        "number = (uint64_t)syscall(SYS_gettid);",
        "number = (uint64_t)(uintptr_t)pthread_self();",
        "test_native.py::test_a_thread_that_has_the_ident_of_one_that_has_polled_may_wait",
    ),
    Mutant(
        "N4",
        "a forked child sends as if it were the parent",
        "_native/ring.c",
        """    if (dss_ring_is_fork(ring)) {
        return DSS_CLOSED;
    }
    int status = dss_ring_enter""",
        "    int status = dss_ring_enter",
        "test_native_ring.py::test_in_a_forked_child_nothing_of_the_parents_is_touched",
    ),
    Mutant(
        "N4",
        "who works on an answer does not hear of the end of its asker's portal",
        "_core/inlet",
        '            question.settle("released", refusal)\n        self._inside.leave(self)\n',
        "            pass\n        self._inside.leave(self)\n",
        "test_native_asking.py::test_the_end_of_the_hub_releases_those_who_ask_before_it_stops_the_library",
    ),
    Mutant(
        "N4",
        "who works on an answer does not hear that its asker has given up",
        "_receiving/docking",
        "            inlets.tell_gone()\n",
        "            pass\n",
        "test_native_asking.py::test_an_asker_whose_time_is_over_cancels_its_handler",
    ),
    Mutant(
        "N5",
        "who drops the oldest item keeps two cells meanwhile, and is killed",
        "_native/ring.c",
        "                    give_back_cell(ring, number);\n                    has_cell = is_filled = false;\n",
        "                    is_filled = false;\n",
        "test_native_ring.py::test_who_drops_the_oldest_item_has_one_cell_all_the_time",
    ),
    Mutant(
        "N5",
        "a sender looks at the flag before it puts its item",
        "_native/ring.c",
        "            if (!dss_bell_ring(ring->bell) && !status) {\n",
        "            if (!ring->bell) {\n",
        "test_native_ring.py::test_a_receiver_that_sleeps_misses_no_wake",
    ),
    Mutant(
        "N5",
        "who waits for room wants many places at once, for ever",
        "_native/sender.c",
        "        if (wanted > 1 && (left < 0 || left > FIRST_SLEEP)) {\n",
        "        if (false) {\n",
        "test_native.py::test_one_free_place_is_enough_for_one_who_waits",
    ),
    Mutant(
        "N5",
        "who has waited for room does not wake the next one",
        "_native/sender.c",
        "    if (atomic_fetch_sub(&waits->want_room, 1) > 1) { /*",
        "    if (atomic_fetch_sub(&waits->want_room, 1) < 1) { /*",
        "test_native.py::test_of_those_who_wait_for_room_each_wakes_the_next",
    ),
    Mutant(
        "N5",
        "a cancellation strikes inside a call that waits",
        "_native/sender.c",
        "    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &was->cancelled);\n",
        "    pthread_setcancelstate(PTHREAD_CANCEL_ENABLE, &was->cancelled);\n",
        "test_native_ring.py::test_a_thread_that_is_cancelled_while_it_waits_ends_after_its_call",
    ),
    Mutant(
        "N5",
        "a receiver that goes to sleep does not arm the flag",
        "_receiving/sleepers",
        """                mailbox.inlets.arm()
            # No receiver is woken""",
        """                pass
            # No receiver is woken""",
        "test_native_promises.py::test_no_wake_is_lost",
    ),
    Mutant(
        "N5",
        "a sender takes the flag down before it writes",
        "_native/bell.c",
        "    bool done = ring_all(bell);\n    if (done) { /*",
        "    uint64_t armed = flag;\n    atomic_compare_exchange_strong(&bell->flag, &armed, flag + 1);\n"
        "    bool done = ring_all(bell);\n    if (done) { /*",
        "test_native_ring.py::test_a_thread_that_is_killed_leaves_nothing_half_done",
    ),
    Mutant(
        "N5",
        "two threads that make the doorbell have one each",
        "_receiving/alarm",
        """            if self.__dict__.setdefault("doorbell", made) is not made:
                made.close()
""",
        """            self.doorbell = made
""",
        "test_native_docking.py::test_there_is_one_doorbell_whoever_makes_it",
    ),
    Mutant(
        "N5",
        "an item in C rings nobody after a wake of Python's has failed",
        "_receiving/sleepers",
        """            mailbox.inlets.arm()
            wake = armed""",
        """            wake = armed""",
        "test_native_docking.py::test_after_a_wake_that_failed_the_next_native_item_wakes",
    ),
    Mutant(
        "N6",
        "a send takes the GIL, and so is stopped where it stands when Python has exited",
        "_native/ring.c",
        WITHOUT_THE_GIL,
        WITH_THE_GIL,
        "test_native_promises.py::test_python_exits_under_threads_that_call",
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


def build(folder: Path) -> None:
    """Build the extension module again, where it lies."""
    built = Path(str(_native.dss.__file__)).name
    limited = ["-DPy_LIMITED_API=0x030A0000"] if "abi3" in built else []
    include = [f"-I{sysconfig.get_path('include')}", f"-I{folder / 'include'}"]
    sources = sorted(folder.glob("*.c"))  # those of the closures are empty without libffi
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-O1", "-std=c11", "-pthread", *limited, *include, *sources,
         "-o", folder / built],
        check=True,
    )  # fmt: skip


def verdict_on(mutant: Mutant) -> str:
    if mutant.needs_the_extension and _native.dss is None:
        return "not tried: the extension module was not built"
    for test in mutant.tests.split():
        if not passes_unbroken(test):
            return f"ERROR: {test} fails anyway"
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "src", f"{folder}/src")
        path = Path(folder, "src", "dss_anyio", mutant.file)
        path.write_text(path.read_text().replace(mutant.old, mutant.new))
        if mutant.is_in_c and mutant.needs_the_extension:
            build(path.parent)
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
    raise SystemExit(
        killed + len([each for each in verdicts if "not tried" in each]) < len(verdicts)
    )


if __name__ == "__main__":
    main(sys.argv[1:])
