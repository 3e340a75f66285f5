"""``dss_deliver``: what the library itself makes the item of has exactly one last call."""

from __future__ import annotations

import ctypes
import gc
from typing import Any

import anyio
import anyio.to_thread
import pytest
from c_threads import (
    CLOSED,
    DROPPED,
    FULL,
    OK,
    REFUSED,
    RELEASED,
    UNANSWERED,
    Parcel,
    c,
    c_code,
    function,
    needs_the_extension,
)

import dss_anyio as dss
from dss_anyio import _native
from dss_anyio.testing import eventually

pytestmark = [pytest.mark.anyio, needs_the_extension]
__all__ = ["c", "c_code"]  # fixtures

DECODED = (OK, 1, 0, 0, 0, b"")  # result; decoded, cancelled, returned; status and answer
CANCELLED = (OK, 0, 1, 0, 0, b"")


async def test_it_is_decoded_when_it_is_received(c: ctypes.CDLL) -> None:
    errors: list[Any] = []
    async with dss.open_hub(on_error=lambda exc, name: errors.append((exc, name))) as hub:
        sender = hub.register("lib", decode=bytes.decode).native_sender()
        parcels = [
            Parcel(c, sender, b"%d" % number, returns)
            for number, returns in enumerate([1, 2, 0, -1, 1])
        ]
        assert parcels[0].look() == (OK, 0, 0, 0, 0, b"")
        assert await hub.receive() == "0"
        assert await hub.receive_many() == ["11", "4"]
        assert [parcel.look() for parcel in parcels] == [
            *3 * [DECODED], (OK, 1, 1, 0, 0, b""), DECODED,
        ]  # fmt: skip
        counts = hub.statistics()
        assert counts.sources["lib"][:4] == (4, 0, 0, 1)
        assert counts.errors == 1
    assert [(type(exc), name) for exc, name in errors] == [(RuntimeError, "lib")]


async def test_each_way_to_receive_decodes_it(c: ctypes.CDLL) -> None:
    async with dss.open_hub() as hub:
        sender = hub.portal.native_sender()
        parcels = [Parcel(c, sender, b"x", returns) for returns in (1, 0, 1, 0, 1)]
        async for item in hub:
            assert item == b"x"
            break
        seen: list[bytes] = []
        hub.task_group.start_soon(hub.serve, seen.append)
        await eventually(lambda: seen == [b"x", b"x"])
        assert {parcel.look() for parcel in parcels} == {DECODED}
        assert hub.statistics().received == 5
    with dss.open_polled_hub() as polled:
        sender = polled.portal.native_sender()
        parcel = Parcel(c, sender, b"x", 3)
        assert polled.dispatch(seen.append) == 1
        assert seen[-1] == b"xxx"
        assert parcel.look() == DECODED


@pytest.mark.parametrize("end", ["hub", "abort"])
async def test_what_nobody_receives_is_cancelled_once(c: ctypes.CDLL, end: str) -> None:
    back: list[Any] = []
    async with dss.open_hub() as hub:
        portal = hub.register("lib", on_undelivered=back.append)
        sender = portal.native_sender(3)
        parcels = [Parcel(c, sender, b"x") for _ in range(4)]
        assert await hub.receive() == b"x"
        if end == "abort":
            portal.abort()
    late = Parcel(c, sender, b"late")
    gc.collect()
    assert [parcel.look() for parcel in parcels] == [
        DECODED, CANCELLED, CANCELLED, (FULL, 0, 0, 0, 0, b""),
    ]  # fmt: skip
    assert late.look() == (CLOSED, 0, 0, 0, 0, b"")
    assert hub.statistics().undelivered == 2
    assert not back  # there is no item


@pytest.mark.parametrize("overflow", ["drop_newest", "drop_oldest"])
async def test_what_a_policy_drops_is_cancelled_by_who_drops_it(
    c: ctypes.CDLL, overflow: Any
) -> None:
    async with dss.open_hub() as hub:
        sender = hub.portal.native_sender(1, overflow=overflow)
        first, second = Parcel(c, sender, b"1"), Parcel(c, sender, b"2")
        lost, other = (first, second) if overflow == "drop_oldest" else (second, first)
        assert lost.look()[1:] == CANCELLED[1:]
        assert second.look()[0] == DROPPED
        assert await hub.receive() == (b"2" if overflow == "drop_oldest" else b"1")
        assert other.look()[1:] == DECODED[1:]


