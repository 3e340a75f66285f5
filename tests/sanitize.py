"""The tests of the extension module, on a build that checks its use of memory: ``make sanitize``.

    python tests/sanitize.py                              all of them
    python tests/sanitize.py tests/test_for_c.py -k end   those that pytest is told, and no programs

A copy of the sources is compiled with AddressSanitizer and UndefinedBehaviorSanitizer, and the
tests run on that copy. A wrong use of memory ends the process with a report, and so does undefined
behaviour. Each report is an error, also from a process whose exit code no test looks at. CPython
itself is not compiled in this way: its use of our memory is checked only where it calls the C
library.

Before that, ``foreign/ring_stress.c``, which needs no Python, runs in the same way. There,
LeakSanitizer also reports memory that is never freed; not in Python, which at its exit leaves much.

It needs gcc, with its libraries for these two (Debian has them with it).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
# Undefined behaviour is an illegal instruction, which AddressSanitizer reports: what
# UndefinedBehaviorSanitizer prints itself, pytest captures, and it goes on.
FLAGS = ["-fsanitize=address,undefined", "-fsanitize-undefined-trap-on-error"]
FLAGS += ["-fno-omit-frame-pointer", "-g", "-O1"]

# All tests that may use the extension module; of the examples, those that do.
NAMES = ["native*", "for_c", "mailbox", "wake", "worker", "ending", "datagram", "strange_ends"]
PATHS = [path for name in (*NAMES, "examples") for path in ROOT.glob(f"tests/test_{name}.py")]
TESTS = [*map(str, PATHS), "-k", "not test_examples or native or lossless or prototypes or in_c"]

# The tests that cannot work here, with the reason.
LEFT_OUT = {
    "tests/test_native_ring.py": "its programs bring sanitizers of their own; see run_programs",
    "tests/test_native_promises.py::test_memory_of_an_ended_sender_is_given_back":
        "the sanitizer keeps what is freed for a while, so that a use of it is seen",
    "tests/test_worker.py::test_where_python_makes_no_more_threads_the_caller_does_it":
        "it limits the address space, of which the sanitizer takes 20 TB",
    "tests/test_examples.py::test_an_example_prints_what_the_docs_say[native/rust.py":
        "rustc crashes with the sanitizer preloaded",
}  # fmt: skip


def libraries() -> str:
    """The libraries to load first: the sanitizer's, and that of C++.

    Some module loads C++'s library later, too late for the sanitizer, which wraps its exceptions.
    """
    asks = [["gcc", f"-print-file-name={name}"] for name in ("libasan.so", "libstdc++.so")]
    return ":".join(subprocess.check_output(ask, text=True).strip() for ask in asks)


def build(folder: Path, environ: dict[str, str]) -> Path:
    """Build the extension module in *folder*, and check that the tests will use that build."""
    shutil.copy(ROOT / "hatch_build.py", folder)
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(ROOT / "src", folder / "src", ignore=ignored)
    environ = {**environ, "CC": "gcc", "CFLAGS": " ".join(FLAGS)}
    subprocess.run([sys.executable, folder / "hatch_build.py"], env=environ, check=True)
    ask = "from dss_anyio import _native; print(_native.dss.__file__)"
    told = subprocess.check_output([sys.executable, "-c", ask], env=environ, cwd=ROOT, text=True)
    built = Path(told.strip())
    assert built.is_relative_to(folder), f"the tests would import {built}"
    assert b"__asan_report_load8" in built.read_bytes(), f"{built} does not watch its memory"
    return built


def run_programs(folder: Path, native: Path, environ: dict[str, str]) -> list[str]:
    """Run each part of ``ring_stress.c``. Return those that have failed."""
    source = ROOT / "tests" / "foreign" / "ring_stress.c"
    parts = re.findall(r'strcmp\(name, "(\w+)"\)', source.read_text())
    failed = []
    for portable in ([], ["-DDSS_PORTABLE"]):
        subprocess.run(
            ["gcc", "-std=gnu11", "-pthread", "-DITEMS=2000", f"-I{native / 'include'}",
             f"-I{native}", *FLAGS, *portable, "-o", folder / "stress", source,
             native / "sender.c", native / "sleep.c"],
            check=True,
        )  # fmt: skip
        for part in parts:
            command = [folder / "stress", part]
            ran = subprocess.run(command, env=environ, stdout=subprocess.DEVNULL, check=False)
            if ran.returncode:
                failed.append(" ".join([part, *portable]))
    print(f"{len(failed)} of {2 * len(parts)} programs failed", *failed, flush=True)
    return failed


def main(arguments: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reports = folder / "reports"
        reports.mkdir()
        options = f"log_path={reports / 'report'}:log_exe_name=1:handle_sigill=2"
        # Where a thread was cancelled, its stack stays marked as in use. To give back a stack for
        # signals, AddressSanitizer uses a part of it, and reports itself.
        options += ":use_sigaltstack=0"
        programs = {**os.environ, "ASAN_OPTIONS": f"{options}:detect_leaks=1"}
        tests = {
            **programs,
            "LD_PRELOAD": libraries(),
            "ASAN_OPTIONS": f"{options}:detect_leaks=0",
            "PYTHONMALLOC": "malloc",  # each object is a piece of memory of its own
            "PYTHONPATH": str(folder / "src"),  # stands before the editable install
            "DSS_ANYIO_NATIVE": "require",
        }
        built = build(folder, tests)
        failed = [] if arguments else run_programs(folder, built.parent, programs)
        left_out = [f"--deselect={test}" for test in LEFT_OUT]
        command = [sys.executable, "-m", "pytest", *left_out, *(arguments or TESTS)]
        ended = subprocess.run(command, env=tests, cwd=ROOT, check=False)
        found = sorted(reports.iterdir())
        for report in found:
            print(f"\n{report.name}\n{report.read_text(errors='replace')}")
        print(f"{len(found)} reports of the sanitizers")
        raise SystemExit(bool(failed or ended.returncode or found))


if __name__ == "__main__":
    main(sys.argv[1:])
