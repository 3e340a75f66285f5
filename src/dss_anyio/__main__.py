"""``python -m dss_anyio``: look at the hubs of running programs, or at this machine."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    what = "Look at the hubs of running programs, or at this machine."
    parser = argparse.ArgumentParser(_called(), description=what)
    commands = parser.add_subparsers(dest="command", required=True)

    what = "watch the hubs of programs that have called dss_anyio.serve_statistics()"
    top = commands.add_parser("top", help=what, description=f"{what}. Ctrl-C ends it.")
    top.add_argument("--once", action="store_true", help="look once; exit code 1 if nobody answers")
    top.add_argument("--json", action="store_true", help="print JSON, one line for each look")
    top.add_argument(
        "--interval",
        type=_seconds,
        metavar="SECONDS",
        help="between two looks, 1 if not given; with --once: look twice, and tell the rates",
    )
    top.add_argument(
        "programs", nargs="*", metavar="PID_OR_PATH", help="default: all programs of this user"
    )

    what = "look at what a hub is going to find on this machine"
    doctor = commands.add_parser("doctor", help=what, description=f"{what}. Takes two seconds.")
    doctor.add_argument("--json", action="store_true", help="print JSON")

    options = parser.parse_args(arguments)
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors="replace")  # some terminals have no "µ", and no "∞"
    try:
        if options.command == "top":
            from ._tools.top import watch

            return watch(options.programs, options.interval, options.once, options.json)
        from ._tools.doctor import examine

        return examine(options.json)
    except KeyboardInterrupt:
        return 0 if options.command == "top" else 130  # Ctrl-C is the usual end of "top"
    except BrokenPipeError:  # the reader has gone, as in "| head"
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes at its exit
        return 0
    except (OSError, RuntimeError) as exc:
        print(f"error: {exc}", file=sys.stderr)
        return 2


def _called() -> str:
    name = Path(sys.argv[0]).name
    return "python -m dss_anyio" if name == "__main__.py" else name


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.01 <= seconds <= 86400:
        raise argparse.ArgumentTypeError(f"{text} is not between 0.01 and 86400 seconds")
    return seconds


if __name__ == "__main__":
    # With "-m" Python looks into the current folder first, and would run a rich.py that lies there.
    # The modules imported before this line, anyio above all, may have come from there. (The command
    # "dss_anyio" and "python -P" do not look there at all.)
    with contextlib.suppress(OSError):  # the current folder was removed
        if sys.path[:1] == [str(Path.cwd())]:
            del sys.path[0]
    sys.exit(main())
