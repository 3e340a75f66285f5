"""The versions of the API, spoken by bindings that import nothing of ours."""

from __future__ import annotations

import gc
import re
import signal
import sys
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import anyio
import pytest
from bytecodes import run_interrupted
from conftest import registered
from test_datagram import udp_socket

import dss_anyio as dss
from dss_anyio._darksidesync import delivering as _delivering
from dss_anyio.testing import threads, until

pytestmark = pytest.mark.anyio

# -- A binding of each kind. Neither needs an import; what they are given says what it has. --------


class TheirApi(Protocol):
    """DarkSideSync 1.0, as the author of a binding has written it down."""

    DSS_SUCCESS: int

    def register(
        self, libid: object, cancel: Callable[[Any], object]
    ) -> tuple[object | None, int]: ...

    def deliver(
        self,
        utilid: object,
        decode: Callable[[Any, Any, Any], Any],
        return_: Callable[[Any, Any, Any, bool, Any], object] | None = None,
        data: Any = None,
    ) -> int: ...

    def unregister(self, utilid: object) -> int: ...


class OldBinding:
    """As a binding of DarkSideSync 1.0 is written: with functions for each delivery, and codes."""

    def __init__(self, api: TheirApi, libid: object = "old") -> None:
        self.api = api
        self.calls: list[tuple[Any, ...]] = []  # of decode, return_ and cancel
        self.lock = threading.Lock()
        self.utilid, self.code = api.register(libid, self.cancel)

    def called(self, *call: Any) -> None:
        with self.lock:
            self.calls.append(call)

    def cancel(self, utilid: object) -> None:
        self.called("cancel", utilid is self.utilid, threading.current_thread().name)
        self.called("unregistered", self.api.unregister(utilid))

    def decode(self, hub: Any, data: Any, utilid: object) -> Any:
        assert utilid is self.utilid
        self.called("decode", hub is not None, data)
        if isinstance(data, Exception) and hub is not None:
            raise data
        return None if data is None else f"decoded {data}"

    def return_(self, hub: Any, data: Any, utilid: object, garbage: bool, value: Any) -> None:
        assert utilid is self.utilid
        self.called("return", hub is not None, data, garbage, value)

    def deliver(self, data: Any) -> int:
        return self.api.deliver(self.utilid, self.decode, None, data)

    def ask(self, data: Any) -> int:
        return self.api.deliver(self.utilid, self.decode, self.return_, data)


class NewBinding:
    """Of the same library, for API 2.0."""

    def __init__(self, api: dss.Api2[Any]) -> None:
        self.portal = api.register("new", decode=self.decode)

    def decode(self, data: str) -> str:
        return f"decoded {data}"

    def ask(self, data: str) -> Any:
        return self.portal.request(data, timeout=10)


@contextmanager
def polled(**options: Any) -> Iterator[tuple[dss.PolledHub[Any], OldBinding]]:
    with dss.open_polled_hub[Any](**options) as hub:
        binding = OldBinding(hub.api("1.0"))
        assert binding.code == -100
        yield hub, binding


def in_a_thread(func: Callable[..., Any], *args: Any) -> tuple[threading.Thread, list[Any]]:
    results: list[Any] = []
    thread = threading.Thread(target=lambda: results.append(func(*args)), daemon=True)
    thread.start()
    return thread, results


def ended(thread: threading.Thread) -> bool:
    thread.join(10)
    return not thread.is_alive()


def the_request(hub: dss.PolledHub[Any]) -> dss.Request[Any]:
    """Wait for a request, and take it."""
    assert hub.wait(10)
    request = hub.poll().pop()
    assert isinstance(request, dss.Request)
    return request


def is_settled(hub: dss.PolledHub[Any] | dss.Hub[Any]) -> bool:
    """Does everything add up that was delivered and asked?"""
    counts = hub.statistics()
    return not (counts.queued or counts.requests.open or hub.blocked())


# -- versions --------------------------------------------------------------------------------------


def test_a_version_that_does_not_exist_is_refused_with_those_that_do() -> None:
    with dss.open_polled_hub() as hub:
        for version in ("1", "3.0", "", 1.0, None):
            with pytest.raises(LookupError, match=r"'1\.0' and '2\.0'"):
                hub.api(version)  # type: ignore[call-overload]


def test_each_version_is_one_object() -> None:
    with dss.open_polled_hub() as hub:
        assert hub.api("2.0") is hub
        assert hub.api("1.0") is hub.api("1.0")
        assert hub.api("1.0").version == "DSS API 1v0"


def test_the_codes_are_those_of_darksidesync_with_warnings_above_success_and_errors_below() -> None:
    with dss.open_polled_hub() as hub:
        api = hub.api("1.0")
        codes = {name: getattr(api, name) for name in dir(api) if name.startswith("DSS_")}
        assert codes == {
            "DSS_ERR_UDP_SEND_FAILED": -99,
            "DSS_SUCCESS": -100,
            "DSS_ERR_INVALID_UTILID": -101,
            "DSS_ERR_NOT_STARTED": -102,
            "DSS_ERR_NO_CANCEL_PROVIDED": -103,
            "DSS_ERR_OUT_OF_MEMORY": -104,
            "DSS_ERR_NO_DECODE_PROVIDED": -105,
            "DSS_ERR_NO_GLOBALS": -106,
            "DSS_ERR_UNKNOWN_LIB": -107,
            "DSS_ERR_ALREADY_REGISTERED": -108,
        }


