"""Builds the messages of a chat completion in the order in which a conversation is told."""

from typing import Any

import msgspec

Parts = list[dict[str, Any]]
"""The content of a message in parts, as chat completions have them."""


def text_part(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def image_part(url: str, detail: str | None = None) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url} if detail is None else {"url": url, "detail": detail}}


def compact(parts: Parts) -> str | Parts:
    """Return a single text as a text, which every engine takes; anything else as it is."""
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


def schema_format(
    name: str, schema: Any, *, description: str | None = None, strict: bool | None = None
) -> dict[str, Any]:
    """Return the response format that demands JSON of a schema."""
    stated: dict[str, Any] = {"name": name, "schema": schema}
    stated |= {} if description is None else {"description": description}
    return {"type": "json_schema", "json_schema": stated | ({} if strict is None else {"strict": strict})}


def function_tool(
    name: str, parameters: Any, *, description: str | None = None, strict: bool | None = None
) -> dict[str, Any]:
    """Return the tool of a chat completion. None: the caller said nothing of that."""
    said = {"description": description, "parameters": parameters, "strict": strict}
    return {
        "type": "function",
        "function": {"name": name} | {key: value for key, value in said.items() if value is not None},
    }


def named_tool(name: str) -> dict[str, Any]:
    """Return the choice of this tool."""
    return {"type": "function", "function": {"name": name}}


def with_tools(tools: list[dict[str, Any]], choice: Any, *, parallel: bool | None) -> dict[str, Any]:
    """Return the fields that have to do with tools. Without tools there are none: APIs refuse a choice among nothing."""
    if not tools:
        return {}
    said = {"tools": tools, "tool_choice": choice, "parallel_tool_calls": parallel}
    return {name: value for name, value in said.items() if value is not None}


def encoded(fields: dict[str, Any]) -> bytes:
    """Encode the body of a chat completion. None: the field is left out."""
    return msgspec.json.encode({name: value for name, value in fields.items() if value is not None})


class Conversation:
    """The messages so far."""

    def __init__(self) -> None:
        self.messages: list[dict[str, Any]] = []

    def system(self, text: str) -> None:
        """Instruct the model. Instructions at the beginning become one message: many chat templates take only one, first."""
        if len(self.messages) == 1 and self.messages[0]["role"] == "system":
            self.messages[0]["content"] += f"\n\n{text}"
        else:
            self.messages.append({"role": "system", "content": text})

    def user(self, parts: Parts) -> None:
        self.messages.append({"role": "user", "content": compact(parts)})

    def assistant(self, text: str) -> None:
        self.messages.append({"role": "assistant", "content": text})

    def call(self, call_id: str, name: str, arguments: str) -> None:
        """Add a call to what the assistant said last: what was said at once is one message."""
        if not self.messages or self.messages[-1]["role"] != "assistant":
            self.messages.append({"role": "assistant", "content": None})
        call = {"id": call_id, "type": "function", "function": {"name": name, "arguments": arguments}}
        self.messages[-1].setdefault("tool_calls", []).append(call)

    def result(self, call_id: str, content: str | Parts) -> None:
        self.messages.append({"role": "tool", "tool_call_id": call_id, "content": content})
