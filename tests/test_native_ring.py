"""The ring, its bell and its waits alone, in a program without Python: ``foreign/ring_stress.c``.

It is compiled from the sources, so it needs a compiler, but not the extension module. With
ThreadSanitizer, each pair of accesses that nothing orders is an error; with AddressSanitizer, each
use of what was freed.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import dss_anyio as dss

HERE = Path(__file__).parent / "foreign"
INSTALLED, IN_THE_REPOSITORY = (
    Path(dss.native.include()).parent,
    Path(__file__).parents[1] / "src" / "dss_anyio" / "_native",
)
# A wheel has the header alone.
SOURCES = INSTALLED if (INSTALLED / "ring.c").exists() else IN_THE_REPOSITORY
SANITIZERS = {
    "plain": ("-O2",),
    "thread": ("-O1", "-g", "-fsanitize=thread"),
    "portable": ("-O2", "-DDSS_PORTABLE"),  # as on systems without futex and eventfd
    "portable-thread": ("-O1", "-g", "-fsanitize=thread", "-DDSS_PORTABLE"),
}
with_each = pytest.mark.parametrize("how", SANITIZERS)

pytestmark = [
    pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX"),
    pytest.mark.timeout(120),
]
Stress = Callable[..., None]


@pytest.fixture(scope="session")
def stress(tmp_path_factory: pytest.TempPathFactory) -> Stress:
    """Run one part of the program, compiled in one of these ways; it fails if that does."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    folder = tmp_path_factory.mktemp("ring")
    sources = [SOURCES / f"{name}.c" for name in ("sender", "sleep")]  # it includes the rest
    built: dict[tuple[str, ...], Path] = {}

    def build(flags: tuple[str, ...]) -> Path:
        program = folder / f"stress{len(built)}"
        compiled = subprocess.run(
            [compiler, "-std=gnu11", "-Wall", "-Wextra", "-Werror", "-pthread", "-DITEMS=2000",
             f"-I{SOURCES / 'include'}", f"-I{SOURCES}", *flags, "-o", program,
             HERE / "ring_stress.c", *sources],
            capture_output=True, text=True,
        )  # fmt: skip
        if "cannot find" in compiled.stderr and "-fsanitize=" in " ".join(flags):
            pytest.skip("the compiler has no library for this sanitizer")
        assert compiled.returncode == 0, compiled.stderr
        return program

    def run(part: str, how: str = "plain", flags: tuple[str, ...] | None = None) -> None:
        flags = SANITIZERS[how] if flags is None else flags
        if flags not in built:
            built[flags] = build(flags)
        ran = subprocess.run(
            [built[flags], part], capture_output=True, text=True, timeout=40,
            env={**os.environ, "TSAN_OPTIONS": "halt_on_error=1"},
        )  # fmt: skip
        if "unexpected memory mapping" in ran.stderr:
            pytest.skip("ThreadSanitizer does not work on this kernel")
        assert (ran.returncode, ran.stdout) == (0, "all books agree\n"), ran.stderr

    return run


@with_each
@pytest.mark.parametrize("part", ["one_taker", "many_takers", "one_place", "wait"])
def test_each_threads_items_pass_in_order_and_once(stress: Stress, part: str, how: str) -> None:
    stress(part, how)


@with_each
@pytest.mark.parametrize("part", ["drop_newest", "drop_oldest", "give"])
def test_what_is_dropped_is_counted_and_released(stress: Stress, part: str, how: str) -> None:
    stress(part, how)


@with_each
def test_the_oldest_item_is_dropped_and_only_if_the_ring_is_full(stress: Stress, how: str) -> None:
    stress("newest", how)


def test_an_item_that_was_claimed_has_no_place_any_more(stress: Stress) -> None:
    stress("claimed")


def test_a_put_does_not_wait_for_those_who_have_all_cells(stress: Stress) -> None:
    stress("no_cell")


def test_who_looks_for_a_free_cell_and_is_overtaken_looks_again(stress: Stress) -> None:
    stress("a_cell_behind")


def test_who_drops_the_oldest_item_has_one_cell_all_the_time(stress: Stress) -> None:
    stress("one_cell_each")


def test_what_is_dropped_is_released_after_the_put(stress: Stress) -> None:
    stress("release_order")


# Broken, these two fail only with ThreadSanitizer: threads stand still between any two accesses.
def test_a_look_never_has_the_kind_of_one_item_and_the_size_of_another(stress: Stress) -> None:
    stress("sizes", "thread")


def test_no_more_are_counted_than_the_limit(stress: Stress) -> None:
    stress("count", "thread")


def test_the_bound_is_exact_for_each_limit(stress: Stress) -> None:
    stress("bound")


@with_each
def test_a_receiver_that_sleeps_misses_no_wake(stress: Stress, how: str) -> None:
    stress("sleep", how)


@with_each
def test_what_was_accepted_stands_before_the_close(stress: Stress, how: str) -> None:
    stress("close", how)


@with_each
def test_each_ask_ends_in_one_way(stress: Stress, how: str) -> None:
    stress("ask", how)


@with_each
def test_a_signal_handler_that_interrupts_an_ask_may_send(stress: Stress, how: str) -> None:
    stress("ask_and_signals", how)


@with_each
def test_the_end_releases_all_who_ask(stress: Stress, how: str) -> None:
    stress("ask_and_close", how)


@pytest.mark.parametrize("sanitizer", ["thread", "address"])
def test_who_begins_to_ask_at_the_end_is_released_and_then_freed(
    stress: Stress, sanitizer: str
) -> None:
    stress("ask_at_the_end", flags=("-O1", "-g", f"-fsanitize={sanitizer}"))


def test_the_end_releases_all_whom_nobody_answers(stress: Stress) -> None:
    stress("release")


@pytest.mark.parametrize("sanitizer", ["thread", "address"])
def test_the_memory_of_a_queue_goes_when_nobody_is_inside(stress: Stress, sanitizer: str) -> None:
    stress("free", flags=("-O1", "-g", f"-fsanitize={sanitizer}"))


def test_a_send_keeps_errno(stress: Stress) -> None:
    stress("errno")


def test_a_send_does_not_write_to_a_descriptor_that_was_closed(stress: Stress) -> None:
    stress("closed_descriptor")


def test_it_is_not_closed_while_another_one_writes_to_it(stress: Stress) -> None:
    stress("closed_between_two")


@pytest.mark.parametrize("how", ["plain", "portable"])
def test_a_forked_child_waits_in_rings_of_its_own(stress: Stress, how: str) -> None:
    stress("room_in_a_fork", how)


def test_in_a_forked_child_nothing_of_the_parents_is_touched(stress: Stress) -> None:
    stress("fork")


def test_a_thread_that_is_killed_leaves_nothing_half_done(stress: Stress) -> None:
    stress("killed")


@pytest.mark.parametrize("how", ["plain", "portable"])
def test_a_thread_that_is_cancelled_while_it_waits_ends_after_its_call(
    stress: Stress, how: str
) -> None:
    stress("cancelled", how)
