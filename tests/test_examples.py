"""The programs that the docs show do what the docs say."""

from __future__ import annotations

import array
import os
import re
import shutil
import subprocess
import sys
import wave
from importlib.util import find_spec
from pathlib import Path

import pytest

from dss_anyio import _native

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"

# The page that shows the programs of a folder.
FOLDERS = ("tutorial", "howto", "uses", "native", "coming_from")
PAGES = ("index", "tutorial", "howto", "examples", "porting", "coming_from")

# What each program prints. The docs show it as well if it is in SHOWN.
OUTPUT = {
    "tutorial/first.py": ["received 0", "received 1", "received 2"],
    "tutorial/radio.py": [
        *(f"telegram {n} (in the main thread: False)" for n in range(3)),
        "over and out (in the main thread: False)",
    ],
    "tutorial/broken.py": ["received 1 s after it came in"],
    "tutorial/mended.py": [*(f"received telegram {n}" for n in range(3)), "the radio is closed"],
    "tutorial/broken_buffer.py": 3 * ["received telegram 2"],
    "tutorial/too_slow.py": [
        "block: received 0 1 2, dropped 3 4 5 6 7 8 9",
        "sent 10 = received 3 + dropped 7",
        "drop_oldest: received 7 8 9, dropped 0 1 2 3 4 5 6",
        "sent 10 = received 3 + dropped 7",
        "drop_newest: received 0 1 2, dropped 3 4 5 6 7 8 9",
        "sent 10 = received 3 + dropped 7",
    ],
    "tutorial/broken_ask.py": ["the radio is still open"],
    "tutorial/ask.py": [
        "received telegram 0",
        "received telegram 2",
        "3 questions were answered",
    ],
    "tutorial/stop.py": [
        "a thread waits in request() of radio",
        "the radio is closed",
        "RequestStatistics(answered=0, refused=0, unanswered=0, released=1, abandoned=0, open=0)",
    ],
    "tutorial/lost.py": [
        "received telegram 0",
        "handed back: telegram 1",
        "came too late: 1",
    ],
    "tutorial/drain.py": [
        "received telegram 0",
        "received telegram 1",
        "received over and out",
        "that was all",
        "came too late: 0",
    ],
    "tutorial/complete.py": [
        "10 were written, 0 were saved; the last is over and out",
        "the disk is full",
        "saved: ['telegram 0', 'over and out']",
    ],
    "tutorial/lossless.py": [
        "lost: 0",
        "the last one was over and out",
        "the disk is full",
        "lost: 0",
        "the last one was over and out (the portal was closed, or the hub has ended)",
    ],
    "tutorial/prototypes.py": ["received telegram 0", "received telegram 2"],
    "howto/blocked.py": [
        "my thread waits in send() of producer",
        (
            "the thread goes home: hub-1 has ended, and takes nothing from source 'producer' any "
            "more; stop the threads that use it, or open a new hub"
        ),
    ],
    "howto/serve.py": ["ada is Ada Lovelace", "alan is Alan Turing", "not known: 'nobody'"],
    "howto/feed.py": ["30 buffers were played, 0 were missed"],
    "howto/stop_server.py": [
        "a thread waits in request() of server",
        "the server has stopped",
        "GET /fast: 200, this is /fast",
        "GET /slow: 503, please try again later",
        ("RequestStatistics(answered=1, refused=0, unanswered=0, released=1, abandoned=0, open=0)"),
    ],
    "howto/old_binding.py": [
        "received decoded hello",
        "asked decoded 6 * 7",
        "the library got 42",
        "0 codes were errors",
        "the library stops",
    ],
    "howto/answer_later.py": ["the first to answer counts: True False", "two", "one"],
    "howto/sent_or_asked.py": ["received 2", "the answer is 42", "the answer is 42"],
    "howto/veto.py": [
        "['hello', 'a secret'] [1, 0]",
        "radio: TypeError",
        "['forgotten'] [0]",
        "radio: ValueError",
        "['misspelt'] [0]",
    ],
    "howto/give_up.py": [
        "nobody waits any more: in a thread",
        "nobody waits any more: by a future",
        "nobody waits any more: in an event loop",
        "given up: 3",
    ],
    "howto/crash.py": [
        "on_error gets: invalid literal for int() with base 10: 'seventeen'",
        "the asker gets: invalid literal for int() with base 10: 'eighteen'",
        "the answer is 19",
    ],
    "howto/limit.py": ["6 answers, at most 2 handlers at a time"],
    "howto/call.py": [
        "42",
        "43",
        "44",
        "listening",
        "connected",
        "using a connection",
        "disconnected",
    ],
    "howto/sync_program.py": ["42", "44", "False"],
    "howto/dispatch.py": [
        "twice 21 is 42",
        "refused: twice nothing is nothing",
        "that was all",
    ],
    "howto/polled_answers.py": ["received 1", "twice 21 is 42"],
    "howto/tk_call.py": ["the label says: hello from a worker"],
    "howto/batches.py": [
        "400 items, the last is 399",
        "400 items, the last is 799",
        "200 items, the last is 999",
        "that was all",
    ],
    "howto/latest.py": [
        "alarms: 20",
        "topics: 1000",
        "the last ones:",
        "  topic 999: 19",
        "  alarm 19",
        "dropped of topic 7: 19",
        "dropped of the alarms: 0",
    ],
    "howto/several_tasks.py": ["[0, 1, 2, 3, 4, 5, 6, 7, 8]"],
    "howto/shut_down.py": [
        "received one",
        "the library is stopped",
        "handed back: two",
        "accepted: False",
        "received one",
        "received two",
    ],
    "howto/recorder.py": [
        "written: [1, 2, 3]",
        "written: [4]",
        "that was all",
        "the last batch was not accepted: save it here",
        "failed: the disk is full",
    ],
    "howto/log_shipper.py": [
        "shipped ['line 0', 'line 1', 'line 2']",
        "shipped ['line 3', 'line 4']",
    ],
    "howto/drain_polled.py": [*(f"received {n}" for n in range(5)), "that was all"],
    "howto/deadline.py": [
        "the request was still queued",
        "tea costs 3",
        "no answer within 0.2 s to call_within() of source 'worker' in hub-1; it was given up",
    ],
    "howto/deadline_in_c.py": [
        "behind the items: -1",
        "in a queue of its own: 1",
        "by a call: 1",
        "given up: 1",
    ],
    "howto/two_lines.py": [
        "may I go on? yes",
        "items that are still queued: 1000",
        "received: 1000",
    ],
    "howto/signal_handler.py": ["a signal came", "a resource is gone"],
    "howto/two_loops.py": ["[0, 1, 2, 3, 4]"],
    "howto/select_loop.py": ["from the hub: ['one', 'two']", "from the socket: b'data'"],
    "howto/plain_loop.py": ["[0, 1, 2, 3, 4]", "that was all"],
    "howto/tk_window.py": ["the label says: hello from a thread"],
    "howto/qt_loop.py": ["received hello from a thread"],
    "howto/game_loop.py": ["received hello from a thread"],
    "howto/wake_lua.py": ["Lua says: woken", "polled: ['an item']"],
    "howto/own_socket.py": ["received 1000 items"],
    "howto/errors.py": [
        "received 17",
        "handed back: seventeen",
        "received 18",
        "meter: ValueError(\"invalid literal for int() with base 10: 'seventeen'\")",
    ],
    "howto/test_binding.py": [
        "test_a_reading_arrives_from_a_thread_that_c_has_made passed",
        "test_readings_wait_until_somebody_looks passed",
        "test_it_is_stopped_while_its_callback_waits passed",
    ],
    "howto/metrics.py": [
        'dss_items_total{end="received",hub="meters"} 1.0',
        'dss_items_total{end="dropped",hub="meters"} 1.0',
        'dss_items_total{end="undelivered",hub="meters"} 0.0',
        'dss_queued{hub="meters"} 1.0',
        'dss_blocked{hub="meters"} 0.0',
    ],
    "howto/forked.py": [
        "accepted in the child: False",
        "accepted in the parent: True",
        "polled ['from the parent']",
    ],
    "uses/bind.py": ["received 1", "received 4", "received 9", "the library is stopped"],
    "uses/sdk/sdk.py": [
        "channel 0 has 50 degrees again: off",
        "channel 1 has 50 degrees again: off",
        "the SDK is closed",
        "6 readings of channel 0, 6 of channel 1",
    ],
    "uses/sdk/sdk_in_c.py": [
        "channel 0 has 50 degrees again: off",
        "channel 1 has 50 degrees again: off",
        "the SDK is closed",
        "6 readings of channel 0, 6 of channel 1",
    ],
    "native/audio.py": ["buffers that the card has missed: 0", "recorded without a gap: True"],
    "native/cpp.py": [
        *(f"frame {number} has brightness 0.5" for number in range(5)),
        "frame 5 has brightness 0.5, and asks for the exposure",
        "frame 6 has brightness 50.0, and asks for the exposure",
        "frame 7 has brightness 60.0, and asks for the exposure",
        "the camera is closed",
    ],
    "native/rust.py": [
        "reading 0: 20.0 degrees",
        "reading 1: 20.5 degrees",
        "reading 2: 21.0 degrees",
        "reading 3: 21.5 degrees",
        "reading 4: 22.0 degrees",
        "the sensor has stopped: 0",
    ],
    "native/with_numba.py": [
        "buffer 0: at most 239",
        "buffer 1: at most 240",
        "buffer 2: at most 241",
        "buffer 3: at most 242",
        "the card is closed",
    ],
    "uses/web_server.py": [
        "/ 200 hello",
        "/about 200 threads that ask",
        "/nothing 404 no such page",
        "nobody waits for /slow any more",
        "/slow 504 no answer in time",
    ],
    "uses/web_wsgi.py": [
        "this is /0",
        "this is /1",
        "this is /2",
        "this is /3",
        "over at most 2 connections",
        "the server has stopped",
    ],
    "uses/log_handler.py": [
        "shipped:",
        "  worker 6: it is too hot here",
        "  worker 7: it is too hot here",
        "  worker 8: it is too hot here",
        "  MainThread: the loop logs as well",
        "4 were shipped, 6 were dropped",
    ],
    "uses/watch_folder.py": [
        "rebuilding main.c main.h",
        "rebuilding main.c",
        "the observer has stopped",
    ],
    "uses/synthesizer.py": ["30 buffers were played"],
    "uses/shutdown_fixed.py": [
        "the answer is Ada",
        "leaving the block",
        "no answer for nobody, because the program ends",
        "the pool is shut down",
    ],
    "uses/solver.py": ["good enough: 12 marks on at most 120", "the solver has stopped"],
    "uses/zenoh_peers.py": [
        "somebody asks for room/limit",
        "24 degrees",
        "25 degrees",
        "26 degrees: too hot",
        "the session is closed",
    ],
    "uses/mqtt.py": [
        "the kitchen has 21 degrees",
        "the kitchen has 22 degrees",
        "the client has stopped",
    ],
    "uses/two_hubs.py": [
        "asyncio: 5 ticks, 0 were missed",
        "trio: 50 ticks, 0 were missed",
    ],
    "uses/lua_polls.py": [
        "Lua got 1",
        "Lua got 2",
        "Lua is asked for the total",
        "the thread got 3",
        "Lua got 3",
    ],
    "uses/gui.py": [
        "the window asks: The file exists. Overwrite it?",
        "the worker overwrites the file",
        "the bar is at 100 %",
    ],
    "uses/game.py": [
        "the server got: space",
        "ada is at 199, 50",
        "alan is at 199, 100",
        "fewer frames than positions: True",
    ],
    "coming_from/janus_queue.py": [
        "cannot use 1",
        "the thread still waits: True",
        "the thread gets ShutDown",
        "the thread gets BrokenResourceError",
        "cannot use 1",
    ],
    "coming_from/culsans_queue.py": 2 * ["1", "4", "9", "all results are there"],
    "coming_from/blocking_portal.py": [*(2 * ["42 44", "100 items"]), "42 44", "42 44"],
    "coming_from/run_coroutine.py": [
        "no answer in time",
        "the handler went on to its end",
        "no answer in time",
        "the handler is cancelled",
    ],
    "coming_from/call_soon.py": [
        *(2 * ["the loop gets QueueFull()"]),
        *("received 0", "received 1", "accepted: [True, True, False, False]"),
        *("received 0", "received 1"),
    ],
}
# These do not end by themselves; each has a test of its own.
HANGING = {"uses/shutdown_broken.py", "howto/sigterm.py", "howto/sigterm_polled.py"}
SHOWN = [
    *(name for name in OUTPUT if not name.startswith("howto/")),
    "howto/shut_down.py",
    "howto/stop_server.py",
    "howto/blocked.py",
    "howto/feed.py",
    "howto/serve.py",
    "howto/errors.py",
    "howto/old_binding.py",
    "howto/answer_later.py",
    "howto/give_up.py",
    "howto/sent_or_asked.py",
    "howto/crash.py",
    "howto/call.py",
    "howto/deadline_in_c.py",
    "howto/sync_program.py",
    "howto/tk_call.py",
    "howto/metrics.py",
]
SDK = ("uses/sdk/sdk.py", "uses/sdk/sdk_in_c.py")
# These compile a library.
IN_C = {*SDK, *(name for name in OUTPUT if name.startswith("tutorial/"))} - {"tutorial/first.py"}
# The order, or how an item falls into batches, is a matter of chance there.
UNORDERED = {
    "howto/select_loop.py",
    *SDK,
    "uses/web_server.py",
    "uses/gui.py",
    "coming_from/janus_queue.py",
    "coming_from/run_coroutine.py",
}
# These have a window. Without a display, pygame's is one that nobody sees; Tk has none.
TK = ("howto/tk_window.py", "howto/tk_call.py", "uses/gui.py")
PYGAME = ("howto/game_loop.py", "uses/game.py")
# After the backend; with a file to write, nothing is to be heard.
ARGUMENTS = {"uses/synthesizer.py": [os.devnull]}
# Debian has it where an ordinary user does not look.
MOSQUITTO = shutil.which("mosquitto", path=os.environ["PATH"] + os.pathsep + "/usr/sbin")

