"""What people read when something goes wrong names the hub and the source, and is true there."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import re
import sys
import threading
import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

import anyio
import pytest
from anyio import ClosedResourceError, EndOfStream, WouldBlock
from conftest import BACKENDS

import dss_anyio as dss
from dss_anyio.testing import eventually, threads, until

if sys.version_info < (3, 11):
    from exceptiongroup import BaseExceptionGroup, ExceptionGroup

Portal: TypeAlias = "dss.Portal[Any]"
AnyHub: TypeAlias = "dss.Hub[Any] | dss.PolledHub[Any]"
Case: TypeAlias = Callable[[AnyHub, Portal], BaseException]


def error(func: Callable[..., object], *args: Any, **kwargs: Any) -> BaseException:
    """What *func* raises."""
    try:
        func(*args, **kwargs)
    except BaseException as exc:
        return exc
    raise AssertionError("nothing was raised")


def abroad(func: Callable[..., object], *args: Any, **kwargs: Any) -> BaseException:
    """What *func* raises in another thread."""
    return elsewhere(lambda: error(func, *args, **kwargs))


async def awaited(func: Callable[..., Any], *args: Any, **kwargs: Any) -> BaseException:
    try:
        await func(*args, **kwargs)
    except BaseException as exc:
        return exc
    raise AssertionError("nothing was raised")


def elsewhere(func: Callable[[], BaseException]) -> BaseException:
    """What *func* returns in another thread."""
    returned: list[BaseException] = []
    with threads(lambda: returned.append(func())):
        pass
    return returned[0]


def fill(portal: Portal) -> None:
    while portal.offer("fills it"):
        pass


async def coroutine_function() -> None: ...


# -- Errors of a portal, in a thread that is not the hub's, or in a hub that is polled -------------


def full(hub: AnyHub, portal: Portal, call: Callable[..., object], *args: Any) -> BaseException:
    fill(hub.portal)
    return abroad(call, *args)


def in_own_thread(hub: AnyHub, call: Callable[..., object], *args: Any) -> BaseException:
    fill(hub.portal)
    return error(call, *args)


ENDS: dict[str, Callable[[AnyHub, Portal], None]] = {
    "close": lambda _, portal: portal.close(),
    "abort": lambda _, portal: portal.abort(),
    "close_senders": lambda hub, _: hub.close_senders(),
    "the end": lambda hub, _: end(hub),
}


def end(hub: AnyHub) -> None:
    assert isinstance(hub, dss.PolledHub)
    hub.close()


def once_ended(
    end: Callable[[AnyHub, Portal], None], call: Callable[[Portal], BaseException]
) -> Case:
    def act(hub: AnyHub, portal: Portal) -> BaseException:
        end(hub, portal)
        return call(portal)

    return act


CALLS: dict[str, Callable[[Portal], BaseException]] = {
    "send": lambda portal: error(portal.send, 1),
    "send_nowait": lambda portal: error(portal.send_nowait, 1),
    "send_many": lambda portal: error(portal.send_many, [1]),
    "request": lambda portal: error(portal.request, 1),
    "request_soon": lambda portal: error(portal.request_soon, 1),
    "request_callback": lambda portal: error(portal.request_callback(timeout=1), 1),
    "call": lambda portal: error(portal.call, int),
    "call_within": lambda portal: error(portal.call_within, 1, int),
    "start_task_soon": lambda portal: error(portal.start_task_soon, int),
    "start_task": lambda portal: error(portal.start_task, coroutine_function),
    "clone": lambda portal: error(portal.clone),
}


def unanswered(hub: AnyHub, portal: Portal, settle: Callable[[Any], object]) -> BaseException:
    """What the asker gets after *settle* has had the request."""
    assert isinstance(hub, dss.PolledHub)
    future = portal.request_soon("question")
    settle(hub)
    exc = future.exception(5)
    assert exc is not None
    return exc


def leave_block(hub: dss.PolledHub[Any], exc: BaseException | None = None) -> None:
    with contextlib.suppress(ValueError):
        for request in hub.poll():
            with request:
                if exc is not None:
                    raise exc


def fails(*_: object) -> Any:
    raise ValueError("this fails")


def fails_shortly() -> None:
    raise ValueError("x")


def converted(hub: AnyHub, portal: Portal) -> BaseException:
    assert isinstance(hub, dss.PolledHub)
    caught: list[BaseException] = []
    ask = portal.request_callback(timeout=5, convert=fails)
    with threads(lambda: caught.append(error(ask, 1))) as [thread]:
        while thread.is_alive():
            hub.wait(0.01)
            for request in hub.poll():
                request.reply("answer")
    return caught[0]


WITH_A_PORTAL: dict[str, Case] = {
    "send_nowait, full": lambda hub, portal: full(hub, portal, portal.send_nowait, 1),
    "send, no room in time": lambda hub, portal: full(
        hub, portal, lambda: portal.send(1, timeout=0.01)
    ),
    "send_many, no room in time": lambda hub, portal: full(
        hub, portal, lambda: portal.send_many([1, 2], timeout=0.01)
    ),
    "send, own thread": lambda hub, portal: in_own_thread(hub, portal.send, 1),
    "send_many, own thread": lambda hub, portal: (fill(hub.portal), error(portal.send_many, [1]))[
        1
    ],
    "request, own thread": lambda _, portal: error(portal.request, 1),
    "call, own thread": lambda _, portal: error(portal.call, int),
    "call_within, own thread": lambda _, portal: error(portal.call_within, 1, int),
    "request, no answer in time": lambda _, portal: abroad(portal.request, 1, timeout=0.01),
    "call_within, no answer in time": lambda _, portal: abroad(portal.call_within, 0.01, int),
    "request_callback, no answer in time": lambda _, portal: abroad(
        portal.request_callback(timeout=0.01), 1
    ),
    "start_task, polled": lambda _, portal: abroad(portal.start_task, coroutine_function),
    "request, pack fails": lambda _, portal: error(portal.request_callback(fails, timeout=1), 1),
    "request, convert fails": converted,
    "request, forgotten": lambda hub, portal: unanswered(
        hub, portal, lambda hub: (hub.poll().clear(), gc.collect())
    ),
    "request, block left": lambda hub, portal: unanswered(hub, portal, leave_block),
    "request, block left with an exception": lambda hub, portal: unanswered(
        hub, portal, lambda hub: leave_block(hub, ValueError())
    ),
    "request, hub closed": lambda hub, portal: unanswered(hub, portal, lambda hub: hub.close()),
    "request, portal aborted": lambda hub, portal: unanswered(
        hub, portal, lambda _: portal.abort()
    ),
    **{
        f"{call}, after {end}": once_ended(ENDS[end], CALLS[call]) for call in CALLS for end in ENDS
    },
}


WHOSE: dict[str, tuple[str | None, Callable[[Any], object] | None]] = {
    "hub.portal": (None, None),
    "a source": ("mic", None),
    "a source with on_undelivered": ("mic", lambda _: None),
}


@pytest.mark.parametrize("whose", WHOSE)
@pytest.mark.parametrize("name", [None, "audio"])
@pytest.mark.parametrize("case", WITH_A_PORTAL)
def test_an_error_in_a_portal_names_the_hub_and_the_source_and_is_true(
    case: str, name: str | None, whose: str
) -> None:
    source, on_undelivered = WHOSE[whose]
    with dss.open_polled_hub[Any](2, name=name, on_error=lambda *_: None) as hub:
        keeps_it_open = hub.portal.clone()
        portal = hub.portal
        if source is not None:
            portal = hub.register(source, on_undelivered=on_undelivered)
        said = str(WITH_A_PORTAL[case](hub, portal))
        keeps_it_open.close()
    assert (f"hub {name!r}" if name else hub.name) in said
    assert source is None or f"source {source!r}" in said
    if on_undelivered is None:
        assert "on_undelivered" not in said
    # There is no event loop, so nothing can be awaited, or be a task.
    assert "await" not in said
    assert "hub.task_group" not in said


@pytest.mark.parametrize("own", [None, 0, 2])
@pytest.mark.parametrize("hubs", [0, 2])
def test_an_error_for_want_of_room_says_whose_room_that_is(hubs: int, own: int | None) -> None:
    with dss.open_polled_hub[Any](hubs, name="audio") as hub:
        portal = hub.register("mic", max_buffer_size=own)
        fill(portal)
        said = str(error(portal.send_nowait, 1))
    if own == 0 or (own is None and hubs == 0):
        whose = "its" if own is None else "the source's own"
        assert f"nobody is waiting to receive in hub 'audio', and {whose} max_buffer_size" in said
    elif own is None:
        assert "hub 'audio' holds 2 items already" in said
    else:
        assert "2 items of source 'mic' in hub 'audio' are queued already" in said
    assert "source 'mic'" in said


FEED: dict[str, Callable[[AnyHub, dss.Feed[int]], BaseException]] = {
    "send_nowait, full": lambda _, feed: (feed.send_nowait(1), error(feed.send_nowait, 2))[1],
    "take_nowait, empty": lambda _, feed: error(feed.take_nowait),
    "take, nothing in time": lambda _, feed: abroad(feed.take, timeout=0.01),
    "take, own thread": lambda _, feed: error(feed.take),
    "take, closed": lambda _, feed: (feed.close(), error(feed.take))[1],
    "send_nowait, closed": lambda _, feed: (feed.close(), error(feed.send_nowait, 1))[1],
    "take, after the end": lambda hub, feed: (hub.close(), error(feed.take))[1],
    "send_nowait, after the end": lambda hub, feed: (hub.close(), error(feed.send_nowait, 1))[1],
    "open_feed, after the end": lambda hub, _: (hub.close(), error(hub.open_feed, 1, name="out"))[
        1
    ],
}


@pytest.mark.parametrize("name", [None, "audio"])
@pytest.mark.parametrize("case", FEED)
def test_an_error_in_a_feed_names_the_hub_and_the_feed(case: str, name: str | None) -> None:
    with dss.open_polled_hub[Any](name=name) as hub:
        said = str(FEED[case](hub, hub.open_feed(1, name="out")))
    assert (f"hub {name!r}" if name else hub.name) in said
    assert "'out'" in said


POLLED: dict[str, Callable[[dss.PolledHub[Any]], BaseException]] = {
    "poll, after the end": lambda hub: (hub.close(), error(hub.poll))[1],
    "dispatch, after the end": lambda hub: (hub.close(), error(hub.dispatch, print))[1],
    "wait, after the end": lambda hub: (hub.close(), error(hub.wait))[1],
    "fileno, after the end": lambda hub: (hub.close(), error(hub.fileno))[1],
    "poll, no senders": lambda hub: (hub.close_senders(), error(hub.poll))[1],
    "no such source": lambda hub: error(hub.source, "mic"),
    "no such api": lambda hub: error(hub.api, "3.0"),
    "registered twice": lambda hub: (hub.register("mic"), error(hub.register, "mic"))[1],
}


@pytest.mark.parametrize("case", POLLED)
def test_an_error_of_a_polled_hub_names_it_and_speaks_of_no_event_loop(case: str) -> None:
    with dss.open_polled_hub[Any](name="audio") as hub:
        said = str(POLLED[case](hub))
    assert "hub 'audio'" in said
    assert not re.search("event loop|await|task|receive from a clone", said)


# -- Hubs in an event loop -------------------------------------------------------------------------


async def no_senders(hub: dss.Hub[Any]) -> BaseException:
    hub.close_senders()
    return await awaited(hub.receive)


async def end_closed(hub: dss.Hub[Any]) -> BaseException:
    with hub.clone() as clone:
        pass
    return await awaited(clone.receive)


async def asend_closed(hub: dss.Hub[Any]) -> BaseException:
    with hub.register("mic") as portal:
        pass
    return await awaited(portal.asend, 1)


async def arequest_unanswered(hub: dss.Hub[Any]) -> BaseException:
    portal = hub.register("mic")
    hub.task_group.start_soon(forget_all, hub)
    return await awaited(portal.arequest, 1)


async def forget_all(hub: dss.Hub[Any]) -> None:
    async for item in hub:
        del item
        gc.collect()


async def in_its_own_thread(hub: dss.Hub[Any]) -> BaseException:
    return error(hub.register("mic").request, 1)


async def opened_twice(hub: dss.Hub[Any]) -> BaseException:
    return await awaited(hub.__aenter__)


async def nothing_there(hub: dss.Hub[Any]) -> BaseException:
    return error(hub.receive_nowait)


async def block_left(hub: dss.Hub[Any]) -> BaseException:
    async with hub.open_source("mic", lambda portal: portal, lambda _: None) as source:
        pass
    return error(source.portal.send, 1)


IN_A_LOOP: dict[str, tuple[Callable[[dss.Hub[Any]], Any], type[BaseException], str]] = {
    "receive, no senders": (no_senders, EndOfStream, ""),
    "receive, this end closed": (end_closed, ClosedResourceError, "clone made before"),
    "receive_nowait, nothing there": (nothing_there, WouldBlock, "receive() to wait"),
    "asend, closed": (asend_closed, ClosedResourceError, "source 'mic'"),
    "arequest, forgotten": (arequest_unanswered, dss.NoReplyError, "arequest() of source 'mic'"),
    "request, own thread": (in_its_own_thread, RuntimeError, "await portal.arequest(item)"),
    "opened twice": (opened_twice, RuntimeError, "open_hub() again"),
    "send, block of the source left": (block_left, ClosedResourceError, "block was left"),
}


@pytest.mark.anyio
@pytest.mark.parametrize("case", IN_A_LOOP)
async def test_an_error_of_a_hub_in_a_loop_names_it_and_the_remedy(case: str) -> None:
    act, kind, remedy = IN_A_LOOP[case]
    async with dss.open_hub[Any](name="audio") as hub:
        exc = await act(hub)
    assert type(exc) is kind
    assert "hub 'audio'" in str(exc)
    assert remedy in str(exc)
    assert "poll" not in str(exc)


@pytest.mark.anyio
async def test_a_hub_that_is_not_open_says_whether_it_was() -> None:
    hub = dss.open_hub[Any](name="audio")
    assert "hub 'audio' is not open yet" in str(error(lambda: hub.task_group))
    async with hub:
        pass
    assert "hub 'audio' is not open any more" in str(error(lambda: hub.task_group))


@pytest.mark.anyio
async def test_what_receives_outside_of_the_block_is_told_where_to_receive() -> None:
    """Its task group encloses the hub, so it goes on when the block is left."""
    caught: list[BaseException] = []

    async def consume(hub: dss.Hub[Any], how: str) -> None:
        async def iterate() -> None:
            async for _ in hub:
                pass

        caught.append(
            await {
                "receive": lambda: awaited(hub.receive),
                "receive_many": lambda: awaited(hub.receive_many),
                "iterate": lambda: awaited(iterate),
                "serve": lambda: awaited(hub.serve, print),
            }[how]()
        )

    async with anyio.create_task_group() as around:
        async with dss.open_hub[Any](name="audio") as hub:
            for how in ("receive", "receive_many", "iterate", "serve"):
                around.start_soon(consume, hub, how)
            await eventually(lambda: hub.statistics().tasks_waiting_receive == 4)
    caught.append(await awaited(hub.receive))
    assert len(caught) == 5
    for exc in caught:
        assert isinstance(exc, ClosedResourceError)
        assert "hub 'audio' has ended" in str(exc)
        assert "hub.task_group" in str(exc)
        assert "close_senders()" in str(exc)
        assert "clone" not in str(exc)


# -- Receiving in a wrong place --------------------------------------------------------------------

ELSEWHERE: dict[str, Callable[[dss.Hub[Any]], Any]] = {
    "receive": lambda hub: hub.receive(),
    "receive_many": lambda hub: hub.receive_many(),
    "serve": lambda hub: hub.serve(print),
    "async for": lambda hub: iterated(hub),
}


async def iterated(hub: dss.Hub[Any]) -> None:
    async for _ in hub:
        pass


@pytest.mark.anyio
@pytest.mark.parametrize("there", [False, True], ids=["nothing there", "an item there"])
@pytest.mark.parametrize("other", BACKENDS.values(), ids=BACKENDS)
@pytest.mark.parametrize("how", ELSEWHERE)
async def test_to_receive_in_another_event_loop_is_refused_at_once(
    how: str, other: Any, there: bool
) -> None:
    name, options = other

    async def main() -> BaseException:
        with anyio.fail_after(5):
            return await awaited(ELSEWHERE[how], hub)

    async with dss.open_hub[Any](name="audio") as hub:
        if there:
            hub.portal.send("an item")
        exc = elsewhere(lambda: anyio.run(main, backend=name, backend_options=options))
        assert isinstance(exc, RuntimeError)
        assert "hub 'audio'" in str(exc)
        assert "hub.portal.call(hub.receive)" in str(exc)
        assert len(hub) == there


@pytest.mark.anyio
async def test_to_receive_in_a_plain_thread_is_refused_at_once_and_the_remedy_works() -> None:
    async with dss.open_hub[Any](name="audio") as hub, hub.clone() as clone:
        hub.portal.send("an item")
        for receiver in (hub, clone):
            for call in (receiver.receive_nowait, receiver.__aiter__):
                exc = abroad(call)
                assert isinstance(exc, RuntimeError)
                assert "hub 'audio'" in str(exc)
                assert threading.current_thread().name in str(exc)
        received: list[Any] = []
        thread = threading.Thread(target=lambda: received.append(hub.portal.call(hub.receive)))
        thread.start()
        await eventually(lambda: received == ["an item"])
        thread.join()


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_to_receive_in_another_loop_of_the_same_thread_is_refused_at_once(loop: str) -> None:
    """It would sleep there, and whoever sends would wake the other loop."""
    if loop == "uvloop":
        loops: Any = pytest.importorskip("uvloop")
        one, other = loops.new_event_loop(), loops.new_event_loop()
    else:
        one, other = asyncio.new_event_loop(), asyncio.new_event_loop()

    async def opened() -> dss.Hub[Any]:
        return await dss.open_hub[Any](name="audio").__aenter__()

    async def closed(hub: dss.Hub[Any]) -> None:
        await hub.__aexit__(None, None, None)

    hub = one.run_until_complete(opened())
    assert isinstance(error(hub.receive_nowait), WouldBlock), "a plain function needs no loop"
    for how, receive in ELSEWHERE.items():
        exc = other.run_until_complete(asyncio.wait_for(awaited(receive, hub), 5))
        assert isinstance(exc, RuntimeError), how
        assert "event loop" in str(exc)
    one.run_until_complete(closed(hub))
    assert isinstance(other.run_until_complete(awaited(hub.receive)), ClosedResourceError)
    one.close()
    other.close()


# -- The end, and what nobody waits for ------------------------------------------------------------


def never_ends(forever: threading.Event) -> None:
    forever.wait(10)


@pytest.mark.anyio
async def test_what_goes_wrong_at_the_end_names_the_hub_and_the_source() -> None:
    forever = threading.Event()
    with pytest.raises(ExceptionGroup, match="errors at the end of audio") as caught:
        async with dss.open_hub[Any](name="audio") as hub:
            hub.register("mic", stop=fails)
            hub.register("slow", stop=forever.wait, stop_timeout=0.02)
            with pytest.raises(ExceptionGroup, match="errors at the end of audio") as inner:
                async with hub.open_source("speaker", lambda _: None, fails):
                    pass
    forever.set()
    slow, failed = caught.value.exceptions
    assert "stopping source 'slow' in hub 'audio' takes longer than" in str(slow)
    if sys.version_info >= (3, 11):
        assert failed.__notes__ == ["in stop of source 'mic' in hub 'audio'"]
        assert inner.value.exceptions[0].__notes__ == ["in stop of source 'speaker' in hub 'audio'"]
    assert str(failed) == "this fails"


def test_an_error_of_a_stop_that_ctrl_c_overtakes_is_told_with_the_name_of_its_source() -> None:
    told: list[tuple[str, str | None]] = []
    with pytest.raises(KeyboardInterrupt):
        with dss.open_polled_hub[Any](on_error=lambda exc, of: told.append((str(exc), of))) as hub:
            hub.register("mic", stop=fails)
            raise KeyboardInterrupt
    assert told == [("this fails", "mic")]


@pytest.mark.leaves_something
def test_what_is_logged_names_the_hub_and_the_source(caplog: pytest.LogCaptureFixture) -> None:
    with dss.open_polled_hub[Any](name="audio") as hub:
        hub.register("mic").send_callback(fails)()
        hub.portal.send_callback(fails)()
        hub.poll()
        hub.poll()
    forgotten = dss.open_polled_hub[Any](name="tv")
    forgotten.register("camera", stop=fails_shortly)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        del forgotten
        gc.collect()
    assert str(warned[0].message).startswith("Unclosed <PolledHub 'tv'")
    until(lambda: len(caplog.records) == 3)
    assert [each.getMessage() for each in caplog.records] == [
        "error in source 'mic' in hub 'audio': ValueError('this fails')",
        "error in hub 'audio': ValueError('this fails')",
        (
            "error at the end of source 'camera' in hub 'tv', for which no caller waits: "
            "ValueError('x')"
        ),
    ]


@pytest.mark.anyio
async def test_an_error_in_a_handler_is_told_with_the_name_of_the_source_of_its_item() -> None:
    told: list[tuple[str, str | None]] = []

    async def later(item: Any) -> None:
        await anyio.sleep(0)
        fails()

    async def cancelled(item: Any) -> None:
        task = asyncio.ensure_future(asyncio.sleep(10))
        await asyncio.sleep(0)
        task.cancel()
        await task

    handlers: list[Any] = [fails, later]
    if sys.version_info >= (3, 11) and "asyncio" in repr(
        type(anyio.lowlevel.current_token().native_token)
    ):
        handlers.append(cancelled)
    for handler in handlers:
        told.clear()
        async with dss.open_hub[Any](
            name="audio", on_error=lambda exc, of: told.append((str(exc), of))
        ) as hub:
            hub.task_group.start_soon(hub.serve, handler)
            hub.portal.send(1)
            await eventually(lambda: len(told) == 1)
            hub.register("mic").send(2)
            await eventually(lambda: len(told) == 2)
        assert [of for _, of in told] == [None, "mic"], handler
    if len(handlers) == 3:
        assert "item of hub 'audio' was cancelled" in told[0][0]
        assert "item of source 'mic' in hub 'audio' was cancelled" in told[1][0]


@pytest.mark.anyio
async def test_with_raise_errors_the_exception_of_a_handler_notes_whose_item_it_was() -> None:
    with pytest.raises(ExceptionGroup) as caught:
        async with dss.open_hub[Any](name="audio") as hub:
            hub.register("mic").send(1)
            await hub.serve(fails, raise_errors=True)
    exc: BaseException = caught.value
    while isinstance(exc, BaseExceptionGroup):
        (exc,) = exc.exceptions
    if sys.version_info >= (3, 11):
        assert exc.__notes__ == ["in the handler of an item of source 'mic' in hub 'audio'"]


# -- The block of a request ------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["with", "async with"])
@pytest.mark.anyio
async def test_who_asks_gets_what_left_the_block_of_the_request_as_the_cause(how: str) -> None:
    async def handle(request: dss.Request[Any], exc: BaseException | None) -> None:
        if how == "with":
            with request:
                if exc is not None:
                    raise exc
        else:
            async with request:
                if exc is not None:
                    raise exc

    async with dss.open_hub[Any](name="audio") as hub:
        portal = hub.register("mic")
        for exc in (ValueError("why"), KeyboardInterrupt("why"), None):
            future = portal.request_soon(1)
            request = await hub.receive()
            if exc is None:
                await handle(request, None)
            else:
                assert await awaited(handle, request, exc) is exc
            error = future.exception(5)
            assert type(error) is dss.NoReplyError
            assert "request_soon() of source 'mic' in hub 'audio' got no reply" in str(error)
            cause = error.__cause__
            assert type(cause) is type(exc) if exc is not None else cause is None
            if exc is not None:
                assert cause is not exc, "each thread has one of its own"
                assert str(cause) == "why"
                assert f"was left with {type(exc).__name__}" in str(error)


@pytest.mark.anyio
async def test_no_cancellation_of_a_loops_leaves_it_as_the_cause() -> None:
    async def handle(request: dss.Request[Any]) -> None:
        async with request:
            await anyio.sleep_forever()

    async with dss.open_hub[Any]() as hub:
        future = hub.portal.request_soon(1)
        request = await hub.receive()
        with anyio.move_on_after(0.01):
            await handle(request)
        error = future.exception(5)
        assert type(error) is dss.NoReplyError
        assert error.__cause__ is None
        assert "was cancelled" in str(error)


@pytest.mark.anyio
async def test_a_request_that_was_answered_stays_so_however_its_block_is_left() -> None:
    async with dss.open_hub[Any]() as hub:
        future = hub.portal.request_soon(1)
        with pytest.raises(ValueError, match="why"), await hub.receive() as request:
            request.reply("answer")
            raise ValueError("why")
        assert future.result(5) == "answer"