async def test_who_waits_has_its_return_function_called_with_the_answer(c: ctypes.CDLL) -> None:
    async def handler(item: bytes) -> Any:
        return {b"x": b"answer", b"xx": None}[item]

    async with dss.open_hub() as hub:
        sender = hub.register("lib").native_sender()
        hub.task_group.start_soon(hub.serve, handler)
        looks: list[Any] = []
        for returns in (1, 2, 3, 0, -1):
            parcel = Parcel(c, sender, b"x", returns, waits=True)
            looks.append(await anyio.to_thread.run_sync(parcel.look))
        assert looks == [
            (OK, 1, 0, 1, OK, b"answer"),
            (OK, 1, 0, 1, OK, b""),
            (OK, 1, 0, 1, REFUSED, b"KeyError: b'xxx'"),
            DECODED,  # it has done everything
            (OK, 1, 1, 0, 0, b""),  # it has failed, and was cancelled then
        ]
        counts = hub.statistics()
        assert counts.requests.open == 0
        assert counts.sources["lib"][:4] == (4, 0, 0, 1)


async def test_who_waits_is_released_and_makes_its_last_call_itself(c: ctypes.CDLL) -> None:
    """One was decoded and has a handler, one was decoded and is kept, two wait in the queue."""
    async with dss.open_hub() as hub:
        parcels: list[Parcel] = []
        looks: list[Any] = []
        portal = hub.register("lib", stop=lambda: looks.extend(each.look() for each in parcels))
        sender = portal.native_sender(2)
        parcels.append(Parcel(c, sender, b"x", waits=True))
        request = await hub.receive()
        assert [each.call for each in hub.blocked()] == ["dss_deliver"]
        parcels.append(Parcel(c, sender, b"x", waits=True))
        forgotten = await hub.receive()
        del forgotten
        await eventually(lambda: parcels[1].done)
        parcels += [Parcel(c, sender, b"x", waits=True) for _ in range(2)]
        await eventually(lambda: len(sender) == 2)
    assert looks == [
        (OK, 1, 0, 1, RELEASED, b""),
        (OK, 1, 0, 1, UNANSWERED, b""),
        CANCELLED,
        CANCELLED,
    ]
    assert request.abandoned


RELEASE = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)
DECODE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)


@pytest.mark.parametrize("kind", ["given", "delivered"])
@pytest.mark.parametrize("where", ["received", "in the ring"])
def test_a_last_call_may_enter_python_while_an_exception_destroys_the_item(
    kind: str, where: str
) -> None:
    called: list[Any] = []
    extension = _native.dss
    bell = extension.Bell()
    ring = extension.Ring(bell, 8, 64, 0)
    if kind == "given":
        give = function("dss_give", ctypes.c_char_p, ctypes.c_size_t, RELEASE, ctypes.c_void_p)
        last = RELEASE(lambda data, arg: called.append(arg))
        assert give(ring.address, b"x", 1, last, 7) == OK
    else:
        deliver = function("dss_deliver", DECODE, ctypes.c_void_p, ctypes.c_void_p)
        last = DECODE(lambda output, data: called.append(data) or 0)
        assert deliver(ring.address, last, None, 7) == OK

    def fail(*_: Any) -> None:
        raise AssertionError("is not called")

    rings = [ring]
    del ring
    with pytest.raises(ZeroDivisionError):
        # The item, or the ring with it, is destroyed with the arguments of this call.
        fail(rings[0].take() if where == "received" else rings.pop(), 1 / 0)
    assert called == [7]


def test_each_ring_tells_whether_it_is_closed_gracefully() -> None:
    class Undecided:
        def __bool__(self) -> bool:
            raise KeyError("undecided")

    extension = _native.dss
    ring = extension.Ring(extension.Bell(), 8, 64, 0)
    with pytest.raises(KeyError, match="undecided"):
        ring.close(Undecided())
    ring.close(True)