HEADLESS = {
    "QT_QPA_PLATFORM": "offscreen",
    "PYGAME_HIDE_SUPPORT_PROMPT": "1",
}
WITHOUT_DISPLAY = {"SDL_VIDEODRIVER": "dummy"}


def missing(name: str) -> str | None:
    """Why the example *name* cannot be run here."""
    if name == "howto/qt_loop.py" and sys.version_info < (3, 12):
        return "PySide6 has crashed on CPython 3.10 and 3.11"
    for example, module in (
        *((name, "_tkinter") for name in TK),
        *((name, "pygame") for name in PYGAME),
        ("howto/qt_loop.py", "PySide6"),
        ("howto/metrics.py", "prometheus_client"),
        ("coming_from/janus_queue.py", "janus"),
        ("coming_from/culsans_queue.py", "culsans"),
        ("uses/web_wsgi.py", "waitress"),
        ("uses/watch_folder.py", "watchdog"),
        ("uses/synthesizer.py", "miniaudio"),
        ("uses/solver.py", "ortools"),
        ("uses/zenoh_peers.py", "zenoh"),
        ("uses/mqtt.py", "paho"),
        ("uses/lua_polls.py", "lupa"),
        ("native/cpp.py", "pybind11"),
        ("native/with_numba.py", "numba"),
    ):
        if name == example and find_spec(module) is None:
            return f"needs {module}"
    if name == "howto/wake_lua.py" and shutil.which("lua5.1") is None:
        return "needs Debian's lua5.1 and lua-socket"
    needs_extension = name.startswith("native/") or name == "tutorial/lossless.py"
    if needs_extension and _native.dss is None:
        return "needs the extension module"
    if name in ("native/audio.py", "howto/deadline_in_c.py") and not hasattr(
        _native.dss, "make_closure"
    ):
        return "needs the extension module, with libffi"
    for compiler, compiled in (
        ("cc", (*IN_C, "native/audio.py", "native/with_numba.py")),
        ("c++", ("native/cpp.py",)),
        ("rustc", ("native/rust.py",)),
    ):
        if name in compiled and shutil.which(compiler) is None:
            return f"needs a compiler: {compiler}"
    if name == "uses/mqtt.py" and MOSQUITTO is None:
        return "needs mosquitto, an MQTT broker"
    if name in TK and display() is None:
        return "needs a display, or Debian's xvfb"
    if sys.platform == "win32" and name in (
        *IN_C,
        *TK,
        "howto/forked.py",
    ):
        return "needs a POSIX system"
    return None


