"""A native sender that loses nothing: C waits for room, and is told what was refused."""

import ctypes
import subprocess
import sys
import tempfile
from pathlib import Path

import anyio
from radio import ON_TELEGRAM, Radio

import dss_anyio as dss
from dss_anyio import native

FILE = "refused.txt"


class Forward(ctypes.Structure):
    """The struct of forward.c: the sender's address, and what else the callback needs."""

    _fields_ = (
        ("sender", ctypes.c_void_p),
        ("file", ctypes.c_char_p),
        ("called", ctypes.c_int),
    )


def build(folder: Path) -> ctypes.CDLL:
    source, library = Path(__file__).with_name("forward.c"), folder / "libforward.so"
    command = ["cc", "-shared", "-fPIC", "-I", native.include(), "-o", library, source]
    subprocess.run(command, check=True)
    return ctypes.CDLL(str(library))


async def listen(folder: Path, fails: bool) -> None:
    callback = ON_TELEGRAM(("forward", build(folder)))  # the function of C, not one of Python
    forward = Forward(file=bytes(folder / FILE))  # C keeps no reference to it, so we do
    received: list[bytes] = []
    handed_back: list[bytes] = []

    def start(portal: dss.Portal[bytes]) -> Radio:
        forward.sender = portal.native_sender(2).address
        return Radio(callback, telegrams=10, pause=5, user=ctypes.byref(forward))

    async def receive(hub: dss.Hub[bytes], enough: anyio.Event) -> None:
        async for telegram in hub:
            received.append(telegram)
            if fails:
                raise OSError("the disk is full")
            if telegram == b"telegram 9":
                enough.set()

    try:
        async with dss.open_hub[bytes]() as hub, anyio.create_task_group() as tasks:
            enough = anyio.Event()
            tasks.start_soon(receive, hub, enough)
            async with hub.open_source(
                "radio", start, Radio.close, drain=True, on_undelivered=handed_back.append
            ):
                await enough.wait()
            hub.close_senders()
    except BaseException as exc:  # it is an ExceptionGroup
        print(*exc.exceptions)
    refused = (folder / FILE).read_text().splitlines() if (folder / FILE).exists() else []
    print("lost:", forward.called - len(received) - len(handed_back) - len(refused))
    print("the last one was", refused[-1] if refused else received[-1].decode())


async def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        await listen(Path(folder), fails=False)
        await listen(Path(folder), fails=True)


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
