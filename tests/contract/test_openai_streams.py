"""A stream is one answer, however it is cut and whatever says nothing in it: in the engine, and for who reads it."""

import asyncio
import itertools
import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from broker.client.reading import StreamText, text_of
from schemas.endpoints import CHAT
from schemas.outcome import Failed, Succeeded, Usage
from tests.builders import a_report
from tests.contract.test_openai import a_request, serving, steps_of
from workers.core.assembly import ResponseAssembler
from workers.core.bounds import within_bounds
from workers.core.sse import DONE, Events
from workers.ports import Chunk, Step

NOTHING: st.SearchStrategy[Any] = st.sampled_from([None, "", {}, []])
_WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


@st.composite
def streams(draw: st.DrawFn) -> tuple[list[dict[str, Any]], str, Usage]:
    """The objects of a stream, with nulls and empties where the schema allows them; its text and its usage."""
    text, used = draw(_WORDS), Usage(draw(st.integers(1, 99)), draw(st.integers(1, 99)))
    units = text.encode("utf-16-le")
    cuts = sorted({0, len(units), *(2 * draw(st.integers(0, len(units) // 2)) for _ in range(3))})
    pieces = [units[a:b].decode("utf-16-le", "surrogatepass") for a, b in itertools.pairwise(cuts)]
    events = [_an_event(draw, {"content": piece}) for piece in pieces]
    events.append(_an_event(draw, {}, reason="stop"))
    for place in sorted(draw(st.lists(st.integers(0, len(events)), max_size=3)), reverse=True):
        events.insert(place, draw(st.sampled_from([{"choices": []}, {"choices": None}, _an_event(draw, {})])))
    events.append(
        {"choices": [], "usage": {"prompt_tokens": used.input_tokens, "completion_tokens": used.output_tokens}}
    )
    events.append({"choices": draw(st.sampled_from([[], None])), "usage": None, "error": draw(NOTHING)})
    return events, text, used


def _an_event(draw: st.DrawFn, delta: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    empties = {name: draw(st.sampled_from([None, ""])) for name in ("role", "refusal") if draw(st.booleans())}
    nulls = {name: None for name in ("tool_calls", "function_call", "content") if draw(st.booleans())}
    choice = {
        "index": 0,
        "delta": {**nulls, **empties, **delta},
        "logprobs": None,
        "finish_reason": reason or draw(st.sampled_from([None, ""])),
    }
    return {"id": "c", "object": "chat.completion.chunk", "choices": [choice], "usage": None, "error": draw(NOTHING)}


def on_the_wire(events: list[dict[str, Any]]) -> bytes:
    return b"".join(b"data: %s\n\n" % json.dumps(event).encode() for event in events) + b"data: [DONE]\n\n"


def cut(wire: bytes, cuts: list[int]) -> list[bytes]:
    places = sorted({0, len(wire), *(place % (len(wire) + 1) for place in cuts)})
    return [wire[a:b] for a, b in itertools.pairwise(places)]


@given(streams(), st.lists(st.integers(0, 10**6), max_size=8))
def test_a_stream_that_is_cut_anywhere_is_the_same_answer(
    stream: tuple[list[dict[str, Any]], str, Usage], cuts: list[int]
) -> None:
    events, text, used = stream
    parser, whole = Events(), ResponseAssembler(CHAT)

    payloads = [payload for part in cut(on_the_wire(events), cuts) for payload in parser.feed(part)]
    for payload in payloads:
        if payload != DONE:
            whole.add(json.loads(payload))

    assert payloads[-1] == DONE
    assert whole.is_finished()
    assert text_of(whole.body()) == text
    assert whole.usage.get("completion_tokens") == used.output_tokens


async def _steps(parts: list[bytes]) -> list[Step]:
    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
        for part in parts:
            writer.write(part)
            await writer.drain()

    async with serving(script, options={"profile": "generic"}) as (_, engine):
        return await steps_of(engine, a_request(streamed=True))


@settings(max_examples=60, deadline=None)
@given(streams(), st.lists(st.integers(0, 10**6), max_size=4))
def test_the_engine_makes_one_answer_of_it_and_a_reader_the_same_text(
    stream: tuple[list[dict[str, Any]], str, Usage], cuts: list[int]
) -> None:
    events, text, used = stream

    *pieces, last = asyncio.run(_steps(cut(on_the_wire(events), cuts)))

    assert isinstance(last, Succeeded), last
    assert (text_of(last.body), last.usage) == (text, used)
    reader = StreamText()
    assert "".join(reader.of(piece.data) for piece in pieces if isinstance(piece, Chunk)) == text


_JUNK = st.sampled_from(
    [b"data: ", b"\n\n", b"{", b"}", b"[DONE]", b'"choices"', b'"error"', b"null", b":", b",", b"\xff", b"error: "]
)


@settings(max_examples=60, deadline=None)
@given(
    junk=st.lists(_JUNK | st.binary(max_size=8), max_size=12), status=st.integers(200, 599), streamed=st.booleans()
)
def test_no_sequence_of_bytes_is_anything_but_an_answer_or_a_failure(
    junk: list[bytes], status: int, *, streamed: bool
) -> None:
    body = b"".join(junk)
    kind = b"text/event-stream" if streamed else b"application/json"
    head = b"HTTP/1.1 %d X\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n" % (status, kind, len(body))

    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(head + body)

    async def ends() -> list[Step]:
        async with serving(script) as (_, engine):
            return await steps_of(engine, a_request(streamed=streamed))

    *_, last = asyncio.run(ends())
    assert isinstance(last, Succeeded | Failed)


_ODD: st.SearchStrategy[Any] = st.sampled_from(
    [None, "", 0, -1, 1.5, True, [], {}, [None], "x", "\ud83d", float("inf"), float("nan"), 10**30, [[{}]], {"a": []}]
)


def _places(value: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """All places in a JSON value."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [here, *(place for key, part in parts for place in _places(part, (*here, key)))]


def _replaced(value: Any, place: tuple[Any, ...], new: Any) -> Any:
    if not place:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[place[0]] = _replaced(value[place[0]], place[1:], new)
    return copy


_CALLS = [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}]
_LOGPROBS = {"content": [{"token": "x", "logprob": -0.1, "bytes": None, "top_logprobs": []}]}
_COUNTS = {
    "prompt_tokens": 9,
    "completion_tokens": 4,
    "total_tokens": 13,
    "prompt_tokens_details": {"cached_tokens": 3},
    "cost": 0.1,
}
_ENTIRE: dict[str, Any] = {
    "id": "c",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "x", "tool_calls": _CALLS},
            "logprobs": _LOGPROBS,
            "finish_reason": "stop",
        }
    ],
    "usage": _COUNTS,
}
_PIECE = {"id": "c", "choices": [{**_ENTIRE["choices"][0], "delta": {"content": "x", "tool_calls": _CALLS}}]}
_REFUSAL = {
    "error": {
        "message": "no",
        "code": 429,
        "type": "t",
        "param": "p",
        "retry_after": 1,
        "details": [{"retryDelay": "8s"}],
        "metadata": {"raw": "{}", "headers": {"X-RateLimit-Reset": "1"}},
    },
    "usage": _COUNTS,
}


@settings(max_examples=150, deadline=None)
@given(st.sampled_from([_ENTIRE, _PIECE, _REFUSAL]), st.data(), st.sampled_from([200, 400, 404, 429, 500]))
def test_no_odd_value_anywhere_is_anything_but_an_answer_or_a_failure_that_can_be_reported(
    said: dict[str, Any], data: st.DataObject, status: int
) -> None:
    for _ in range(data.draw(st.integers(1, 3))):
        said = _replaced(said, data.draw(st.sampled_from(_places(said)[1:])), data.draw(_ODD))
    streamed, body = status == 200 and data.draw(st.booleans()), json.dumps(said).encode()

    async def script(writer: asyncio.StreamWriter) -> None:
        kind, sent = (
            ("text/event-stream", b"data: " + body + b"\n\ndata: [DONE]\n\n") if streamed else ("text/json", body)
        )
        head = f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(sent)}\r\n\r\n"
        writer.write(head.encode() + sent)

    async def ends() -> list[Step]:
        async with serving(script, options={"profile": "openrouter"}) as (_, engine):
            return await steps_of(engine, a_request(streamed=streamed))

    *pieces, last = asyncio.run(ends())
    assert isinstance(last, Succeeded | Failed)
    assert msgspec.msgpack.encode(a_report(within_bounds(last)))
    assert last.usage.cached_tokens <= last.usage.input_tokens
    reader = StreamText()
    for piece in pieces:
        assert isinstance(piece, Chunk)
        assert reader.of(piece.data).encode() is not None
