"""A connection outlives what nats-py's client does not."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client

from schemas.jetstream.fixes import ClientFixes


class Fragile:
    """Breaks where nats-py's client would."""

    def __init__(self, error: Exception | None = None) -> None:
        self.is_connected = True
        self.is_closed = False
        self.is_slow = False
        self.error = error
        self.lost: list[Exception] = []
        self.names: tuple[bytes, bytes] | None = None

    async def _flush_pending(self, force_flush: bool = False) -> str:  # noqa: FBT001, FBT002 - nats-py's own signature
        del force_flush
        if self.is_slow:
            await self._wait()
        self._break()
        return "flushed"

    async def request(self, subject: str) -> str:
        await self._wait()
        return f"answer to {subject}"

    async def flush(self) -> None:
        await self._wait()

    async def close(self) -> None:
        self.is_closed = True
        await self._flush_pending()
        self.is_connected = False

    async def _read_loop(self) -> None:
        self._break()

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        self._break()
        return {"read": headers.decode()}

    def _build_message(self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: Any) -> str:
        del sid, data, headers
        return f"{subject.decode()} {reply.decode()}"

    async def _process_op_err(self, error: Exception) -> None:
        self.lost.append(error)

    async def _wait(self) -> None:
        """Swallow a cancellation, and nothing else ends it."""
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()

    def _break(self) -> None:
        if self.error is not None:
            raise self.error


class Connection(ClientFixes, Fragile):
    pass


async def test_a_write_to_a_socket_that_was_closed_is_a_lost_connection() -> None:
    nc = Connection(RuntimeError("unable to perform operation on <TCPTransport closed=True>"))

    await nc._flush_pending()

    assert [type(error) for error in nc.lost] == [RuntimeError]


async def test_a_write_that_goes_well_is_passed_on() -> None:
    assert await Connection()._flush_pending() == "flushed"


async def test_a_reader_that_ends_although_connected_is_a_lost_connection() -> None:
    connected, closed = Connection(), Connection()
    closed.is_connected = False

    for nc in (connected, closed):
        await nc._read_loop()

    assert [type(error) for error in connected.lost] == [ConnectionError]
    assert not closed.lost


@pytest.mark.parametrize("error", [ValueError(), IndexError()])
async def test_headers_that_are_none_are_no_headers(error: Exception) -> None:
    assert await Connection(error)._process_headers(b"NATS/1.0") is None
    assert await Connection()._process_headers(b"x") == {"read": "x"}


_line = st.one_of(
    st.binary(max_size=12),
    st.lists(
        st.sampled_from([b"Nats-Msg-Id", b"a", b":", b" ", b"\t", b"\x1c", b"\n", b"\xc3\xa9", b"\xff"]), max_size=8
    ).map(b"".join),
)


@given(st.lists(_line, max_size=5).map(b"\r\n".join))
def test_headers_are_read_as_nats_py_reads_them(block: bytes) -> None:
    assert ClientFixes._parse_header_lines(block) == Client._parse_header_lines(block)


def test_a_name_that_is_no_utf8_is_readable() -> None:
    built = Connection()._build_message(1, b"a.\xff", b"r.\xfe", b"", None)

    assert built == "a.\\xff r.\\xfe"
    assert Connection()._build_message(1, "é".encode(), b"r", b"", None) == "é r"


@pytest.mark.parametrize("call", [lambda nc: nc.request("ask"), lambda nc: nc.flush()], ids=["request", "flush"])
async def test_a_cancellation_that_a_call_swallows_is_raised(call: Callable[[Connection], Awaitable[object]]) -> None:
    async def work() -> None:
        await call(Connection())

    working = asyncio.create_task(work())
    await asyncio.sleep(0)
    working.cancel()
    await asyncio.wait({working})

    assert working.cancelled()


async def test_a_connection_is_closed_whole_before_its_task_ends() -> None:
    nc = Connection()
    nc.is_slow = True
    closing = asyncio.create_task(nc.close())
    await asyncio.sleep(0)

    closing.cancel()
    await asyncio.wait({closing})

    assert closing.cancelled()
    assert not nc.is_connected
