"""The message of an answer, and the events of its stream."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.dialects.messages import MessageStream, message
from broker.core.dialects.messages_request import MessagesRequest, translated
from broker.core.dialects.reading import Event
from tests.core.chat_answers import JOB, a_call, a_piece, a_whole, streams


def a_request(**fields: Any) -> MessagesRequest:
    user = {"role": "user", "content": "Hi"}
    read = translated(msgspec.json.encode({"model": "m", "max_tokens": 5, "messages": [user], **fields}))
    assert isinstance(read, MessagesRequest)
    return read


THINKING = a_request(thinking={"type": "adaptive"})


def test_a_text_is_a_block() -> None:
    assert message(a_request(), JOB, a_whole(content="So.", reasoning="hm")) == {
        "id": f"msg_{JOB.hex}",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "So."}],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": 8,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 4,
            "output_tokens": 5,
        },
    }


@pytest.mark.parametrize(
    ("arguments", "read"),
    [
        ('{"city":"Oslo"}', {"city": "Oslo"}),
        ("", {}),
        ('{"city":', {"INVALID_JSON": '{"city":'}),
        ("[1]", {"INVALID_JSON": "[1]"}),
    ],
)
def test_a_call_is_a_block_with_its_input(arguments: str, read: dict[str, Any]) -> None:
    answer = message(a_request(), JOB, a_whole(tool_calls=[a_call(arguments=arguments)], finish="tool_calls"))

    assert answer["content"] == [{"type": "tool_use", "id": "call_1", "name": "weather", "input": read}]
    assert answer["stop_reason"] == "tool_use"


def test_a_call_without_an_id_gets_one() -> None:
    answer = message(a_request(), JOB, a_whole(tool_calls=[a_call(call="")]))

    assert answer["content"][0]["id"] == f"toolu_{JOB.hex}_0"


def test_reasoning_is_shown_to_those_who_asked() -> None:
    answer = message(THINKING, JOB, a_whole(content="So.", reasoning="hm"))

    assert answer["content"][0] == {"type": "thinking", "thinking": "hm", "signature": ""}


@pytest.mark.parametrize(
    ("whole", "reason", "sequence"),
    [
        (a_whole(content="so"), "end_turn", None),
        (a_whole(content="so", finish=None, usage=None), "end_turn", None),
        (a_whole(content="so", finish="length"), "max_tokens", None),
        (a_whole(tool_calls=[a_call()], finish="length"), "max_tokens", None),
        (a_whole(tool_calls=[a_call()], finish="stop"), "tool_use", None),
        (a_whole(content="so", finish="content_filter"), "refusal", None),
        (a_whole(refusal="no"), "refusal", None),
        (a_whole(content="so", stop="END"), "stop_sequence", "END"),
        (a_whole(content="so", stop="other"), "end_turn", None),
        (a_whole(content="so", stop=7), "end_turn", None),
    ],
)
def test_why_an_answer_ended(whole: bytes, reason: str, sequence: str | None) -> None:
    answer = message(a_request(stop_sequences=["END"]), JOB, whole)

    assert (answer["stop_reason"], answer["stop_sequence"]) == (reason, sequence)


def test_the_events_of_a_stream() -> None:
    stream = MessageStream(THINKING, JOB)
    pieces = [a_piece(reasoning="hm"), a_piece(content="So"), a_piece(content="."), a_piece(tool_calls=[a_call()])]

    events = [event for piece in pieces for event in stream.piece(piece)]
    events += stream.end(a_whole(content="So.", reasoning="hm", tool_calls=[a_call()]))

    assert [event.name for event in events] == [
        "message_start",
        "ping",
        *["content_block_start", "content_block_delta", "content_block_stop"],
        *["content_block_start", "content_block_delta", "content_block_delta", "content_block_stop"],
        *["content_block_start", "content_block_delta", "content_block_stop"],
        "message_delta",
        "message_stop",
    ]
    assert all(event.data["type"] == event.name for event in events)
    assert events[-2].data["delta"] == {"stop_reason": "tool_use", "stop_sequence": None}
    assert events[-2].data["usage"]["output_tokens"] == 5


@given(streams(), st.data())
def test_pieces_cut_anywhere_make_the_same_message(stream: tuple[list[bytes], bytes], data: st.DataObject) -> None:
    pieces, whole = stream
    translation = MessageStream(THINKING, JOB)

    events = [
        event for piece in pieces[: data.draw(st.integers(0, len(pieces)))] for event in translation.piece(piece)
    ]
    events += translation.end(whole)

    assert accumulated(events) == message(THINKING, JOB, whole)


def accumulated(events: list[Event]) -> dict[str, Any]:
    """Put a message together as clients do."""
    whole: dict[str, Any] = {}
    inputs: dict[int, str] = {}
    for name, data in events:
        if name == "message_start":
            whole = msgspec.json.decode(msgspec.json.encode(data["message"]))
        elif name == "content_block_start":
            assert data["index"] == len(whole["content"])
            whole["content"].append(dict(data["content_block"]))
        elif name == "content_block_delta":
            block, delta = whole["content"][data["index"]], data["delta"]
            for field in ("text", "thinking"):
                block |= {field: block[field] + delta[field]} if field in delta else {}
            inputs[data["index"]] = inputs.get(data["index"], "") + delta.get("partial_json", "")
        elif name == "content_block_stop" and whole["content"][data["index"]]["type"] == "tool_use":
            whole["content"][data["index"]]["input"] = msgspec.json.decode(inputs.get(data["index"]) or "{}")
        elif name == "message_delta":
            whole |= data["delta"] | {"usage": data["usage"]}
    return whole
