"""The programs that the docs show do what the docs say."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
EXAMPLES = ROOT / "examples"

OUTPUT = {
    "tutorial/broken.py": [
        "sent after 0.1 s, received after 1.0 s",
        "something else wakes the loop",
    ],
    "tutorial/first.py": ["received 0", "received 1", "received 2"],
    "tutorial/watch.py": [
        "there is a file called one",
        "there is a file called two",
        "the observer has stopped",
    ],
    "tutorial/too_slow.py": [
        "block: received [0, 1, 2], dropped 0, sent 3",
        "drop_oldest: received [7, 8, 9], dropped 7, sent 10",
        "drop_newest: received [0, 1, 2], dropped 7, sent 10",
    ],
    "tutorial/blocked.py": [
        "'producing thread' waits in send() of source 'producer'",
        (
            "the thread goes home: the hub has ended, nobody will receive this; "
            "stop what sends, or open a new hub"
        ),
    ],
    "howto/plain_loop.py": ["[0, 1]", "[2, 3]", "[4]", "that was all"],
    "howto/select_loop.py": ["from the hub: ['one', 'two']", "from the socket: b'data'"],
    "howto/signal_handler.py": ["a signal came", "a resource is gone"],
    "howto/two_loops.py": ["[0, 1, 2, 3, 4]"],
    "howto/wake_lua.py": ["Lua says: woken", "polled: ['an item']"],
}
ORDER_IS_BY_CHANCE = {"tutorial/broken.py"}


def run(*command: str | Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-W", "error", *command],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""
    return done.stdout.splitlines()


def test_every_example_is_run() -> None:
    found = {str(path.relative_to(EXAMPLES)) for path in EXAMPLES.glob("*o*/*.py")}
    assert {name for name in found if not name.startswith("demo/")} == set(OUTPUT)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("name", OUTPUT)
def test_an_example_prints_what_the_docs_say(name: str, backend: str) -> None:
    takes_backend = "sys.argv" in (EXAMPLES / name).read_text()
    if not takes_backend and backend == "trio":
        return  # it has its own loops, or none
    if name == "howto/wake_lua.py" and shutil.which("lua5.1") is None:
        pytest.skip("needs Debian's lua5.1 and lua-socket")
    output = run(EXAMPLES / name, *([backend] if takes_backend else []))
    expected = OUTPUT[name]
    if name in ORDER_IS_BY_CHANCE:
        output, expected = sorted(output), sorted(expected)
    assert output == expected


def test_the_docs_show_the_output_that_the_examples_have() -> None:
    tutorial = (ROOT / "docs" / "tutorial.md").read_text()
    for name in ("tutorial/too_slow.py", "tutorial/blocked.py", "tutorial/broken.py"):
        for line in OUTPUT[name]:
            assert line in tutorial


def test_the_program_in_the_readme_runs(tmp_path: Path) -> None:
    program = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[0]
    path = tmp_path / "readme.py"
    path.write_text(program)
    assert run(path) == ["42"]


def test_the_demo_runs_on_both_backends_and_its_counts_add_up() -> None:
    output = run(EXAMPLES / "demo", "--seconds", "1")
    assert sum("the counts add up" in line for line in output) == 2
    stopped = [line.split("stopped ")[1] for line in output if line.startswith("  stopped ")]
    newest_first = ["miniaudio", "watchdog", "C pthreads"]
    assert stopped == newest_first * 2