async def test_bindings_of_both_kinds_use_one_hub_side_by_side(anyio_backend: Any) -> None:
    seen: list[Any] = []

    async def handler(item: Any) -> str:
        seen.append(item)
        await anyio.lowlevel.checkpoint()
        return f"answer to {item}"

    async with dss.open_hub[Any]() as hub:
        old = OldBinding(hub.api("1.0"))
        new = NewBinding(hub.api("2.0"))
        hub.task_group.start_soon(hub.serve, handler)
        codes: list[int] = []
        answers: list[Any] = []

        def use_old() -> None:
            codes.extend([old.deliver("item"), old.ask("question")])

        def use_new() -> None:
            new.portal.send("item")
            answers.append(new.ask("question"))

        def use_both() -> None:
            with threads(use_old, use_new):
                pass

        await anyio.to_thread.run_sync(use_both)
        assert codes == [-100, -100]
        assert answers == ["answer to decoded question"]
        assert sorted(seen) == ["decoded item"] * 2 + ["decoded question"] * 2
        assert old.calls[-1] == ("return", True, "question", False, "answer to decoded question")
        assert hub.statistics().sources["old"].received == 2
        assert hub.statistics().sources["new"].received == 2
        assert is_settled(hub)
        new.portal.close()
    assert [call[0] for call in old.calls[-2:]] == ["cancel", "unregistered"]


def test_both_hubs_have_what_a_binding_is_promised() -> None:
    """That is what type checkers compare, too; here it is seen that nothing is missing."""
    with dss.open_polled_hub() as hub:
        api = hub.api("1.0")
    for protocol, made in [
        (dss.Api1, type(api)),
        (dss.Api2, dss.Hub),
        (dss.Api2, dss.PolledHub),
        (dss.ApiPortal, dss.Portal),
    ]:
        promised = {name for name in vars(protocol) if not name.startswith("_")}
        promised |= set(vars(protocol).get("__annotations__", {})) - {"__doc__"}
        assert promised
        assert not {name for name in promised if not hasattr(made, name)}


# What an author of a binding, or of a Lua program, has seen in DarkSideSync 1.0, and looks up here.
THEIR_NAMES = {
    "darksidesync_api.h": """
        DSS_VERSION DSS_REGISTRY_NAME DSS_VERSION_KEY DSS_API_1v0_KEY
        DSS_decoder_1v0_t DSS_return_1v0_t DSS_cancel_1v0_t
        DSS_deliver_1v0_t DSS_getutilid_1v0_t DSS_register_1v0_t DSS_unregister_1v0_t
        DSS_api_1v0_t pDSS_api_1v0_t DSS_api_1v0_s version reg getutilid deliver unreg
        DSS_SUCCESS DSS_ERR_INVALID_UTILID DSS_ERR_UDP_SEND_FAILED DSS_ERR_NOT_STARTED
        DSS_ERR_NO_CANCEL_PROVIDED DSS_ERR_OUT_OF_MEMORY DSS_ERR_NO_DECODE_PROVIDED
        DSS_ERR_NO_GLOBALS DSS_ERR_UNKNOWN_LIB DSS_ERR_ALREADY_REGISTERED
        """,
    "darksidesync.c": """
        DSS_register_1v0 DSS_getutilid_1v0 DSS_deliver_1v0 DSS_unregister_1v0
        darksidesync.poll darksidesync.getport darksidesync.setport darksidesync.queuesize
        waitingthread_callback
        """,
    "darksidesync_aux.h": "DSS_LibID DSSapi",
    "darksidesync_aux.c": "DSS_initialize DSS_getutilid DSS_deliver DSS_shutdown",
    "dss.lua": "dss.getsocket dss.gethandler dss.queuesize dss.seterrorhandler",
    "before 1.0": "getdata setdata setresults",
}


def test_each_name_of_darksidesync_stands_on_the_page_for_those_who_come_from_there() -> None:
    page = (Path(__file__).parent.parent / "docs" / "porting.md").read_text(encoding="utf-8")
    prose = re.sub(r"```.*?```", "", page, flags=re.DOTALL)
    known = set(re.findall(r"[\w.]+", " ".join(re.findall(r"`([^`]+)`", prose))))
    missing = {
        name for names in THEIR_NAMES.values() for name in names.split() if name not in known
    }
    assert missing == set()
    assert {file for file in THEIR_NAMES if file != "before 1.0"} <= known


# -- register, getutilid, unregister ---------------------------------------------------------------


def test_a_library_is_registered_once_and_found_by_its_libid() -> None:
    with dss.open_polled_hub() as hub:
        api = hub.api("1.0")
        libid = object()
        assert api.getutilid(libid) == (None, api.DSS_ERR_UNKNOWN_LIB)
        utilid, code = api.register(libid, print)
        assert utilid is not None
        assert code == api.DSS_SUCCESS
        assert api.getutilid(libid) == (utilid, api.DSS_SUCCESS)
        assert api.register(libid, print) == (utilid, api.DSS_ERR_ALREADY_REGISTERED)
        assert registered(hub) == [repr(libid)]
        assert api.unregister(utilid) == api.DSS_SUCCESS
        assert api.getutilid(libid) == (None, api.DSS_ERR_UNKNOWN_LIB)
        assert not registered(hub)


