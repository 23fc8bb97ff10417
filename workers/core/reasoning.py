"""Tells when a model reasoned until its token limit was reached, and had none left to answer.

Such an answer is cut (`finish_reason` is `length`), has no visible text and no call of a tool, and shows that it reasoned:

| who | where the reasoning shows |
| --- | --- |
| OpenAI | only in `usage.completion_tokens_details.reasoning_tokens` |
| DeepSeek, llama.cpp's server, vLLM before 0.12 | in `message.reasoning_content` |
| vLLM, OpenRouter, Groq | in `message.reasoning`; at OpenRouter also in `message.reasoning_details` |
| Mistral | in parts of the content, of the type `thinking` |
| Google, xAI | in `usage.total_tokens`, which is more than prompt and completion together |
| an engine that does not take reasoning apart | in the content: a `<think>` that was not closed |
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from schemas.codec import UNREADABLE
from schemas.endpoints import Endpoint
from schemas.outcome import CutWhileReasoning, Usage
from workers.core.body import count_of, fields_of
from workers.core.usage import reasoning_tokens_of, usage_in

CUT = b'"length"'
"""What is in every answer that was cut: others need not be looked into."""
_json = msgspec.json.Decoder()
_OPEN, _CLOSE = "<think>", "</think>"


def cut_while_reasoning(
    response: bytes, usage: Usage, *, body: bytes, endpoint: Endpoint, most_tokens: int
) -> CutWhileReasoning | None:
    """Return what to say of a chat answer that is nothing but reasoning; None of any other.

    Of several choices all must be so; what is said is of one of them. `most_tokens` is the most that the model allows.
    """
    try:
        answer = _json.decode(response)
        choices = answer["choices"]
        for choice in choices:
            if choice.get("finish_reason") != "length" or _answers(choice["message"]):
                return None
        counted = reasoning_tokens_of(usage_in(answer) or {})
        if not choices or not (counted or all(_has_reasoned(choice["message"]) for choice in choices)):
            return None
    except (*UNREADABLE, KeyError, TypeError, AttributeError):
        return None
    field, limit = _limit(body, endpoint, most_tokens)
    return CutWhileReasoning(
        output_tokens=limit if usage.estimated else -(-usage.output_tokens // len(choices)),
        reasoning_tokens=-(-counted // len(choices)),
        field=field,
        limit_tokens=limit,
        most_tokens=most_tokens,
    )


def _answers(message: Mapping[str, Any]) -> bool:
    """Say whether a message has anything to show beside reasoning, or calls a tool."""
    content = message.get("content")
    if isinstance(content, str) and content and not content[0].isspace() and content[0] != "<":
        return True
    others = (message.get(name) for name in ("refusal", "tool_calls", "function_call", "audio"))
    return any(others) or _visible(content)


def _visible(content: Any) -> bool:
    """Say whether a content has anything to show beside reasoning."""
    match content:
        case None:
            return False
        case str():
            text = content.strip()
            return bool(text) and not _is_open_thought(text)
        case list():
            return any(_visible(part.get("text")) for part in content if part.get("type", "text") != "thinking")
        case _:
            return True


def _is_open_thought(text: str) -> bool:
    return text.startswith(_OPEN) and _CLOSE not in text


def _has_reasoned(message: Mapping[str, Any]) -> bool:
    content = message.get("content")
    if isinstance(content, str) and _is_open_thought(content.strip()):
        return True
    if isinstance(content, list) and any(part.get("type") == "thinking" for part in content):
        return True
    return any(message.get(name) for name in ("reasoning", "reasoning_content", "reasoning_details"))


def _limit(body: bytes, endpoint: Endpoint, most_tokens: int) -> tuple[str | None, int]:
    """Return the field of a body that limits a choice, and the limit; or none, and the most that the model allows."""
    fields = fields_of(body)
    asked = {name: count_of(_json.decode(fields[name])) for name in reversed(endpoint.limits) if name in fields}
    return next(((name, limit) for name, limit in asked.items() if limit is not None), (None, most_tokens))
