"""How the answer of the relay is written over HTTP."""

from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from broker.core.relay import Answered
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


def a_caller(sent: list[dict[str, Any]], *, ended: Callable[..., object] = lambda _: None) -> HttpCaller:
    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    endpoint, job = ENDPOINTS[CHAT], UUID(str(an_id()))
    return HttpCaller(
        send,
        dialect=OpenAI(endpoint),
        answer=Unwritable(endpoint),
        request=job,
        streamed=False,
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
