"""Translates a request for Anthropic's /v1/messages into the body of a chat completion.

What Anthropic does itself is refused: its own tools, files, containers, and what it stores.
"""

from typing import Any, Literal

import msgspec

from broker.core.dialects.conversation import (
    Conversation,
    encoded,
    function_tool,
    named_tool,
    schema_format,
    with_tools,
)
from broker.core.dialects.messages_blocks import add_message, text_of
from broker.core.dialects.reading import (
    TOO_DEEP,
    CannotTranslate,
    converted,
    fields_of,
    misshapen,
    not_translated,
    served,
    stated,
)
from schemas.outcome import Refused

_HARMLESS = frozenset({"cache_control"})
"""Fields that say nothing of the answer. They are not passed on."""
_ONLY: dict[str, tuple[Any, ...]] = {
    "container": (),
    "diagnostics": (),
    "inference_geo": (),
    "mcp_servers": ([],),
    "service_tier": ("auto", "standard_only"),
    "speed": ("standard",),
    "thread": (),
}
"""Fields that may have these values only, which change nothing."""
_WHY = {"thread": "nothing is stored: send the whole conversation in `messages`"}
_TOOL: dict[str, tuple[Any, ...]] = {
    "allowed_callers": (["direct"],),
    "defer_loading": (False,),
    "input_examples": ([],),
}
_TOOL_HARMLESS = frozenset({"cache_control", "eager_input_streaming"})
_CLEARS_THINKING = "clear_thinking_"
"""How the types of those edits of the context begin that take earlier reasoning out, as every translation does."""
_NO_THINKING = {"type": "disabled"}
_EFFORTS = ((4_096, "low"), (16_384, "medium"))
"""The reasoning effort for a budget of up to so many thinking tokens; `high` for more. A guess: chats have no budget."""


class _Tool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    input_schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None
    type: Literal["custom"] = "custom"


class _ToolChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool = False


class _Thinking(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["enabled", "adaptive", "disabled"]
    budget_tokens: int | None = None
    display: Literal["summarized", "omitted"] | None = None


class _OutputConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    effort: str | None = None
    format: dict[str, Any] | None = None


class _Format(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["json_schema"]
    schema: dict[str, Any]


class _Edits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    edits: list[dict[str, Any]] = []


class _Metadata(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    user_id: str | None = None


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    model: str
    max_tokens: int
    messages: list[dict[str, Any]]
    context_management: dict[str, Any] = {}
    metadata: dict[str, Any] = {}
    output_config: dict[str, Any] = {}
    stop_sequences: list[str] = []
    stream: bool = False
    system: str | list[dict[str, Any]] | None = None
    temperature: float | None = None
    thinking: dict[str, Any] | None = None
    tool_choice: dict[str, Any] | None = None
    tools: list[dict[str, Any]] = []
    top_k: int | None = None
    top_p: float | None = None


class MessagesRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A translated request, and what its answer depends on."""

    chat: bytes
    """The body of the chat completion."""
    model: str
    streams: bool
    metadata: dict[str, str] = {}
    """None: what a request says of its user is the engine's business, and passed on."""
    stop_sequences: tuple[str, ...]
    shows_thinking: bool
    """Whether the caller asked to see the reasoning."""


def translated(body: bytes) -> MessagesRequest | Refused:
    """Translate a request, or say what of it is refused."""
    try:
        return _translated(body)
    except CannotTranslate as error:
        return error.refused
    except RecursionError:
        return TOO_DEEP


def _translated(body: bytes) -> MessagesRequest:
    fields = served(
        {name: value for name, value in fields_of(body).items() if name not in _HARMLESS}, _ONLY, why=_WHY
    )
    request = converted(fields, _Request, "")
    _check_edits(stated(request.context_management))
    thinking = converted(stated(request.thinking or _NO_THINKING), _Thinking, "thinking")
    output = converted(stated(request.output_config), _OutputConfig, "output_config")
    chat = {
        "model": request.model,
        "messages": _messages(request),
        "stream": True if request.stream else None,
        "max_tokens": request.max_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
        "stop": request.stop_sequences or None,
        "response_format": None if output.format is None else _format(output.format),
        "reasoning_effort": output.effort or _effort(thinking),
        "user": converted(stated(request.metadata), _Metadata, "metadata").user_id,
        **_tools(request),
    }
    return MessagesRequest(
        chat=encoded(chat),
        model=request.model,
        streams=request.stream,
        stop_sequences=tuple(request.stop_sequences),
        shows_thinking=thinking.type != "disabled" and thinking.display != "omitted",
    )


def _check_edits(given: dict[str, Any]) -> None:
    """Refuse to edit the context, but for what is done in any case. Raises: CannotTranslate."""
    for number, edit in enumerate(converted(given, _Edits, "context_management").edits):
        if not str(edit.get("type")).startswith(_CLEARS_THINKING):
            at = f"context_management.edits[{number}].type"
            raise not_translated(at, f"an edit of the type {edit.get('type')!r} cannot be translated: leave it out")


def _messages(request: _Request) -> list[dict[str, Any]]:
    if not request.messages:
        raise misshapen("messages", "it must not be empty")
    conversation = Conversation()
    if request.system is not None:
        conversation.system(text_of(request.system, "system"))
    for number, message in enumerate(request.messages):
        add_message(conversation, stated(message), f"messages[{number}]")
    if request.messages[-1].get("role") == "assistant":
        why = "a chat completion cannot go on with what the assistant began: end with a message of the user"
        raise not_translated(f"messages[{len(request.messages) - 1}]", why)
    return conversation.messages


def _effort(thinking: _Thinking) -> str | None:
    if thinking.type != "enabled":
        return None
    budget = thinking.budget_tokens
    if budget is None:
        raise misshapen("thinking.budget_tokens", "it is missing")
    return next((effort for most, effort in _EFFORTS if budget <= most), "high")


def _format(format_: dict[str, Any]) -> dict[str, Any]:
    return schema_format("answer", converted(stated(format_), _Format, "output_config.format").schema, strict=True)


def _tool(tool: dict[str, Any], at: str) -> dict[str, Any]:
    if tool.get("type", "custom") != "custom":
        raise not_translated(
            f"{at}.type", f"a tool of the type {tool['type']!r} cannot be translated: only your own can"
        )
    fields = {name: value for name, value in tool.items() if name not in _TOOL_HARMLESS}
    read = converted(served(fields, _TOOL, at=f"{at}."), _Tool, at)
    return function_tool(read.name, read.input_schema, description=read.description, strict=read.strict)


def _tools(request: _Request) -> dict[str, Any]:
    tools = [_tool(stated(tool), f"tools[{number}]") for number, tool in enumerate(request.tools)]
    if request.tool_choice is None:
        return with_tools(tools, None, parallel=None)
    given = converted(stated(request.tool_choice), _ToolChoice, "tool_choice")
    return with_tools(tools, _choice(given), parallel=False if given.disable_parallel_tool_use else None)


def _choice(given: _ToolChoice) -> str | dict[str, Any]:
    if given.type != "tool":
        return "required" if given.type == "any" else given.type
    if given.name is None:
        raise misshapen("tool_choice.name", "it is missing")
    return named_tool(given.name)