def display() -> list[str] | None:
    """What to put in front of a command that needs a display."""
    if "DISPLAY" in os.environ or sys.platform != "linux":
        return []
    return ["xvfb-run", "-a"] if shutil.which("xvfb-run") else None


def run(*command: str | Path, front: list[str] | None = None) -> list[str]:
    done = subprocess.run(
        [*(front or []), sys.executable, "-W", "error", *command],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        env={**os.environ, **HEADLESS, **(WITHOUT_DISPLAY if front is None else {})},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def text_of(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def pages() -> list[str]:
    return [text_of(f"docs/{page}.md") for page in PAGES]


def choices() -> list[tuple[str, str | None]]:
    """Each example with each backend that it takes; None if it has its own loops, or none."""
    both = ("asyncio", "trio")
    return [
        (name, backend)
        for name in OUTPUT
        for backend in (both if "sys.argv" in text_of(f"examples/{name}") else (None,))
    ]


@pytest.mark.parametrize(("name", "backend"), choices())
def test_an_example_prints_what_the_docs_say(name: str, backend: str | None) -> None:
    reason = missing(name)
    if reason is not None:
        pytest.skip(reason)
    output = run(
        EXAMPLES / name,
        *([backend] if backend else []),
        *ARGUMENTS.get(name, []),
        front=display() if name in TK + PYGAME else None,
    )
    expected = OUTPUT[name]
    if name not in UNORDERED:
        assert output == expected
    elif sorted(output) != sorted(expected):  # two threads that print at once may mix their lines
        assert sorted("".join(output)) == sorted("".join(expected)), "\n".join(output)


def test_every_example_is_run_and_shown() -> None:
    found = {
        path.relative_to(EXAMPLES).as_posix()
        for folder in FOLDERS
        for path in (EXAMPLES / folder).rglob("*.py")
    }
    assert found == set(OUTPUT) | HANGING
    shown = set(re.findall(r"```\{literalinclude\} \.\./examples/(\S+\.py)\n", "".join(pages())))
    assert shown == found


def test_every_program_in_the_docs_is_a_file_that_is_run() -> None:
    for page in (ROOT / "docs").glob("*.md"):
        assert "```python" not in page.read_text(encoding="utf-8"), page


@pytest.mark.parametrize("name", SHOWN)
def test_the_docs_show_the_output_that_an_example_has(name: str) -> None:
    shown_in = [page for page in pages() if f"../examples/{name}\n" in page][-1]
    after = shown_in.split(f"../examples/{name}\n", 1)[1]
    block = re.search(r"```text\n(.*?)```", after, re.DOTALL)
    assert block is not None
    shown = [line for line in block[1].splitlines() if line]
    assert shown == [line for line in OUTPUT[name] if line]


def test_the_two_forms_of_the_sdks_binding_differ_in_one_line_for_each_callback() -> None:
    first, second = (text_of(f"examples/{name}").splitlines() for name in SDK)
    changed = [line for line, other in zip(first, second, strict=True) if line != other]
    assert [line.split("(")[0].strip() for line in changed] == [
        "tell = ON_READING",
        "ask = ON_ALARM",
    ]


def test_the_synthesizer_writes_the_tune_that_it_plays(tmp_path: Path) -> None:
    if find_spec("miniaudio") is None:
        pytest.skip("needs miniaudio")
    tune = tmp_path / "tune.wav"
    run(EXAMPLES / "uses" / "synthesizer.py", "asyncio", tune)
    with wave.open(str(tune)) as file:
        assert (file.getnchannels(), file.getsampwidth(), file.getframerate()) == (1, 2, 22050)
        samples = array.array("h", file.readframes(file.getnframes()))
    if sys.byteorder == "big":
        samples.byteswap()
    assert len(samples) == 30 * 441
    assert 11_000 < max(samples) <= 12_000


def test_the_broken_shutdown_hangs() -> None:
    broken = EXAMPLES / "uses" / "shutdown_broken.py"
    with subprocess.Popen(
        [sys.executable, "-W", "error", broken], stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "leaving the block\n"
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)  # its only answer takes 0.1 s
        finally:
            process.kill()
        assert process.stdout.read() == ""


def test_the_program_in_the_readme_has_ten_lines_and_runs(tmp_path: Path) -> None:
    program = re.findall(r"```python\n(.*?)```", text_of("README.md"), re.DOTALL)[0]
    assert sum(line != "" for line in program.splitlines()) == 10
    path = tmp_path / "readme.py"
    path.write_text(program)
    assert run(path) == ["42"]


def test_the_readme_shows_a_binding_five_lines_of_which_are_the_librarys() -> None:
    readme = text_of("README.md")
    program = text_of("examples/uses/bind.py")
    assert re.findall(r"```python\n(.*?)```", readme, re.DOTALL)[1:] == [program]
    [output] = re.findall(r"```text\n(.*?)```", readme, re.DOTALL)
    assert output.splitlines() == OUTPUT["uses/bind.py"]
    marks = ["import it", "make it", "hand it the callback", "start it", "stop it"]
    assert re.findall(r"# YOURS: (.*)", program) == marks


def test_the_files_that_the_readme_and_the_docs_link_to_exist() -> None:
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        prose = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", prose):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"


DEMO_IN_PYTHON = """
import runpy
from dss_anyio import _native

_native.dss = None  # as if the extension had not been built
runpy.run_path({demo!r}, run_name="__main__")
"""


@pytest.mark.parametrize("native", [True, False], ids=["native", "in Python"])
def test_the_demo_runs_on_both_backends_and_its_counts_add_up(native: bool) -> None:
    for module in ("rich", "watchdog", "miniaudio"):
        if find_spec(module) is None:
            pytest.skip(f"needs {module}")
    demo = EXAMPLES / "demo"
    program = (demo,) if native else ("-c", DEMO_IN_PYTHON.format(demo=str(demo)))
    output = run(*program, "--seconds", "1")
    assert sum("the counts add up" in line for line in output) == 2
    stopped = [line.split("stopped ")[1] for line in output if line.startswith("  stopped ")]
    assert stopped in (
        ["miniaudio", "watchdog", "C pthreads"] * 2,  # the newest first
        ["miniaudio", "watchdog"] * 2,  # there is no C compiler
    )
    has_closures = native and hasattr(_native.dss, "make_closure")
    never_enter = output.count("  the threads of C pthreads never enter Python")
    assert never_enter == (stopped.count("C pthreads") if has_closures else 0)
