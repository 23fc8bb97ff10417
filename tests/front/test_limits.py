"""What a client may take of an HTTP server: each bound of broker.doors.protocol and room, on real sockets."""

import asyncio
import contextlib
import json
import logging
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
import trustme

from broker.config import HttpLimits
from broker.doors.room import Room
from broker.doors.server import listening
from tests.front.sockets import Socket, a_request, connected
from tests.system import until

pytestmark = [pytest.mark.real, pytest.mark.timeout(60)]
LIMITS = HttpLimits(
    head_bytes=4096, headers=20, head_s=0.8, body_s=0.8, idle_s=0.8, unread_s=0.8, pipelined=4, drain_s=1
)
MEGABYTE = b"x" * 1024 * 1024


@dataclass
class Served:
    """An application that says what it was asked, and what became of it."""

    url: str = ""
    cut: Counter[str] = field(default_factory=Counter)
    asked: list[dict[str, Any]] = field(default_factory=list)
    bodies: list[bytes | None] = field(default_factory=list)
    """None: the client left before its end."""
    running: int = 0
    received: int = 0
    """Bytes of bodies."""
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def __call__(self, scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        self.asked.append(scope)
        self.running += 1
        try:
            match scope["path"]:
                case "/stream":
                    await send({"type": "http.response.start", "status": 200, "headers": []})
                    while (await _left(receive)) is False:
                        await send({"type": "http.response.body", "body": MEGABYTE, "more_body": True})
                case "/wait":
                    await self.go.wait()
                    await _answer(send, 200, b"waited")
                case "/wait-until-left":
                    while (await receive())["type"] != "http.disconnect":
                        pass
                case "/refuse":
                    await _answer(send, 413, b"too large", (b"connection", b"close"))
                case "/refuse-and-stay":
                    await _answer(send, 413, b"too large")
                case _:
                    body = await self._read(receive)
                    self.bodies.append(body)
                    if body is not None:
                        await _answer(send, 200, body or b"hello")
        finally:
            self.running -= 1

    async def _read(self, receive: Callable[[], Any]) -> bytes | None:
        body = b""
        while True:
            message: dict[str, Any] = await receive()
            if message["type"] == "http.disconnect":
                return None
            self.received += len(message["body"])
            body += bytes(message["body"])
            if not message["more_body"]:
                return body


async def _left(receive: Callable[[], Any]) -> bool:
    asking = asyncio.ensure_future(receive())
    done, _ = await asyncio.wait([asking], timeout=0)
    if not done:
        asking.cancel()
        return False
    return bool(asking.result()["type"] == "http.disconnect")


async def _answer(send: Callable[[Any], Any], status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [length, *headers]})
    await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def serving(tls: ssl.SSLContext | None = None, **limits: float) -> AsyncIterator[Served]:
    served = Served()
    given = msgspec.structs.replace(LIMITS, **limits)
    async with listening(
        served,
        option="http",
        host="127.0.0.1",
        port=0,
        limits=given,
        tls=tls,
        cut=lambda why: served.cut.update([why]),
        uploads=frozenset({"/upload"}),
    ) as url:
        served.url = url
        yield served


def said(answer: Any) -> str:
    """The code of an error."""
    return str(json.loads(answer.body)["error"]["code"])


async def test_requests_follow_each_other_on_one_connection() -> None:
    async with serving() as served, connected(served.url) as client:
        first = await client.ask(a_request())
        second = await client.ask(a_request("/", method="POST", body=b"again"))

        assert (first.status, first.body, second.body) == (200, b"hello", b"again")
        assert "server" not in first.headers
        assert not served.cut


# Time


async def test_a_head_that_does_not_end_is_told_so_and_cut_though_bytes_keep_coming() -> None:
    async with serving() as served, connected(served.url) as slow:
        await slow.send(b"GET / HTTP/1.1\r\n")
        dripping = asyncio.create_task(_drip(slow, b"x-a: b\r\n"))
        answer = await slow.answer()
        dripping.cancel()

        assert (answer.status, said(answer)) == (408, "slow_request")
        assert not served.asked
        assert served.cut == {"slow_head": 1}


