"""Translates the items of a Responses conversation into messages of a chat completion."""

from typing import Any, Literal

import msgspec

from broker.core.dialects.conversation import Conversation, Parts, compact, image_part, text_part
from broker.core.dialects.reading import converted, misshapen, not_translated, remote_media, served, stated

_HARMLESS: dict[str, tuple[Any, ...]] = {"namespace": (), "caller": ({"type": "direct"},), "async": (False,)}
_SERVED = "message, function_call, function_call_output and reasoning"


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: Literal["user", "assistant", "system", "developer"]
    content: str | list[dict[str, Any]]
    type: str = "message"
    id: str | None = None
    status: str | None = None
    phase: str | None = None


class _Call(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: str
    call_id: str
    name: str
    arguments: str
    id: str | None = None
    status: str | None = None


class _Result(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: str
    call_id: str
    output: str | list[dict[str, Any]]
    id: str | None = None
    name: str | None = None
    status: str | None = None


class _TextPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: str
    text: str
    annotations: Any = None
    logprobs: Any = None
    prompt_cache_breakpoint: Any = None


class _RefusalPart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: str
    refusal: str


class _ImagePart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: str
    image_url: str
    detail: str | None = None
    prompt_cache_breakpoint: Any = None


class _FilePart(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: str
    file_data: str
    filename: str | None = None
    detail: str | None = None
    prompt_cache_breakpoint: Any = None


def add_items(conversation: Conversation, items: list[dict[str, Any]]) -> None:
    """Add each item, in order. Raises: CannotTranslate."""
    if not items:
        raise misshapen("input", "it must not be empty")
    for number, item in enumerate(items):
        _add(conversation, stated(item), f"input[{number}]")


def _add(conversation: Conversation, item: dict[str, Any], at: str) -> None:
    match item.get("type", "message"):
        case "message":
            _add_message(conversation, converted(item, _Message, at), at)
        case "function_call":
            call = converted(served(item, _HARMLESS, at=f"{at}."), _Call, at)
            conversation.call(call.call_id, call.name, call.arguments)
        case "function_call_output":
            result = converted(served(item, _HARMLESS, at=f"{at}."), _Result, at)
            conversation.result(result.call_id, _result(result.output, f"{at}.output"))
        case "reasoning":
            """Chat completions take no reasoning back: models reason anew."""
        case str() as other:
            raise not_translated(
                f"{at}.type", f"an item of the type {other!r} cannot be translated: only {_SERVED} can"
            )
        case _:
            raise misshapen(f"{at}.type", "it must be a text")


def _add_message(conversation: Conversation, message: _Message, at: str) -> None:
    given = message.content
    parts = [text_part(given)] if isinstance(given, str) else _parts(given, f"{at}.content")
    match message.role:
        case "user":
            conversation.user(parts)
        case "assistant":
            conversation.assistant(_texts(parts, "", f"{at}.content"))
        case _:
            conversation.system(_texts(parts, "\n", f"{at}.content"))


def _result(output: str | list[dict[str, Any]], at: str) -> str | Parts:
    if isinstance(output, str):
        return output
    parts = _parts(output, at)
    _texts(parts, "", at)
    return compact(parts)


def _texts(parts: Parts, between: str, at: str) -> str:
    """Join parts that are texts. Raises: CannotTranslate, if one is something else."""
    for number, part in enumerate(parts):
        if part["type"] != "text":
            raise not_translated(f"{at}[{number}]", "only the user can show images and files in a chat completion")
    return between.join(part["text"] for part in parts)


def _parts(content: list[dict[str, Any]], at: str) -> Parts:
    if not content:
        raise misshapen(at, "it must not be empty")
    return [_part(stated(part), f"{at}[{number}]") for number, part in enumerate(content)]


def _part(part: dict[str, Any], at: str) -> dict[str, Any]:
    match part.get("type"):
        case "input_text" | "output_text":
            return text_part(converted(part, _TextPart, at).text)
        case "refusal":
            return text_part(converted(part, _RefusalPart, at).refusal)
        case "input_image":
            image = converted(_unstored(part, at), _ImagePart, at)
            return image_part(_inline(image.image_url, f"{at}.image_url"), image.detail)
        case "input_file":
            file = converted(_unstored(part, at), _FilePart, at)
            named = {} if file.filename is None else {"filename": file.filename}
            return {"type": "file", "file": {"file_data": _inline(file.file_data, f"{at}.file_data"), **named}}
        case other:
            raise not_translated(f"{at}.type", f"a part of the type {other!r} cannot be translated")


def _unstored(part: dict[str, Any], at: str) -> dict[str, Any]:
    return served(part, {"file_id": (), "file_url": ()}, at=f"{at}.")


def _inline(url: str, at: str) -> str:
    if not url.lower().startswith("data:"):
        raise remote_media(at)
    return url
