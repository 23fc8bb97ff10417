"""How the answer of the relay is written over HTTP."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from broker.core.relay import Answered, Streamed
from broker.doors.http.caller import HttpCaller
from broker.doors.http.openai import OpenAI, Passed
from schemas.endpoints import ENDPOINTS
from schemas.units import Ms
from tests.builders import CHAT, an_id

pytestmark = pytest.mark.real


class Unwritable(Passed):
    """The answer of an engine that cannot be translated."""

    def whole(self, body: bytes) -> bytes:
        raise ValueError(body)


def a_caller(
    sent: list[dict[str, Any]], *, ended: Callable[..., object] = lambda _: None, streamed: bool = False
) -> HttpCaller:
    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    endpoint, job = ENDPOINTS[CHAT], UUID(str(an_id()))
    return HttpCaller(
        send,
        dialect=OpenAI(endpoint),
        answer=Passed(endpoint) if streamed else Unwritable(endpoint),
        request=job,
        streamed=streamed,
        clock=lambda: Ms(0),
        ended=ended,
    )


async def test_an_answer_that_cannot_be_written_ends_as_an_error(caplog: pytest.LogCaptureFixture) -> None:
    sent: list[dict[str, Any]] = []
    caller = a_caller(sent)

    await caller.end(Answered(b"{}", None))

    assert sent[0]["status"] == caller.status == 500
    assert b'"code":"internal"' in sent[1]["body"]
    assert "ValueError" in caplog.text


@pytest.mark.parametrize(
    ("pieces", "end", "is_whole"),
    [
        (["1", "2"], "3", True),
        (["1", "2"], "4", False),
        (["1", "3"], "4", False),
        (["2"], "3", False),
        ([], "3", True),
    ],
    ids=["all", "last_lost", "middle_lost", "first_lost", "all_lost"],
)
async def test_a_stream_that_lacks_a_piece_ends_as_an_error(pieces: list[str], end: str, *, is_whole: bool) -> None:
    sent: list[dict[str, Any]] = []
    caller = a_caller(sent, streamed=True)

    for sequence in pieces:
        await caller.piece(Streamed(b'{"choices":[{"index":0,"delta":{"content":"x"}}]}', sequence))
    await caller.end(Answered(ANSWER, end))

    said = b"".join(message.get("body", b"") for message in sent)
    assert (b"stream_broken" in said) is not is_whole
    assert (b"[DONE]" in said) is is_whole


ANSWER = (
    b'{"id":"x","object":"chat.completion","created":1,"model":"m","choices":[{"index":0,"finish_reason":"stop",'
    b'"message":{"role":"assistant","content":"xx"}}],"usage":{"prompt_tokens":1,"completion_tokens":2,"total_tokens":3}}'
)
