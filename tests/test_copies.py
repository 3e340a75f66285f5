"""A copy of a hub, a portal, a request, a feed or a receiving end is refused, and ends nothing."""

from __future__ import annotations

import copy
import gc
import pickle
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import pytest

import dss_anyio as dss

pytestmark = pytest.mark.anyio


@dataclass
class Session:
    name: str
    holds: Any


def shallow_and_then_deep(what: Any) -> None:
    copied = copy.copy(Session("a", what))  # the dataclass only: that is harmless
    assert copied.holds is what
    copy.deepcopy(copied)


WAYS: dict[str, Callable[[Any], object]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "asdict": lambda what: asdict(Session("a", what)),
    "in a dataclass": shallow_and_then_deep,
    "in a list": lambda what: copy.deepcopy([what]),
    **{
        f"pickle, protocol {protocol}": lambda what, p=protocol: pickle.dumps(what, p)
        for protocol in range(pickle.HIGHEST_PROTOCOL + 1)
    },
}

in_each_way = pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)


@in_each_way
async def test_what_threads_share_cannot_be_copied_and_goes_on(way: Callable[[Any], Any]) -> None:
    async with dss.open_hub[Any]() as hub, dss.open_hub[Any]() as other:
        source = hub.register("source")
        future = source.request_soon("what?")
        request = await hub.receive()
        with source.clone() as portal, hub.clone() as receiver, hub.open_feed(1) as feed:
            for each in (hub, hub.portal, source, portal, receiver, feed, hub.api("1.0"), request):
                with pytest.raises(TypeError, match="cannot be copied or pickled"):
                    way(each)
        gc.collect()
        assert request.reply("that")
        assert future.result(0) == "that"
        assert source.offer(1)
        assert other.portal.offer(1)
        assert await hub.receive() == 1
        assert await other.receive() == 1


@in_each_way
def test_a_polled_hub_cannot_be_copied_and_goes_on(way: Callable[[Any], Any]) -> None:
    with dss.open_polled_hub() as hub:
        for each in (hub, hub.portal):
            with pytest.raises(TypeError, match="hand on the (PolledHub|Portal) itself"):
                way(each)
        gc.collect()
        assert hub.portal.offer(1)
        assert hub.poll() == [1]


def test_what_was_counted_can_be_copied() -> None:
    with dss.open_polled_hub() as hub:
        statistics = hub.statistics()
        assert copy.copy(statistics) == statistics


def test_an_exception_whose_class_makes_no_true_copy_is_raised_itself() -> None:
    class Odd(KeyboardInterrupt):
        def __copy__(self) -> None: ...

    odd = Odd()

    def strikes() -> None:
        raise odd

    with dss.open_polled_hub() as hub:
        future = hub.portal.start_task_soon(strikes)
        with pytest.raises(Odd):
            hub.poll()
        assert future.exception(0) is odd
