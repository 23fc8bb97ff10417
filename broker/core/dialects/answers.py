"""Reads what a chat completion says, whole or in one piece of its stream. Of several choices the first counts.

Engines differ in small things, and their pieces reach this as they were sent. So what cannot be read says nothing.
"""

from typing import Any, NamedTuple

import msgspec

_any = msgspec.json.Decoder()
CUT = "length"
FILTERED = "content_filter"


class CallPiece(NamedTuple):
    """What is said of one call of a tool."""

    number: int
    """Which call it is: the same in each of its pieces."""
    id: str
    name: str
    arguments: str


class Usage(NamedTuple):
    """The tokens of an answer, as chat completions count them."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    cached_tokens: int
    reasoning_tokens: int


class Said(NamedTuple):
    """What a piece, or a whole answer, says. Empty: nothing of that."""

    reasoning: str = ""
    text: str = ""
    refusal: str = ""
    calls: tuple[CallPiece, ...] = ()
    logprobs: tuple[dict[str, Any], ...] = ()
    """Those of the tokens of the text."""
    finish: str | None = None
    stop: str | None = None
    """The stop sequence that ended the answer, where the engine says so, as vLLM does."""
    usage: Usage | None = None


def said_in(data: bytes) -> Said:
    """Read a whole answer, or a piece of one."""
    try:
        read = _any.decode(data)
    except (ValueError, RecursionError):
        return Said()
    if not isinstance(read, dict):
        return Said()
    choices = read.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    usage = _usage(read.get("usage"))
    return _of_choice(choice, usage) if isinstance(choice, dict) else Said(usage=usage)


def _of_choice(choice: dict[str, Any], usage: Usage | None) -> Said:
    message = choice.get("delta") or choice.get("message")
    message = message if isinstance(message, dict) else {}
    content = message.get("content")
    return Said(
        reasoning=_text(message.get("reasoning")) or _text(message.get("reasoning_content")) or _thoughts(content),
        text=_text(content),
        refusal=_text(message.get("refusal")),
        calls=_calls(message.get("tool_calls")),
        logprobs=_logprobs(choice.get("logprobs")),
        finish=_text(choice.get("finish_reason")) or None,
        stop=_text(choice.get("stop_reason")) or None,
        usage=usage,
    )


def _text(value: Any) -> str:
    """Return a text, or the texts among the parts of a content."""
    match value:
        case str():
            return value
        case list():
            parts = [part for part in value if isinstance(part, dict) and part.get("type", "text") == "text"]
            return "".join(_text(part.get("text")) for part in parts)
        case _:
            return ""


def _thoughts(content: Any) -> str:
    """Return the reasoning among the parts of a content, as at Mistral."""
    parts = content if isinstance(content, list) else ()
    return "".join(_text(part.get("thinking")) for part in parts if isinstance(part, dict))


def _calls(value: Any) -> tuple[CallPiece, ...]:
    calls = value if isinstance(value, list) else ()
    return tuple(_call(call, place) for place, call in enumerate(calls) if isinstance(call, dict))


def _call(call: dict[str, Any], place: int) -> CallPiece:
    function = call.get("function")
    function = function if isinstance(function, dict) else {}
    arguments = function.get("arguments")
    if isinstance(arguments, dict):  # as at Ollama
        arguments = msgspec.json.encode(arguments).decode()
    index = call.get("index")
    number = index if isinstance(index, int) else place
    return CallPiece(number, _text(call.get("id")), _text(function.get("name")), _text(arguments))


def _logprobs(value: Any) -> tuple[dict[str, Any], ...]:
    tokens = value.get("content") if isinstance(value, dict) else None
    return tuple(token for token in tokens if isinstance(token, dict)) if isinstance(tokens, list) else ()


def _usage(value: Any) -> Usage | None:
    if not isinstance(value, dict):
        return None
    given, made = _count(value, "prompt_tokens"), _count(value, "completion_tokens")
    return Usage(
        input_tokens=given,
        output_tokens=made,
        total_tokens=_count(value, "total_tokens") or given + made,
        cached_tokens=_count(value.get("prompt_tokens_details"), "cached_tokens"),
        reasoning_tokens=_count(value.get("completion_tokens_details"), "reasoning_tokens"),
    )


def _count(counts: Any, name: str) -> int:
    value = counts.get(name) if isinstance(counts, dict) else None
    return int(value) if isinstance(value, int | float) else 0