async def _drip(client: Socket, data: bytes) -> None:
    while True:
        await client.send(data)
        await asyncio.sleep(0.1)


async def test_a_body_that_does_not_end_is_told_so_and_the_application_hears_that_its_client_left() -> None:
    async with serving() as served, connected(served.url) as slow:
        await slow.send(b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 100000\r\n\r\n")
        dripping = asyncio.create_task(_drip(slow, b"x"))
        answer = await slow.answer()
        dripping.cancel()

        assert (answer.status, said(answer)) == (408, "slow_request")
        await until(_is(lambda: served.bodies == [None] and not served.running), "the application ended")
        assert served.cut == {"slow_body": 1}


def _is(holds: Callable[[], bool]) -> Callable[[], Any]:
    async def check() -> bool:
        return holds()

    return check


@pytest.mark.parametrize("sent", [b"", b"\r\n", a_request()], ids=["nothing", "empty_lines", "one_request"])
async def test_a_connection_without_a_request_is_closed_without_a_word(sent: bytes) -> None:
    async with serving() as served, connected(served.url) as idle:
        if sent == a_request():
            await idle.ask(sent)
        else:
            await idle.send(sent)

        assert await idle.ended() == b""
        assert not served.cut


async def test_an_answer_may_take_longer_than_all_limits() -> None:
    async with serving(head_s=0.3, body_s=0.3, idle_s=0.3, unread_s=0.3) as served, connected(served.url) as client:
        await client.send(a_request("/wait"))
        async with connected(served.url) as idle:
            await idle.ended()  # so the limits have passed
        served.go.set()

        assert (await client.answer()).body == b"waited"


async def test_who_stops_reading_is_cut_and_others_are_answered_meanwhile() -> None:
    async with serving() as served, connected(served.url) as deaf, connected(served.url) as other:
        deaf.reader._transport.pause_reading()  # type: ignore[attr-defined] # as one that is busy with something else
        await deaf.send(a_request("/stream"))
        await until(_is(lambda: served.running == 1), "the stream began")

        assert (await other.ask(a_request())).status == 200
        await until(_is(lambda: served.running == 0), "the stream was cut")
        assert served.cut == {"unread": 1}


async def test_who_reads_slowly_is_not_cut() -> None:
    async with serving() as served, connected(served.url) as slow:
        await slow.send(a_request("/stream"))
        for _ in range(40):
            await slow.reader.readexactly(500_000)
            await asyncio.sleep(0.05)

        assert served.running == 1
        assert not served.cut


# Sizes


@pytest.mark.parametrize(
    "request_",
    [
        a_request("/" + "a" * 5000),
        a_request("/", "x: " + "a" * 5000),
        a_request("/", *(f"x-{number}: a" for number in range(30))),
        a_request("/", *(f"x-{number}: a" for number in range(5000))),
    ],
    ids=["line", "header", "some_headers", "thousands"],
)
@pytest.mark.parametrize("piece", [100, 10**6])
async def test_a_head_that_is_too_large_is_refused(request_: bytes, piece: int) -> None:
    async with serving(head_s=20) as served, connected(served.url) as client:
        for at in range(0, len(request_), piece):
            if client.reader.at_eof():
                break
            await client.send(request_[at : at + piece])
        answer = await client.answer()

        assert (answer.status, said(answer)) == (431, "headers_too_large")
        assert "4096 bytes and 20 headers" in answer.body.decode()
        assert not served.asked


@pytest.mark.parametrize(
    "endless",
    [b"1;" + b"a" * 60_000, b"0\r\nx: " + b"a" * 60_000, b"0\r\n" + b"x: a\r\n" * 10_000],
    ids=["extension", "trailer", "trailers"],
)
async def test_frames_without_a_body_are_cut(endless: bytes) -> None:
    async with serving(body_s=60) as served, connected(served.url) as client:
        await client.send(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        await client.send(endless[:1000])
        await client.send(endless[1000:])

        await client.ended()
        await until(_is(lambda: served.bodies == [None]), "the application heard of it")
        assert served.cut == {"large_frames": 1}


async def test_chunks_of_one_byte_are_read() -> None:
    async with serving(body_s=20) as served, connected(served.url) as client:
        await client.send(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(20):
            await client.send(b"1\r\nx\r\n" * 500)
        answer = await client.ask(b"0\r\nauthorization: other\r\n\r\n")

        assert answer.body == b"x" * 10_000
        assert [name for name, _ in served.asked[0]["headers"]] == [b"host", b"transfer-encoding"]


@pytest.mark.parametrize("path", ["/refuse", "/refuse-and-stay"])
async def test_who_is_refused_while_it_sends_can_read_why(path: str) -> None:
    body = b"x" * 3_000_000
    async with serving(body_s=20) as served, connected(served.url) as client:
        answer = await client.ask(a_request(path, method="POST", body=body))

        assert (answer.status, answer.body) == (413, b"too large")
        if path == "/refuse":
            assert await client.ended() == b""
        else:
            assert (await client.ask(a_request())).status == 200
        assert not served.cut


async def test_bodies_take_no_more_memory_than_there_is_for_all() -> None:
    head = b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\n"
    async with AsyncExitStack() as stack, serving(body_s=20, idle_s=20, bodies_bytes=1024**2) as served:
        one, two, three = [await stack.enter_async_context(connected(served.url)) for _ in range(3)]
        for client in (one, two):
            await client.send(head)
        await one.send(b"x" * 900_000)
        await until(_is(lambda: served.received == 900_000), "one is being received")
        refused = await two.ask(b"x" * 500_000)
        whole = await one.ask(b"x" * 100_000)
        after = await three.ask(a_request("/", method="POST", body=b"x" * 1_000_000))

        assert (refused.status, said(refused)) == (503, "busy")
        assert (whole.status, after.status) == (200, 200)
        assert served.cut == {"bodies": 1}


async def test_an_upload_may_be_larger_than_all_other_bodies_together_as_long_as_it_comes() -> None:
    async with serving(bodies_bytes=1024**2) as served, connected(served.url) as one, connected(served.url) as other:
        whole = await one.ask(a_request("/upload", method="POST", body=b"x" * 5_000_000))
        await other.send(b"POST /upload HTTP/1.1\r\nhost: a\r\ncontent-length: 5000000\r\n\r\n" + b"x" * 2_500_000)
        stalled = await other.answer()

        assert (whole.status, len(whole.body)) == (200, 5_000_000)
        assert (stalled.status, said(stalled)) == (408, "slow_request")
        assert served.cut == {"slow_body": 1}


async def test_a_body_is_not_dropped_without_end() -> None:
    async with serving(body_s=20) as served, connected(served.url) as client:
        await client.send(b"POST /refuse-and-stay HTTP/1.1\r\nhost: a\r\ncontent-length: 9999999999\r\n\r\n")
        await _send_until_cut(client, MEGABYTE)

        assert served.cut == {"large_body": 1}


async def _send_until_cut(client: Socket, data: bytes) -> None:
    with contextlib.suppress(ConnectionError, RuntimeError):  # what uvloop raises of a connection that is closed
        while True:
            await client.send(data)


# What is no request


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"GET / HTTP/9.9\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: a\r\nbad header\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ncontent-length: 4\r\n\r\nabc",
        b"GET /\xff\xfe HTTP/1.1\r\nhost: a\r\n\r\n",
    ],
    ids=["tls", "version", "http2", "header", "two_lengths", "other_length", "not_ascii"],
)
async def test_what_is_no_request_is_told_so(sent: bytes, caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as served, connected(served.url) as client:
        answer = await client.ask(sent)

        assert (answer.status, said(answer), answer.headers["connection"]) == (400, "bad_request", "close")
        assert await client.ended() == b""
        assert not served.asked
        assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


async def test_nobody_gets_a_tunnel() -> None:
    async with serving() as served, connected(served.url) as client:
        answer = await client.ask(b"CONNECT a:80 HTTP/1.1\r\nhost: a\r\n\r\n")

        assert (answer.status, said(answer)) == (405, "wrong_method")
        assert not served.asked


async def test_who_asks_for_http2_or_a_websocket_is_answered_as_without() -> None:
    upgrade = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAEAAEAA")
    async with serving() as served, connected(served.url) as client:
        whole = await client.ask(a_request("/a", *upgrade, method="POST", body=b"body"))
        socket = await client.ask(a_request("/c", "connection: upgrade", "upgrade: websocket"))

        assert (whole.status, whole.body) == (200, b"body")
        assert socket.status == 200
        assert [scope["path"] for scope in served.asked] == ["/a", "/c"]


async def test_the_body_of_who_asks_for_http2_may_come_later() -> None:
    request = a_request("/a", "connection: Upgrade", "upgrade: h2c", method="POST", body=b"the body")
    async with serving() as served, connected(served.url) as client:
        await client.send(request[:-8])
        await until(_is(lambda: served.running == 1), "the request began")
        answer = await client.ask(request[-8:])

        assert answer.body == b"the body"


async def test_requests_that_are_sent_ahead_are_answered_in_turn_and_bounded() -> None:
    async with serving() as served, connected(served.url) as client:
        await client.send(b"".join(a_request("/", method="POST", body=b"%d" % number) for number in range(4)))
        answers = [(await client.answer()).body for _ in range(4)]
        await client.send(a_request("/wait") + a_request("/") * 20)
        rest = await client.ended()

        assert answers == [b"0", b"1", b"2", b"3"]
        assert rest == b""
        assert served.cut == {"unreadable": 1}


async def test_who_leaves_is_missed_also_with_more_requests_ahead() -> None:
    async with serving() as served, connected(served.url) as client:
        await client.send(a_request("/wait-until-left"))
        await until(_is(lambda: served.running == 1), "the first is running")
        await client.send(a_request("/"))
        client.writer.transport.abort()

        await until(_is(lambda: served.running == 0), "it heard that its client left")
        assert len(served.asked) == 1


async def test_what_is_sent_after_a_request_does_not_spoil_its_answer() -> None:
    async with serving() as served, connected(served.url) as client:
        await client.send(a_request("/wait") + b"GET /sl")  # a request that does not go on
        async with connected(served.url) as idle:
            await idle.ended()  # so the limits have passed
        served.go.set()

        assert (await client.answer()).body == b"waited"
        assert (await client.answer()).status == 408


# How many


async def test_beyond_the_limit_of_one_address_others_are_let_in() -> None:
    async with AsyncExitStack() as stack, serving(connections_per_address=3, idle_s=20) as served:
        full = [await stack.enter_async_context(connected(served.url)) for _ in range(3)]
        for client in full:
            await client.ask(a_request())
        async with connected(served.url) as fourth, connected(served.url, source="127.0.0.2") as other:
            refused = await fourth.ask(a_request())
            answered = await other.ask(a_request())

            assert (refused.status, said(refused)) == (503, "too_many_connections")
            assert (refused.headers["retry-after"], refused.headers["connection"]) == ("1", "close")
            assert await fourth.ended() == b""
            assert answered.status == 200
        full[0].writer.close()
        await until(_is_let_in(served.url), "one that has left makes room")
        assert served.cut["too_many"] >= 1


def _is_let_in(url: str) -> Callable[[], Any]:
    async def check() -> bool:
        async with connected(url) as client:
            return (await client.ask(a_request())).status == 200

    return check


async def test_in_a_full_server_the_longest_idle_connection_makes_room() -> None:
    async with AsyncExitStack() as stack, serving(connections=3, idle_s=20) as served:
        busy, first, second = [await stack.enter_async_context(connected(served.url)) for _ in range(3)]
        await busy.send(a_request("/wait"))
        for client in (first, second, first):
            await client.ask(a_request())
        async with connected(served.url) as new:
            assert (await new.ask(a_request())).status == 200
            assert await second.ended() == b""
            assert (await first.ask(a_request())).status == 200
        served.go.set()
        assert (await busy.answer()).body == b"waited"
        assert served.cut == {"evicted": 1}


async def test_if_all_are_busy_a_new_one_is_told_to_come_back() -> None:
    async with AsyncExitStack() as stack, serving(connections=2) as served:
        for _ in range(2):
            busy = await stack.enter_async_context(connected(served.url))
            await busy.send(a_request("/wait"))
        await until(_is(lambda: served.running == 2), "both are busy")
        async with connected(served.url) as new:
            assert said(await new.ask(a_request())) == "too_many_connections"
        served.go.set()


async def test_beyond_those_that_are_told_so_connections_are_dropped() -> None:
    room = Room(total=10, per_address=5, bodies_bytes=1)
    entered = [room.enter(("10.0.0.1", port)) for port in range(80)]

    assert entered == [True] * 69 + [False] * 11
    assert room.enter(("10.0.0.2", 1))
    assert [room.enter((f"10.0.1.{number}", 1)) for number in range(10)] == [True] * 4 + [False] * 6


def test_a_network_of_ipv6_counts_as_one_address() -> None:
    room = Room(total=100, per_address=1, bodies_bytes=1)
    for peer in ("2001:db8::1", "2001:db8::ffff:2", "2001:db8:0:1::1", "::ffff:10.0.0.1", "10.0.0.1", "fe80::1%eth0"):
        room.enter((peer, 1))

    assert not room.admits(("2001:db8::3", 1))
    assert room.admits(("2001:db8:0:1::2", 1))
    assert not room.admits(("10.0.0.1", 1))
    assert room.admits(None)


def test_the_room_forgets_who_has_left() -> None:
    room = Room(total=1, per_address=1, bodies_bytes=1)
    peers = [(f"10.0.0.{number}", 1) for number in range(20)]
    entered = [peer for peer in peers if room.enter(peer)]
    for peer in entered:
        room.leave(peer)

    assert repr(room) == "Room(0 of 1, 0 idle, 0 addresses)"


# TLS


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def contexts(authority: trustme.CA) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of a server and of a client."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


async def test_requests_are_answered_with_tls(authority: trustme.CA) -> None:
    server, trusting = contexts(authority)
    async with serving(server) as served, connected(served.url, context=trusting) as client:
        assert served.url.startswith("https://")
        assert (await client.ask(a_request())).body == b"hello"
        assert (await client.ask(a_request("/", method="POST", body=b"x" * 100_000))).body == b"x" * 100_000
        assert served.asked[0]["scheme"] == "https"
        assert await client.ended() == b""


async def test_a_handshake_that_does_not_end_takes_room_and_is_cut(authority: trustme.CA) -> None:
    server, trusting = contexts(authority)
    async with serving(server, connections_per_address=1, head_s=1) as served, connected(served.url) as silent:
        async with connected(served.url, context=trusting) as client:
            assert said(await client.ask(a_request())) == "too_many_connections"
        assert await silent.ended() == b""
        async with connected(served.url) as plain:
            await plain.send(a_request())
            await plain.ended()

        async with connected(served.url, context=trusting) as client:
            assert (await client.ask(a_request())).status == 200


# The end


async def test_when_the_server_stops_answers_may_end_and_no_connection_is_left() -> None:
    async with AsyncExitStack() as stack:
        async with serving() as served:
            idle, ending, deaf, silent = [await stack.enter_async_context(connected(served.url)) for _ in range(4)]
            await idle.ask(a_request())
            await ending.send(a_request("/wait"))
            await deaf.send(a_request("/stream"))
            await silent.send(b"GET / HT")
            await until(_is(lambda: served.running == 2), "both are running")
            asyncio.get_running_loop().call_later(0.3, served.go.set)
        assert (await ending.answer()).body == b"waited"
        assert (await idle.ended(), await silent.ended()) == (b"", b"")
        assert served.running == 0
