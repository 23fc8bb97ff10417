"""What the HTTP server writes at once."""

import asyncio

import pytest

from broker.doors.protocol import Answering

pytestmark = pytest.mark.real
HEAD, BODY = b"HTTP/1.1 200 OK\r\n\r\n", b"answer"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Written(asyncio.Transport):
    """Keeps what is written, and says when it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.calls.append(bytes(data))

    def close(self) -> None:
        self.calls.append(b"closed")


@pytest.mark.parametrize(
    ("has_body", "written", "expected"),
    [
        (True, [HEAD], []),
        (True, [HEAD, BODY], [HEAD + BODY]),
        (True, [HEAD, b""], [HEAD]),
        (True, [HEAD, BODY, BODY], [HEAD + BODY, BODY]),
        (True, [CONTINUE, HEAD, BODY], [CONTINUE, HEAD + BODY]),
        (False, [HEAD], [HEAD]),
    ],
    ids=["the head waits", "head and body", "head alone", "a second part", "a word before", "no body to come"],
)
async def test_the_head_of_an_answer_leaves_with_the_first_of_its_body(
    has_body: bool,  # noqa: FBT001
    written: list[bytes],
    expected: list[bytes],
) -> None:
    transport = Written()
    answering = Answering(transport, transport.close, has_body=has_body)

    for data in written:
        answering.write(data)

    assert transport.calls == expected


async def test_a_head_whose_body_never_comes_leaves_before_the_connection_ends() -> None:
    transport = Written()
    answering = Answering(transport, transport.close, has_body=True)

    answering.write(HEAD)
    answering.close()

    assert transport.calls == [HEAD, b"closed"]
