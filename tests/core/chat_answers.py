"""Answers of a chat completion, whole and cut into pieces, for the tests of what is made of them."""

from typing import Any
from uuid import UUID

import msgspec
from hypothesis import strategies as st

from schemas.ids import uuid7
from schemas.units import Ms

JOB: UUID = uuid7(Ms(1_790_000_000_000), 7)
USAGE = {
    "prompt_tokens": 12,
    "completion_tokens": 5,
    "total_tokens": 17,
    "prompt_tokens_details": {"cached_tokens": 4},
    "completion_tokens_details": {"reasoning_tokens": 2},
}


def a_whole(*, finish: str | None = "stop", usage: Any = USAGE, stop: Any = None, **message: Any) -> bytes:
    """Make a whole answer whose message has these fields."""
    choice = {"index": 0, "message": {"role": "assistant", "content": None, **message}, "finish_reason": finish}
    choice |= {} if stop is None else {"stop_reason": stop}
    return msgspec.json.encode({"object": "chat.completion", "choices": [choice], "usage": usage})


def a_piece(**delta: Any) -> bytes:
    """Make a piece of a stream with this delta."""
    return msgspec.json.encode({"object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta}]})


def a_call(name: str = "weather", arguments: str = '{"city":"Oslo"}', *, call: str = "call_1") -> dict[str, Any]:
    return {"id": call, "type": "function", "function": {"name": name, "arguments": arguments}}


texts = st.text(max_size=8)
_arguments = st.dictionaries(texts, st.integers(0, 99) | texts, max_size=2).map(
    lambda read: msgspec.json.encode(read).decode()
)


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[bytes], bytes]:
    """Make the pieces of a stream, cut anywhere, and the whole answer."""
    reasoning, text = draw(texts), draw(texts)
    calls = [a_call(f"tool_{n}", draw(_arguments), call=f"call_{n}") for n in range(draw(st.integers(0, 3)))]
    pieces = [a_piece(role="assistant", content="")]
    pieces += [a_piece(reasoning_content=part) for part in draw(_cut(reasoning))]
    pieces += [a_piece(content=part) for part in draw(_cut(text))]
    for index, call in enumerate(calls):
        function = call["function"]
        begun = {
            "index": index,
            "id": call["id"],
            "type": "function",
            "function": {"name": function["name"], "arguments": ""},
        }
        pieces.append(a_piece(tool_calls=[begun]))
        cuts = draw(_cut(function["arguments"]))
        pieces += [a_piece(tool_calls=[{"index": index, "function": {"arguments": part}}]) for part in cuts]
    finish = draw(st.sampled_from(["stop", "length", "content_filter"]))
    message = {"reasoning_content": reasoning, "content": text or None, "tool_calls": calls or None}
    return pieces, a_whole(finish=finish, **message)


@st.composite
def _cut(draw: st.DrawFn, text: str) -> list[str]:
    places = sorted(draw(st.sets(st.integers(1, len(text) - 1), max_size=3))) if len(text) > 1 else []
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