def test_a_library_needs_a_cancel_function() -> None:
    with dss.open_polled_hub() as hub:
        api = hub.api("1.0")
        assert api.register("lib", None) == (None, api.DSS_ERR_NO_CANCEL_PROVIDED)
        assert not registered(hub)


def test_a_name_that_a_source_of_api_2_has_is_taken() -> None:
    with dss.open_polled_hub() as hub, hub.register("lib"):
        api = hub.api("1.0")
        assert api.register("lib", print) == (None, api.DSS_ERR_ALREADY_REGISTERED)


def test_after_it_was_unregistered_a_library_can_be_registered_anew() -> None:
    with polled() as (hub, first):
        api = hub.api("1.0")
        assert api.unregister(first.utilid) == api.DSS_SUCCESS
        assert api.unregister(first.utilid) == api.DSS_ERR_INVALID_UTILID
        assert first.deliver(1) == api.DSS_ERR_INVALID_UTILID
        second = OldBinding(api)
        assert second.code == api.DSS_SUCCESS
        assert api.unregister(first.utilid) == api.DSS_ERR_INVALID_UTILID
        assert api.getutilid("old") == (second.utilid, api.DSS_SUCCESS)


def test_a_utilid_whose_portal_was_closed_is_invalid_and_makes_room_for_a_new_one() -> None:
    with polled() as (hub, first):
        api = hub.api("1.0")
        hub.source("old").close()
        assert first.deliver(1) == api.DSS_ERR_INVALID_UTILID
        second = OldBinding(api)
        assert api.unregister(first.utilid) == api.DSS_SUCCESS
        assert api.getutilid("old") == (second.utilid, api.DSS_SUCCESS)


def test_one_library_may_be_registered_with_several_hubs() -> None:
    """DarkSideSync has one API for all Lua states; its bindings keep it in a static variable."""
    with dss.open_polled_hub() as one, dss.open_polled_hub() as other:
        here, there = OldBinding(one.api("1.0")), OldBinding(other.api("1.0"))
        assert one.api("1.0").deliver(there.utilid, there.decode, None, 1) == -100
        assert one.poll() == []
        assert other.poll() == ["decoded 1"]
        assert one.api("1.0").unregister(there.utilid) == -100
        assert here.deliver(2) == -100


def test_what_is_no_utilid_is_invalid() -> None:
    with dss.open_polled_hub() as hub:
        api = hub.api("1.0")
        for utilid in (None, 0, "old", hub.portal):
            assert api.deliver(utilid, print) == api.DSS_ERR_INVALID_UTILID
            assert api.unregister(utilid) == api.DSS_ERR_INVALID_UTILID


def test_unregistering_takes_back_what_is_queued_and_releases_who_waits() -> None:
    with polled() as (hub, binding):
        asked_before, _ = in_a_thread(binding.ask, "received")
        request = the_request(hub)
        binding.deliver("queued")
        asked, codes = in_a_thread(binding.ask, "asked")
        until(lambda: len(hub.blocked()) == 2)
        assert hub.api("1.0").unregister(binding.utilid) == -100
        # Now, and not later: a library may be unloaded after it was unregistered.
        assert sorted(binding.calls) == sorted(
            [
                ("decode", True, "received"),
                ("decode", False, "queued"),
                ("decode", False, "asked"),
                ("return", False, "received", False, None),
            ]
        )
        assert ended(asked) and ended(asked_before)
        assert codes == [-100]
        assert request.abandoned
        assert request.reply("too late") is False
        assert hub.poll() == []
        assert len(binding.calls) == 4
        counts = hub.statistics()
        assert counts.requests.released == 2
        assert counts.sent == counts.received + counts.undelivered == 3


def test_unregistering_does_not_return_while_a_function_runs_elsewhere() -> None:
    decoding, go_on = threading.Event(), threading.Event()
    over: list[bool] = []

    def decode(hub: Any, data: Any, utilid: object) -> None:
        decoding.set()
        assert go_on.wait(10)
        over.append(True)

    with polled() as (hub, binding):
        api = hub.api("1.0")

        def library() -> tuple[int, list[bool]]:
            api.deliver(binding.utilid, decode)
            assert decoding.wait(10)
            return api.unregister(binding.utilid), list(over)

        thread, seen = in_a_thread(library)
        until(lambda: hub.statistics().queued)
        poller, _ = in_a_thread(hub.poll)
        until(lambda: line_in(thread.ident, "_wait_until_left"))
        assert thread.is_alive()
        go_on.set()
        assert ended(thread) and ended(poller)
        assert seen == [(-100, [True])]


