"""What a stream of OpenAI's endpoints tells of its usage, whichever engine made it."""

import json
from typing import Any

import pytest

from broker.doors.http.openai import DONE, Passed
from schemas.endpoints import ENDPOINTS

ENDPOINT = ENDPOINTS["/v1/chat/completions"]
USAGE = {"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3}
ANSWER = json.dumps(
    {
        "id": "1",
        "object": "chat.completion",
        "created": 0,
        "model": "m",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi."}, "finish_reason": "stop"}],
        "usage": USAGE,
    }
).encode()
TEXT = b'{"choices":[{"index":0,"delta":{"content":"\\"usage\\": {"}}],"usage":null}'
LAST = b'{"id":"1","choices": [],\n"usage": {"prompt_tokens": 1}}'


def a_stream(answer: Passed, *pieces: bytes) -> list[Any]:
    events = b"".join(answer.piece(piece) for piece in pieces) + answer.end(ANSWER, pieces=len(pieces))
    assert events.endswith(DONE)
    return [json.loads(event.removeprefix(b"data: ")) for event in events.removesuffix(DONE).split(b"\n\n") if event]


def test_a_chunk_with_nothing_but_usage_is_left_out_unless_it_was_asked_for() -> None:
    events = a_stream(Passed(ENDPOINT), TEXT, LAST)

    assert events == [json.loads(TEXT)]


def test_a_chunk_with_usage_is_passed_on_where_it_was_asked_for() -> None:
    events = a_stream(Passed(ENDPOINT, tells_usage=True), TEXT, LAST)

    assert events == [json.loads(TEXT), json.loads(LAST)]


def test_usage_that_no_piece_told_comes_out_of_the_whole_answer() -> None:
    events = a_stream(Passed(ENDPOINT, tells_usage=True), TEXT)

    head = {"id": "1", "created": 0, "model": "m", "object": "chat.completion.chunk"}
    assert events == [json.loads(TEXT), {**head, "choices": [], "usage": USAGE}]


def test_an_engine_that_does_not_stream_tells_its_usage_once() -> None:
    [event] = a_stream(Passed(ENDPOINT, tells_usage=True))

    assert (event["usage"], len(event["choices"])) == (USAGE, 1)


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"usage": null}'], ids=["a_list", "no_json", "no_usage"])
def test_usage_that_cannot_be_told_is_not(body: bytes) -> None:
    assert Passed(ENDPOINT, tells_usage=True).end(body, pieces=1) == DONE
