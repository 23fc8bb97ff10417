"""Translates the messages of an Anthropic conversation, block by block, into messages of a chat completion."""

from typing import Any, Literal

import msgspec

from broker.core.dialects.conversation import Conversation, Parts, image_part, text_part
from broker.core.dialects.reading import converted, misshapen, not_translated, remote_media, served, stated

_HARMLESS = frozenset({"cache_control"})
_THINKING = frozenset({"thinking", "redacted_thinking"})
"""Blocks that chat completions take no more than models need them: they reason anew."""
_ONLY: dict[str, tuple[Any, ...]] = {
    "caller": ({"type": "direct"},),
    "citations": ([],),
    "toolset_name": (),
    "transformations": ({},),
}
_FAILED = "Error: "
"""Stands before the result of a tool that failed, since chat completions have no other mark for it."""


class _Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: Literal["user", "assistant", "system"]
    content: str | list[dict[str, Any]]


class _TextBlock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: str
    text: str


class _ImageBlock(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: str
    source: dict[str, Any]


class _Source(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["base64"]
    media_type: str
    data: str


class _ToolUse(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: str
    id: str
    name: str
    input: dict[str, Any]


class _ToolResult(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: str
    tool_use_id: str
    content: str | list[dict[str, Any]] = ""
    is_error: bool = False


def text_of(content: str | list[dict[str, Any]], at: str) -> str:
    """Return the text of a system prompt, which may be in blocks. Raises: CannotTranslate."""
    if isinstance(content, str):
        return content
    return "\n".join(_text(block, place) for block, place in _placed(content, at))


def add_message(conversation: Conversation, message: dict[str, Any], at: str) -> None:
    """Add one message, which may become several. Raises: CannotTranslate."""
    read = converted(message, _Message, at)
    content: list[dict[str, Any]] | str = read.content
    match read.role:
        case "system":
            conversation.system(text_of(content, f"{at}.content"))
        case "user":
            _add_user(conversation, _blocks(content), f"{at}.content")
        case "assistant":
            _add_assistant(conversation, _blocks(content), f"{at}.content")


def _blocks(content: str | list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [text_part(content)] if isinstance(content, str) else content


def _placed(blocks: list[dict[str, Any]], at: str) -> list[tuple[dict[str, Any], str]]:
    """Return blocks without what says nothing, each with its place."""
    if not blocks:
        raise misshapen(at, "it must not be empty")
    kept = [{name: value for name, value in stated(block).items() if name not in _HARMLESS} for block in blocks]
    return [(block, f"{at}[{number}]") for number, block in enumerate(kept)]


def _add_user(conversation: Conversation, blocks: list[dict[str, Any]], at: str) -> None:
    """Add results of tools, each a message of its own, and then what the user says and shows."""
    shown: Parts = []
    for block, place in _placed(blocks, at):
        if block.get("type") == "tool_result":
            shown += _add_result(conversation, block, place)
        else:
            shown.append(_part(block, place))
    if shown:
        conversation.user(shown)


def _add_result(conversation: Conversation, block: dict[str, Any], at: str) -> Parts:
    """Add the result of a tool. Return the images in it: a tool shows none in a chat completion, so the user does."""
    result = converted(served(block, _ONLY, at=f"{at}."), _ToolResult, at)
    content = result.content
    parts = [_part(part, place) for part, place in _placed(_blocks(content), f"{at}.content")] if content else []
    text = "\n".join(part["text"] for part in parts if part["type"] == "text")
    conversation.result(result.tool_use_id, _FAILED + text if result.is_error else text)
    return [part for part in parts if part["type"] != "text"]


def _add_assistant(conversation: Conversation, blocks: list[dict[str, Any]], at: str) -> None:
    said: list[str] = []
    calls: list[_ToolUse] = []
    for block, place in _placed(blocks, at):
        match block.get("type"):
            case "tool_use":
                calls.append(converted(served(block, _ONLY, at=f"{place}."), _ToolUse, place))
            case str() as kind if kind in _THINKING:
                continue
            case _:
                said.append(_text(block, place))
    if said or not calls:
        conversation.assistant("".join(said))
    for call in calls:
        conversation.call(call.id, call.name, msgspec.json.encode(call.input).decode())


def _part(block: dict[str, Any], at: str) -> dict[str, Any]:
    if block.get("type") == "image":
        source = stated(converted(served(block, _ONLY, at=f"{at}."), _ImageBlock, at).source)
        if source.get("type") == "url":
            raise remote_media(f"{at}.source")
        if source.get("type") != "base64":
            raise not_translated(f"{at}.source.type", "only `base64` can be translated")
        image = converted(source, _Source, f"{at}.source")
        return image_part(f"data:{image.media_type};base64,{image.data}")
    return text_part(_text(block, at))


def _text(block: dict[str, Any], at: str) -> str:
    if block.get("type") != "text":
        why = f"a block of the type {block.get('type')!r} cannot be translated to a chat completion here"
        raise not_translated(f"{at}.type", why)
    return converted(served(block, _ONLY, at=f"{at}."), _TextBlock, at).text