def test_unregistering_in_the_hubs_thread_waits_for_the_last_call_of_who_was_released() -> None:
    over: list[bool] = []
    main = threading.get_ident()

    def return_(hub: Any, data: Any, utilid: object, garbage: bool, value: Any) -> None:
        until(lambda: line_in(main, "_wait_until_left"))
        over.append(True)

    with polled() as (hub, binding):
        api = hub.api("1.0")
        thread, _ = in_a_thread(api.deliver, binding.utilid, binding.decode, return_, 1)
        request = the_request(hub)
        assert api.unregister(binding.utilid) == api.DSS_SUCCESS
        assert over == [True]
        assert ended(thread)
        assert request.abandoned


def test_unregistering_ends_what_was_cloned_from_the_portal_as_well() -> None:
    with polled() as (hub, binding):
        clone = hub.source("old").clone()
        assert hub.api("1.0").unregister(binding.utilid) == -100
        assert clone.offer(1) is False
        assert not registered(hub)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for himself waits twice as long as a test allows; nobody else takes half of it."""
    monkeypatch.setattr(_delivering, "LEAVE_TIMEOUT", 20.0)


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("where", ["decode", "return"])
def test_a_function_may_unregister_its_own_library(where: str) -> None:
    codes: list[int] = []

    def decode(hub: Any, data: Any, utilid: object) -> str:
        if where == "decode" and hub is not None:
            codes.append(api.unregister(utilid))
        return "item"

    def return_(hub: Any, data: Any, utilid: object, garbage: bool, value: Any) -> None:
        if where == "return":
            codes.append(api.unregister(utilid))

    with polled() as (hub, binding):
        api = hub.api("1.0")
        thread, _ = in_a_thread(api.deliver, binding.utilid, decode, return_)
        begun = time.monotonic()
        the_request(hub).reply(1)
        assert time.monotonic() - begun < 10, "it has waited for itself"
        assert ended(thread)
        assert codes == [api.DSS_SUCCESS]


def line_in(thread: int | None, function: str) -> int | None:
    """The line of *function* that the thread is at; None if it is not in there."""
    frame = sys._current_frames().get(thread or 0)
    while frame is not None:
        if frame.f_code.co_name == function:
            return frame.f_lineno
        frame = frame.f_back
    return None


# -- deliver, without an answer --------------------------------------------------------------------


def test_what_is_delivered_comes_out_as_decode_makes_it_in_the_hubs_thread() -> None:
    hubs: list[Any] = []

    def decode(hub: Any, data: int, utilid: object) -> int:
        hubs.append((hub, threading.get_ident()))
        return data * 2

    with polled() as (hub, binding):
        thread, codes = in_a_thread(hub.api("1.0").deliver, binding.utilid, decode, None, 21)
        assert ended(thread)
        assert codes == [-100]
        assert hubs == []
        assert hub.poll() == [42]
        assert hubs == [(hub, threading.get_ident())]
        hubs.clear()


@pytest.mark.parametrize("limit", [1, 1024, float("inf")])
def test_when_decode_returns_none_nothing_is_received(limit: float) -> None:
    with polled(max_buffer_size=limit) as (hub, binding):
        for _ in range(3):
            assert binding.deliver(None) == -100
            assert hub.poll() == []
        assert binding.calls == [("decode", True, None)] * 3
        counts = hub.statistics()
        assert counts.received == counts.sent == 3
        assert counts.errors == 0


async def test_an_async_receiver_passes_over_what_decode_keeps(anyio_backend: Any) -> None:
    async with dss.open_hub[Any]() as hub:
        binding = OldBinding(hub.api("1.0"))
        for data in (None, 1, None, None, 2):
            assert binding.deliver(data) == -100
        assert await hub.receive() == "decoded 1"
        assert await hub.receive_many() == ["decoded 2"]
        hub.api("1.0").unregister(binding.utilid)


def test_a_full_hub_refuses_and_the_data_is_still_the_callers() -> None:
    with polled(max_buffer_size=1) as (hub, binding):
        assert binding.deliver(1) == -100
        assert binding.deliver(2) == hub.api("1.0").DSS_ERR_OUT_OF_MEMORY
        assert hub.poll() == ["decoded 1"]
        assert binding.deliver(3) == -100
        assert hub.poll() == ["decoded 3"]
        assert binding.calls == [("decode", True, 1), ("decode", True, 3)]


@pytest.mark.parametrize(("overflow", "lost"), [("drop_oldest", 1), ("drop_newest", 2)])
def test_what_the_overflow_policy_drops_is_cancelled(overflow: str, lost: int) -> None:
    with polled(max_buffer_size=1, overflow=overflow) as (hub, binding):
        assert [binding.deliver(1), binding.deliver(2)] == [-100, -100]
        assert binding.calls == [("decode", False, lost)]
        assert hub.poll() == [f"decoded {3 - lost}"]
        assert hub.statistics().dropped == 1


def test_without_decode_nothing_is_delivered() -> None:
    with polled() as (hub, binding):
        api = hub.api("1.0")
        assert api.deliver(binding.utilid, None) == api.DSS_ERR_NO_DECODE_PROVIDED
        assert hub.poll() == []


def test_a_decode_that_raises_is_told_to_on_error_and_then_cancelled() -> None:
    errors: list[Any] = []
    with polled(on_error=lambda *error: errors.append(error)) as (hub, binding):
        failure = ValueError("it cannot be decoded")
        binding.deliver(failure)
        binding.deliver(1)
        assert hub.poll() == ["decoded 1"]
        hub.poll()
        assert errors == [(failure, "old")]
        assert binding.calls[:2] == [("decode", True, failure), ("decode", False, failure)]
        assert hub.statistics().undelivered == 1


def test_a_notification_that_fails_is_a_warning() -> None:
    with udp_socket() as somebody, polled(wake_address=somebody.getsockname()) as (hub, binding):
        assert binding.deliver(1) == -100
        hub.poll()
        hub._alarm.neighbour.close()  # type: ignore[union-attr]
        hub._alarm.neighbour.ring = lambda: False  # type: ignore[union-attr, method-assign]
        code = binding.deliver(2)
        assert code == hub.api("1.0").DSS_ERR_UDP_SEND_FAILED > hub.api("1.0").DSS_SUCCESS
        thread, codes = in_a_thread(binding.ask, 3)
        until(lambda: hub.statistics().queued == 2)
        item, request = hub.poll()
        assert item == "decoded 2"
        request.reply()
        assert ended(thread)
        assert codes == [code]


def test_what_somebody_else_sends_through_the_portal_comes_out_as_it_is() -> None:
    with polled() as (hub, binding):
        portal = hub.source("old")
        portal.send("as it is")
        assert hub.poll() == ["as it is"]
        portal.send("taken back")
        portal.abort()
        assert hub.statistics().errors == 0
        assert binding.calls == []


# -- deliver, with an answer -----------------------------------------------------------------------


def test_deliver_with_a_return_function_blocks_until_it_was_called() -> None:
    with polled() as (hub, binding):
        thread, codes = in_a_thread(binding.ask, "question")
        request = the_request(hub)
        assert request.item == "decoded question"
        assert request.source == "old"
        blocked = hub.blocked()
        assert [(each.source, each.call, each.thread) for each in blocked] == [
            ("old", "deliver", thread.ident)
        ]
        assert codes == []
        assert request.reply("answer") is True
        assert binding.calls == [
            ("decode", True, "question"),
            ("return", True, "question", False, "answer"),
        ]
        assert ended(thread)
        assert codes == [-100]
        assert request.reply("again") is False
        assert hub.statistics().requests.answered == 1
        assert is_settled(hub)


def test_the_return_function_runs_where_the_answer_is_given_before_the_asker_goes_on() -> None:
    running: list[Any] = []
    go_on, begun = threading.Event(), threading.Event()

    def return_(hub: Any, data: Any, utilid: object, garbage: bool, value: Any) -> None:
        begun.set()
        assert go_on.wait(10)
        running.append(threading.get_ident())

    with polled() as (hub, binding):
        api = hub.api("1.0")
        thread, codes = in_a_thread(
            lambda: (api.deliver(binding.utilid, binding.decode, return_, 1), list(running))
        )
        request = the_request(hub)
        replier, _ = in_a_thread(request.reply, 1)
        assert begun.wait(10)
        assert thread.is_alive()
        go_on.set()
        assert ended(thread) and ended(replier)
        assert codes == [(-100, [replier.ident])]


def test_a_token_that_is_thrown_away_calls_the_return_function_with_the_garbage_flag() -> None:
    with polled() as (hub, binding):
        thread, codes = in_a_thread(binding.ask, 1)
        request = the_request(hub)
        del request
        gc.collect()
        assert ended(thread)
        assert codes == [-100]
        assert binding.calls[-1] == ("return", True, 1, True, None)
        assert hub.statistics().requests.unanswered == 1


def test_a_refusal_is_garbage_to_the_binding_and_told_to_on_error() -> None:
    errors: list[Any] = []
    with polled(on_error=lambda *error: errors.append(error)) as (hub, binding):
        thread, codes = in_a_thread(binding.ask, 1)
        failure = ValueError("no")
        assert the_request(hub).reply_error(failure) is True
        assert ended(thread)
        assert codes == [-100]
        assert binding.calls[-1] == ("return", True, 1, True, None)
        hub.poll()
        assert errors == [(failure, "old")]


def test_when_decode_returns_none_whoever_waits_is_released_without_a_call_of_return() -> None:
    with polled() as (hub, binding):
        thread, codes = in_a_thread(binding.ask, None)
        assert hub.wait(10)
        assert hub.poll() == []
        assert ended(thread)
        assert codes == [-100]
        assert binding.calls == [("decode", True, None)]
        assert hub.statistics().requests.answered == 1
        assert is_settled(hub)


def test_a_decode_that_raises_releases_whoever_waits() -> None:
    errors: list[Any] = []
    with polled(on_error=lambda *error: errors.append(error)) as (hub, binding):
        failure = ValueError("it cannot be decoded")
        thread, codes = in_a_thread(binding.ask, failure)
        assert hub.wait(10)
        assert hub.poll() == []
        assert ended(thread)
        assert codes == [-100]
        assert binding.calls == [("decode", True, failure), ("decode", False, failure)]
        hub.poll()
        [(error, source)] = errors
        assert (type(error), error.args, source) == (ValueError, failure.args, "old")


def test_a_return_function_that_raises_is_told_to_on_error_and_releases_whoever_waits() -> None:
    errors: list[Any] = []
    failure = RuntimeError("return_ has failed")

    def return_(*args: Any) -> None:
        raise failure

    with polled(on_error=lambda *error: errors.append(error)) as (hub, binding):
        api = hub.api("1.0")
        thread, codes = in_a_thread(api.deliver, binding.utilid, binding.decode, return_, 1)
        assert the_request(hub).reply(1) is True
        assert ended(thread)
        assert codes == [-100]
        hub.poll()
        assert errors == [(failure, "old")]


def test_a_full_hub_keeps_whoever_waits_for_an_answer_in_line() -> None:
    with polled(max_buffer_size=1) as (hub, binding):
        binding.deliver(1)
        thread, codes = in_a_thread(binding.ask, 2)
        until(lambda: hub.statistics().tasks_waiting_send == 1)
        assert hub.poll() == ["decoded 1"]
        the_request(hub).reply()
        assert ended(thread)
        assert codes == [-100]


def test_a_request_that_is_dropped_is_cancelled_and_releases_whoever_waits() -> None:
    with polled(max_buffer_size=1, overflow="drop_oldest") as (hub, binding):
        thread, codes = in_a_thread(binding.ask, 1)
        until(lambda: hub.statistics().queued == 1)
        binding.deliver(2)
        assert ended(thread)
        assert codes == [-100]
        assert binding.calls == [("decode", False, 1)]
        assert hub.poll() == ["decoded 2"]


def test_asking_in_the_hubs_own_thread_is_refused_at_once() -> None:
    with polled() as (hub, binding):
        with pytest.raises(RuntimeError, match="without a return function"):
            binding.ask(1)
        assert binding.calls == []
        assert is_settled(hub)


def test_a_return_function_must_be_one() -> None:
    with polled() as (hub, binding):
        with pytest.raises(TypeError, match="return_ must be callable"):
            hub.api("1.0").deliver(binding.utilid, binding.decode, 1)  # type: ignore[arg-type]


def interrupt(thread: int) -> None:
    if sys.platform == "win32":
        signal.raise_signal(signal.SIGINT)
    else:
        signal.pthread_kill(thread, signal.SIGINT)  # so that it does not wait any longer


def test_ctrl_c_in_the_asker_makes_the_last_call_and_goes_on() -> None:
    opened: list[dss.Request[Any]] = []
    with polled() as (hub, binding):

        def receive() -> None:
            opened.append(the_request(hub))
            until(lambda: line_in(main, "_wait") and line_in(main, "wait"))
            interrupt(main)

        main = threading.get_ident()
        receiver, _ = in_a_thread(receive)
        until(lambda: hub._mailbox.home.thread is receiver)
        with pytest.raises(KeyboardInterrupt):
            binding.ask(1)
        assert ended(receiver)
        assert opened[0].abandoned
        assert binding.calls == [("decode", True, 1), ("return", False, 1, False, None)]
        assert is_settled(hub)
        hub.poll()


def test_ctrl_c_in_the_asker_waits_for_a_return_function_that_runs_elsewhere() -> None:
    """Guards the second ``wait`` of ``DarkSideSync._wait``."""
    over: list[bool] = []
    struck_at: list[int | None] = []
    main = threading.get_ident()

    def strike(*_: Any) -> None:
        struck_at.append(line_in(main, "_wait"))
        raise KeyboardInterrupt

    def return_(hub: Any, data: Any, utilid: object, garbage: bool, value: Any) -> None:
        interrupt(main)
        until(lambda: struck_at and line_in(main, "_wait") not in (None, *struck_at))
        over.append(True)

    before = signal.signal(signal.SIGINT, strike)
    try:
        with polled() as (hub, binding):
            receiver, answered = in_a_thread(lambda: the_request(hub).reply(1))
            until(lambda: hub._mailbox.home.thread is receiver)
            with pytest.raises(KeyboardInterrupt):
                hub.api("1.0").deliver(binding.utilid, binding.decode, return_, 1)
            assert over == [True]
            assert ended(receiver)
            assert answered == [True]
            hub.poll()
    finally:
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_in_the_return_function_is_the_repliers_and_does_not_call_it_again() -> None:
    calls: list[Any] = []

    def return_(*args: Any) -> None:
        calls.append(args)
        raise KeyboardInterrupt

    with polled(on_error=lambda *_: None) as (hub, binding):
        api = hub.api("1.0")
        thread, codes = in_a_thread(api.deliver, binding.utilid, binding.decode, return_, 1)
        with pytest.raises(KeyboardInterrupt):
            the_request(hub).reply(1)
        assert ended(thread)
        assert codes == [-100]
        assert len(calls) == 1


# -- the end ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("received", [True, False])
def test_the_end_of_the_hub_releases_whoever_waits_and_then_cancels(received: bool) -> None:
    with polled() as (hub, binding):
        asked, codes = in_a_thread(binding.ask, "asked")
        until(lambda: hub.statistics().queued == 1)
        request = the_request(hub) if received else None
        binding.deliver("queued")
    assert ended(asked)
    assert codes == [-100]
    calls = [call[:3] for call in binding.calls]
    released = ("return", False, "asked") if received else ("decode", False, "asked")
    assert calls[-4:] == [
        released,
        ("cancel", True, "dss_anyio: stopping old"),
        ("decode", False, "queued"),
        ("unregistered", -100),
    ]
    assert request is None or request.abandoned
    counts = hub.statistics()
    assert counts.sent == counts.received + counts.undelivered == 2
    api = hub.api("1.0")
    assert binding.deliver(1) == api.DSS_ERR_INVALID_UTILID
    assert api.register("late", print) == (None, api.DSS_ERR_NOT_STARTED)
    assert api.getutilid("old") == (None, api.DSS_ERR_NOT_STARTED)


def test_a_binding_that_does_not_unregister_has_its_data_back_all_the_same() -> None:
    with dss.open_polled_hub[Any]() as hub:
        api = hub.api("1.0")
        calls: list[Any] = []
        codes: list[int] = []
        utilid, _ = api.register("lib", lambda utilid: codes.append(api.deliver(utilid, print)))
        api.deliver(utilid, lambda *args: calls.append(args), None, "queued")
    assert calls == [(None, "queued", utilid)]
    assert codes == [api.DSS_ERR_NOT_STARTED]
    assert api.deliver(utilid, print) == api.DSS_ERR_NOT_STARTED
    assert api.unregister(utilid) == api.DSS_SUCCESS


def test_after_close_senders_nothing_is_delivered_and_what_was_is_answered() -> None:
    with polled() as (hub, binding):
        thread, codes = in_a_thread(binding.ask, 1)
        until(lambda: hub.statistics().queued == 1)
        hub.close_senders()
        assert binding.deliver(2) == hub.api("1.0").DSS_ERR_NOT_STARTED
        the_request(hub).reply("answer")
        assert ended(thread)
        assert codes == [-100]
        assert binding.calls[-1] == ("return", True, 1, False, "answer")


async def test_an_async_hub_ends_while_a_binding_waits(anyio_backend: Any) -> None:
    async with dss.open_hub[Any]() as hub:
        binding = OldBinding(hub.api("1.0"))
        thread, codes = in_a_thread(binding.ask, 1)
        request = await hub.receive()
        assert request.item == "decoded 1"
    assert ended(thread)
    assert codes == [-100]
    assert [call[0] for call in binding.calls] == ["decode", "return", "cancel", "unregistered"]
    assert binding.calls[1] == ("return", False, 1, False, None)


async def test_a_handler_that_is_cancelled_is_garbage(anyio_backend: Any) -> None:
    async with dss.open_hub[Any]() as hub:
        binding = OldBinding(hub.api("1.0"))
        with anyio.CancelScope() as scope:

            async def handler(item: Any) -> None:
                scope.cancel()
                await anyio.sleep_forever()

            thread, codes = in_a_thread(binding.ask, 1)
            await hub.serve(handler)
        assert await anyio.to_thread.run_sync(ended, thread)
        assert codes == [-100]
        assert binding.calls[-1] == ("return", True, 1, True, None)
        hub.api("1.0").unregister(binding.utilid)


def test_an_api_does_not_keep_its_hub() -> None:
    hub = dss.open_polled_hub[Any]()
    api = hub.api("1.0")
    gone = weakref.ref(hub)
    hub.close()
    del hub
    assert gone() is None
    assert api.register("lib", print) == (None, api.DSS_ERR_NOT_STARTED)


def test_nothing_keeps_what_was_delivered() -> None:
    class Data:
        pass

    with polled() as (hub, binding):
        data = Data()
        gone = weakref.ref(data)
        gc.disable()
        try:
            thread, _ = in_a_thread(
                hub.api("1.0").deliver, binding.utilid, lambda *_: 1, lambda *_: None, data
            )
            request = the_request(hub)
            request.reply()
            assert ended(thread)
            del data, request, thread
            assert gone() is None
        finally:
            gc.enable()


# -- races -----------------------------------------------------------------------------------------


def test_who_is_released_while_decode_runs_waits_for_it_and_makes_the_last_call() -> None:
    """Guards ``Asked.cancel``: it must not call ``decode(None)`` meanwhile, nor return."""
    decoding, go_on = threading.Event(), threading.Event()
    calls: list[Any] = []

    def decode(hub: Any, data: Any, utilid: object) -> str:
        calls.append("begun" if hub is not None else "cancelled")
        decoding.set()
        assert go_on.wait(10)
        calls.append("decoded")
        return "item"

    def return_(hub: Any, data: Any, utilid: object, garbage: bool, value: Any) -> None:
        calls.append(("return", hub, garbage))

    with polled() as (hub, binding):
        api = hub.api("1.0")
        thread, codes = in_a_thread(api.deliver, binding.utilid, decode, return_)
        until(lambda: hub.statistics().queued == 1)
        poller, received = in_a_thread(hub.poll)
        assert decoding.wait(10)
        hub.source("old").abort()
        until(lambda: line_in(thread.ident, "cancel"))
        assert calls == ["begun"]
        go_on.set()
        assert ended(thread) and ended(poller)
        assert calls == ["begun", "decoded", ("return", None, False)]
        assert received[0][0].abandoned


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("limit", [1, float("inf")])
def test_a_deliver_may_be_interrupted_by_unregister_at_any_bytecode(limit: float) -> None:
    """What was taken has had its last call when the two have returned; what was not has none."""
    for at in range(10_000):
        with polled(max_buffer_size=limit) as (hub, binding):
            codes: list[int] = []
            begun = time.monotonic()
            intruded = run_interrupted(
                lambda: codes.append(binding.deliver(1)),
                lambda: codes.append(hub.api("1.0").unregister(binding.utilid)),
                at,
            )
            assert time.monotonic() - begun < 10, "it has waited for itself"
            if not intruded:
                break
            unregistered, delivered = codes
            assert unregistered == -100
            assert binding.calls == ([("decode", False, 1)] if delivered == -100 else [])
    assert at > 50


@pytest.mark.usefixtures("patient")
@pytest.mark.parametrize("data", [1, None])
def test_a_poll_may_be_interrupted_by_unregister_at_any_bytecode(data: Any) -> None:
    for at in range(10_000):
        with polled() as (hub, binding):
            binding.deliver(data)
            polls: list[Any] = []
            begun = time.monotonic()
            intruded = run_interrupted(
                lambda: polls.append(hub.poll()),
                lambda: hub.api("1.0").unregister(binding.utilid),
                at,
            )
            assert time.monotonic() - begun < 10, "it has waited for itself"
            if not intruded:
                break
            assert len(binding.calls) == 1
            received = [] if data is None or not binding.calls[0][1] else ["decoded 1"]
            assert polls == [received]
    assert at > 50


def last_calls(binding: OldBinding) -> list[tuple[Any, ...]]:
    """Of a binding that has asked: all calls but those of ``decode`` that ``return_`` follows."""
    return [call for call in binding.calls if call[0] == "return" or not call[1]]


@pytest.mark.usefixtures("patient")
def test_a_poll_of_what_is_asked_may_be_interrupted_by_unregister_at_any_bytecode() -> None:
    """Guards ``Asked._open`` and ``cancel``: either decodes, or the asker has cancelled it."""
    for at in range(10_000):
        with polled() as (hub, binding):
            asker, codes = in_a_thread(binding.ask, 1)
            until(lambda: hub.statistics().queued == 1)

            def unregister() -> None:
                begun = time.monotonic()
                assert hub.api("1.0").unregister(binding.utilid) == -100
                assert time.monotonic() - begun < 10, "it has waited for itself"
                until(lambda: not asker.is_alive() or line_in(asker.ident, "cancel"))

            received: list[Any] = []  # they are forgotten later
            intruded = run_interrupted(lambda: received.extend(hub.poll()), unregister, at)
            received.clear()
            assert ended(asker)
            assert codes == [-100]
            assert [call[:2] for call in binding.calls] in (
                [("decode", False)],
                [("decode", True), ("return", False)],
                [("decode", True), ("return", True)],
            )
            if not intruded:
                break
    assert at > 50


@pytest.mark.usefixtures("patient")
def test_a_deliver_that_asks_may_be_interrupted_by_unregister_at_any_bytecode() -> None:
    """Guards ``taken``: what was refused has no last call."""
    refused = 0
    for at in range(10_000):
        with polled() as (hub, binding):
            codes: list[int] = []

            def unregister() -> None:
                begun = time.monotonic()
                hub.api("1.0").unregister(binding.utilid)
                assert time.monotonic() - begun < 10, "it has waited for itself"

            asker, intruded = in_a_thread(
                lambda: run_interrupted(lambda: codes.append(binding.ask(1)), unregister, at)
            )
            while asker.is_alive():
                hub.wait(0.0005)
                for request in hub.poll():
                    request.reply(2)
                    del request
            assert len(last_calls(binding)) == (codes == [-100]), (codes, binding.calls)
            refused += codes == [hub.api("1.0").DSS_ERR_INVALID_UTILID]
            if intruded == [False]:
                break
    assert at > 50
    assert refused > 20


def test_threads_deliver_and_ask_while_the_library_is_unregistered_and_the_hub_polled(
    switching_fast: None,
) -> None:
    for _ in range(20):
        with dss.open_polled_hub[Any](8) as hub:
            binding = OldBinding(hub.api("1.0"))
            codes: list[tuple[str, int]] = []

            def deliver() -> None:
                for number in range(50):
                    codes.append((f"d{number}", binding.deliver(f"d{number}")))

            def ask() -> None:
                for number in range(20):
                    codes.append((f"a{number}", binding.ask(f"a{number}")))

            def unregister() -> None:
                until(lambda: len(codes) > 30)
                assert binding.api.unregister(binding.utilid) == -100

            with threads(deliver, ask, ask, unregister) as running:
                while any(thread.is_alive() for thread in running):
                    hub.wait(0.001)
                    for each in hub.poll():
                        if isinstance(each, dss.Request):
                            each.reply("answer")
                        del each
            assert is_settled(hub)
            taken = sorted(data for data, code in codes if code >= -100)
            # The last call of each: a return, or a decode of what is not asked or was cancelled.
            last = sorted(
                call[2]
                for call in binding.calls
                if call[0] == "return" or not (call[1] and call[2].startswith("a"))
            )
            assert last == taken
