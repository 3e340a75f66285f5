"""Everything together: a veto, a lent buffer, a full hub; and an end that loses nothing."""

import sys
from collections.abc import Callable
from typing import Any

import anyio
from radio import MAY_PASS, ON_TELEGRAM, Radio, text_of

import dss_anyio as dss


async def listen(write: Callable[[str], None], save: Callable[[str], None]) -> None:
    """Write each telegram, and save those that could not be written."""

    def start(portal: dss.Portal[str]) -> Radio:
        def on_telegram(*args: Any) -> None:
            telegram = text_of(*args)  # a copy
            try:
                portal.send(telegram)  # waits while the hub is full
            except (anyio.ClosedResourceError, anyio.BrokenResourceError):
                save(telegram)  # the hub takes no more

        ask = portal.request_callback(text_of, timeout=5, default=1, convert=int)
        return Radio(ON_TELEGRAM(on_telegram), MAY_PASS(ask), telegrams=10, pause=5)

    async def answer(request: dss.Request[str]) -> None:
        async with request:
            await anyio.sleep(0.01)  # it asks a server
            request.reply(request.item != "telegram 1")

    async with (
        dss.open_hub[str, str | dss.Request[str]](2) as hub,
        anyio.create_task_group() as tasks,
    ):
        enough = anyio.Event()

        async def receive() -> None:
            async for event in hub:
                if isinstance(event, dss.Request):
                    tasks.start_soon(answer, event)  # a slow answer delays no telegram
                    continue
                try:
                    write(event)
                except OSError:
                    save(event)
                    raise
                if event == "telegram 9":
                    enough.set()

        tasks.start_soon(receive)
        async with hub.open_source("radio", start, Radio.close, drain=True, on_undelivered=save):
            await enough.wait()
        hub.close_senders()


async def main() -> None:
    written: list[str] = []
    saved: list[str] = []
    await listen(written.append, saved.append)
    print(len(written), "were written,", len(saved), "were saved; the last is", written[-1])

    def fail(_: str) -> None:
        raise OSError("the disk is full")

    try:
        await listen(fail, saved.append)
    except BaseException as exc:  # it is an ExceptionGroup
        print(*exc.exceptions)
    print("saved:", [each for each in ("telegram 0", "over and out") if each in saved])


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
