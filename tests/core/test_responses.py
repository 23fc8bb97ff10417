"""The response object of an answer, and the events of its stream."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.dialects.reading import Event
from broker.core.dialects.responses import ResponseStream, response
from broker.core.dialects.responses_request import ResponsesRequest, translated
from tests.core.chat_answers import JOB, a_call, a_piece, a_whole, streams


def a_request(**fields: Any) -> ResponsesRequest:
    read = translated(msgspec.json.encode({"model": "m", "input": "Hi", **fields}))
    assert isinstance(read, ResponsesRequest)
    return read


def items(whole: bytes) -> list[Any]:
    output: list[Any] = response(a_request(), JOB, whole)["output"]
    return output


def test_a_text_is_a_message() -> None:
    answer = response(a_request(temperature=0.5), JOB, a_whole(content="So."))

    assert answer["output"] == [
        {
            "id": f"msg_{JOB.hex}_0",
            "type": "message",
            "role": "assistant",
            "status": "completed",
            "content": [{"type": "output_text", "text": "So.", "annotations": [], "logprobs": []}],
        }
    ]
    assert (answer["id"], answer["object"], answer["status"]) == (f"resp_{JOB.hex}", "response", "completed")
    assert (answer["created_at"], answer["store"], answer["temperature"]) == (1_790_000_000, False, 0.5)
    assert answer["usage"] == {
        "input_tokens": 12,
        "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 0},
        "output_tokens": 5,
        "output_tokens_details": {"reasoning_tokens": 2},
        "total_tokens": 17,
    }


def test_reasoning_and_calls_are_items_of_their_own() -> None:
    found = items(a_whole(reasoning="hm", tool_calls=[a_call(call="call_9"), a_call(call="")], finish="tool_calls"))

    assert [item["type"] for item in found] == ["reasoning", "function_call", "function_call"]
    assert found[0]["content"] == [{"type": "reasoning_text", "text": "hm"}]
    assert (found[1]["call_id"], found[1]["name"], found[1]["arguments"]) == ("call_9", "weather", '{"city":"Oslo"}')
    assert found[2]["call_id"] == f"call_{JOB.hex}_2"


def test_a_refusal_is_a_part_of_a_message() -> None:
    assert items(a_whole(refusal="No."))[0]["content"] == [{"type": "refusal", "refusal": "No."}]


@pytest.mark.parametrize(
    ("finish", "reason"), [("length", "max_output_tokens"), ("content_filter", "content_filter")]
)
def test_what_was_cut_is_incomplete(finish: str, reason: str) -> None:
    whole = a_whole(content="so", reasoning="hm", finish=finish)
    answer = response(a_request(), JOB, whole)
    events = ResponseStream(a_request(), JOB).end(whole)

    assert (answer["status"], answer["incomplete_details"]) == ("incomplete", {"reason": reason})
    assert [item["status"] for item in answer["output"]] == ["completed", "incomplete"]
    assert events[-1].name == "response.incomplete"
    assert events[-2].data["item"]["status"] == "incomplete"


def test_the_events_of_a_text() -> None:
    stream = ResponseStream(a_request(), JOB)

    events = [event for text in ("So", ".") for event in stream.piece(a_piece(content=text))]
    events += stream.end(a_whole(content="So."))

    assert [event.name.removeprefix("response.") for event in events] == [
        "created",
        "in_progress",
        "output_item.added",
        "content_part.added",
        "output_text.delta",
        "output_text.delta",
        "output_text.done",
        "content_part.done",
        "output_item.done",
        "completed",
    ]
    assert [event.data["response"]["status"] for event in (*events[:2], events[-1])] == [
        *["in_progress"] * 2,
        "completed",
    ]
    assert events[2].data["item"] == {**items(a_whole(content="So."))[0], "status": "in_progress", "content": []}


def test_the_events_of_reasoning_a_refusal_and_a_call() -> None:
    whole = a_whole(reasoning="hm", refusal="No.", tool_calls=[a_call()])

    names = [event.name.removeprefix("response.") for event in ResponseStream(a_request(), JOB).end(whole)]

    assert [
        name for name in names if name.endswith((".delta", ".done")) and "item" not in name and "part" not in name
    ] == [
        "reasoning_text.delta",
        "reasoning_text.done",
        "refusal.delta",
        "refusal.done",
        "function_call_arguments.delta",
        "function_call_arguments.done",
    ]


@pytest.mark.parametrize(
    ("code", "expected"),
    [("rate_limited", "rate_limit_exceeded"), ("bad_request", "invalid_prompt"), ("engine_fault", "server_error")],
)
def test_an_error_ends_the_stream_with_what_came(code: str, expected: str) -> None:
    stream = ResponseStream(a_request(), JOB)
    stream.piece(a_piece(content="So"))

    (failed,) = stream.failed(code, "It broke.")

    assert failed.name == "response.failed"
    assert failed.data["response"]["status"] == "failed"
    assert failed.data["response"]["error"] == {"code": expected, "message": "It broke."}
    assert failed.data["response"]["output"][0]["content"][0]["text"] == "So"
    assert failed.data["response"]["output"][0]["status"] == "incomplete"


def test_a_stream_that_fails_at_once_begins_all_the_same() -> None:
    names = [event.name for event in ResponseStream(a_request(), JOB).failed("expired", "Too late.")]

    assert names == ["response.created", "response.in_progress", "response.failed"]


@given(streams(), st.data())
def test_pieces_cut_anywhere_end_with_the_same_response(
    stream: tuple[list[bytes], bytes], data: st.DataObject
) -> None:
    pieces, whole = stream
    translation = ResponseStream(a_request(), JOB)

    events = [
        event for piece in pieces[: data.draw(st.integers(0, len(pieces)))] for event in translation.piece(piece)
    ]
    events += translation.end(whole)

    assert events[-1].data["response"] == response(a_request(), JOB, whole)
    assert [event.data["sequence_number"] for event in events] == list(range(len(events)))
    assert pieced(events) == [written(item) for item in events[-1].data["response"]["output"]]
    assert dones(events) == events[-1].data["response"]["output"]


def pieced(events: list[Event]) -> list[str]:
    """Join the pieces of each item."""
    added = [event for event in events if event.name == "response.output_item.added"]
    deltas = [event.data for event in events if event.name.endswith(".delta")]
    return ["".join(d["delta"] for d in deltas if d["item_id"] == event.data["item"]["id"]) for event in added]


def written(item: dict[str, Any]) -> str:
    part = item["content"][0] if "content" in item else item
    return str(part.get("text", part.get("refusal", part.get("arguments"))))


def dones(events: list[Event]) -> list[Any]:
    """List the items that were done, by their place."""
    found = [event.data for event in events if event.name == "response.output_item.done"]
    return [data["item"] for data in sorted(found, key=lambda data: data["output_index"])]
