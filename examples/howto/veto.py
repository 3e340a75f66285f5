"""A C library shows each buffer before it sends it, and takes a number for an answer: 0 is no."""

import ctypes
import sys

import anyio

import dss_anyio as dss

C = ctypes.CDLL(None)  # the C library, which Linux and macOS have loaded already
C.pthread_create.argtypes = [ctypes.c_void_p] * 4
C.pthread_join.argtypes = [ctypes.c_size_t, ctypes.c_void_p]


class Frame(ctypes.Structure):
    _fields_ = (("data", ctypes.POINTER(ctypes.c_uint8)), ("length", ctypes.c_size_t))


CALLBACK = ctypes.CFUNCTYPE(ctypes.c_size_t, ctypes.POINTER(Frame))
NO, YES = 0, 1


def pack(frame: "ctypes._Pointer[Frame]") -> bytes:
    """Copy the buffer: it is the library's again as soon as the callback has returned."""
    return ctypes.string_at(frame.contents.data, frame.contents.length)


class Pool:
    """Stands for a library: each of its threads, which Python did not make, shows one buffer."""

    def __init__(self, portal: dss.Portal[bytes]) -> None:
        self._ask = CALLBACK(portal.request_callback(pack, timeout=10, default=NO, convert=int))

    def send(self, *texts: bytes) -> list[int]:
        threads, answers = [], []
        for text in texts:
            buffer = (ctypes.c_uint8 * len(text)).from_buffer_copy(text)
            frame = Frame(ctypes.cast(buffer, ctypes.POINTER(ctypes.c_uint8)), len(text))
            thread = ctypes.c_size_t()
            C.pthread_create(ctypes.byref(thread), None, self._ask, ctypes.byref(frame))
            threads.append((thread, buffer, frame))  # C uses them until its thread has ended
        for thread, *_ in threads:
            answer = ctypes.c_size_t()
            C.pthread_join(thread, ctypes.byref(answer))  # blocks
            answers.append(answer.value)
        return answers


async def handle(data: bytes) -> "bool | str | None":
    if data == b"forgotten":
        return None  # there is no "return" where there should be one
    if data == b"misspelt":
        return "yes"
    return b"secret" not in data


def told(exc: BaseException, source: "str | None") -> None:
    print(f"{source}: {type(exc).__name__}")


async def main() -> None:
    async with dss.open_hub[bytes](on_error=told) as hub:
        hub.task_group.start_soon(hub.serve, handle)
        async with hub.open_source("radio", Pool, lambda _: None) as source:
            for texts in ([b"hello", b"a secret"], [b"forgotten"], [b"misspelt"]):
                answers = await anyio.to_thread.run_sync(source.value.send, *texts)
                print([text.decode() for text in texts], answers)


anyio.run(main, backend=sys.argv[1] if len(sys.argv) > 1 else "asyncio")
