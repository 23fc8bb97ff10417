"""Translates a request for OpenAI's /v1/responses into the body of a chat completion.

Nothing is stored for later use by its id, so whatever refers to something stored is refused. So is what OpenAI does itself:
its own tools, its prompts, and work in the background.
"""

from typing import Any, Literal

import msgspec

from broker.core.dialects.conversation import (
    Conversation,
    encoded,
    function_tool,
    named_tool,
    schema_format,
    text_part,
    with_tools,
)
from broker.core.dialects.reading import (
    TOO_DEEP,
    CannotTranslate,
    converted,
    fields_of,
    not_translated,
    served,
    stated,
)
from broker.core.dialects.responses_items import add_items
from schemas.outcome import Refused

_HARMLESS = frozenset({"safety_identifier", "prompt_cache_key", "prompt_cache_retention"})
"""Fields that say nothing of the answer. They are not passed on."""
_ONLY: dict[str, tuple[Any, ...]] = {
    "access_programs": (),
    "background": (False,),
    "background_options": (),
    "context_management": (),
    "conversation": (),
    "image": (),
    "max_tool_calls": (),
    "moderation": (),
    "previous_response_id": (),
    "prompt": (),
    "prompt_cache_options": (),
    "service_tier": ("auto", "default"),
    "store": (False,),
    "stream_options": ({}, {"include_obfuscation": False}),
    "truncation": ("disabled",),
}
"""Fields that may have these values only, which change nothing."""
_WHY = {
    "background": "requests are answered at once: submit a job instead, and read it later",
    "conversation": "nothing is stored: send the whole conversation in `input`",
    "previous_response_id": "nothing is stored: send the whole conversation in `input`",
    "store": "nothing is stored for use by its id: leave it out",
}
_REASONING: dict[str, tuple[Any, ...]] = {
    "context": ("auto",),
    "generate_summary": ("auto",),
    "mode": ("standard",),
    "summary": ("auto",),
}
_TOOL: dict[str, tuple[Any, ...]] = {
    "allowed_callers": (["direct"],),
    "async": (False,),
    "defer_loading": (False,),
    "output_schema": (),
}
_LOGPROBS = "message.output_text.logprobs"
_ENCRYPTED = "reasoning.encrypted_content"
"""Asks that reasoning be given in a form that can be sent back. There is none, and what is sent back is left out."""


class _Text(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: dict[str, Any] | None = None
    verbosity: str | None = None


class _Reasoning(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    effort: str | None = None


class _Tool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["function"]
    name: str
    parameters: dict[str, Any] | None = None
    description: str | None = None
    strict: bool | None = None


class _Schema(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["json_schema"]
    name: str
    schema: dict[str, Any]
    description: str | None = None
    strict: bool | None = None


class _NamedTool(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["function"]
    name: str


class _AllowedTools(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[_NamedTool]


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    model: str
    input: str | list[dict[str, Any]]
    instructions: str | None = None
    include: list[str] = []
    max_output_tokens: int | None = None
    metadata: dict[str, str] = {}
    parallel_tool_calls: bool | None = None
    reasoning: dict[str, Any] = {}
    stream: bool = False
    temperature: float | None = None
    text: dict[str, Any] = {}
    tool_choice: str | dict[str, Any] | None = None
    tools: list[dict[str, Any]] = []
    top_logprobs: int | None = None
    top_p: float | None = None
    user: str | None = None


class ResponsesRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A translated request, and what its answer repeats of it."""

    chat: bytes
    """The body of the chat completion."""
    model: str
    streams: bool
    metadata: dict[str, str]
    repeated: dict[str, Any]
    """The fields of the request that the response object has too."""


def translated(body: bytes) -> ResponsesRequest | Refused:
    """Translate a request, or say what of it is refused."""
    try:
        return _translated(body)
    except CannotTranslate as error:
        return error.refused
    except RecursionError:
        return TOO_DEEP


def _translated(body: bytes) -> ResponsesRequest:
    fields = served(
        {name: value for name, value in fields_of(body).items() if name not in _HARMLESS}, _ONLY, why=_WHY
    )
    request = converted(fields, _Request, "")
    text = converted(stated(request.text), _Text, "text")
    asked = stated(request.reasoning)
    reasoning = converted(served(asked, _REASONING, at="reasoning."), _Reasoning, "reasoning")
    tools = [_tool(stated(tool), f"tools[{number}]") for number, tool in enumerate(request.tools)]
    chat = {
        "model": request.model,
        "messages": _messages(request),
        "stream": True if request.stream else None,
        "max_tokens": request.max_output_tokens,
        "temperature": request.temperature,
        "top_p": request.top_p,
        "response_format": None if text.format is None else _format(stated(text.format)),
        "verbosity": text.verbosity,
        "reasoning_effort": reasoning.effort,
        "user": request.user,
        **_logprobs(request),
        **_tools(request, tools),
    }
    return ResponsesRequest(
        chat=encoded(chat),
        model=request.model,
        streams=request.stream,
        metadata=request.metadata,
        repeated=_repeated(request, asked),
    )


def _messages(request: _Request) -> list[dict[str, Any]]:
    conversation = Conversation()
    if request.instructions is not None:
        conversation.system(request.instructions)
    if isinstance(request.input, str):
        conversation.user([text_part(request.input)])
    else:
        add_items(conversation, request.input)
    return conversation.messages


def _format(format_: dict[str, Any]) -> dict[str, Any] | None:
    match format_.get("type"):
        case "text":
            return None
        case "json_object":
            return {"type": "json_object"}
        case "json_schema":
            schema = converted(format_, _Schema, "text.format")
            return schema_format(schema.name, schema.schema, description=schema.description, strict=schema.strict)
        case other:
            raise not_translated("text.format.type", f"a format of the type {other!r} cannot be translated")


def _logprobs(request: _Request) -> dict[str, Any]:
    for number, wanted in enumerate(request.include):
        if wanted not in {_LOGPROBS, _ENCRYPTED}:
            raise not_translated(f"include[{number}]", f"{wanted!r} cannot be included")
    if _LOGPROBS not in request.include:
        return {}
    return {"logprobs": True, "top_logprobs": request.top_logprobs}


def _tool(tool: dict[str, Any], at: str) -> dict[str, Any]:
    if tool.get("type") != "function":
        why = f"a tool of the type {tool.get('type')!r} cannot be translated: only functions can"
        raise not_translated(f"{at}.type", why)
    read = converted(served(tool, _TOOL, at=f"{at}."), _Tool, at)
    return function_tool(read.name, read.parameters, description=read.description, strict=read.strict)


def _tools(request: _Request, tools: list[dict[str, Any]]) -> dict[str, Any]:
    given, parallel = request.tool_choice, request.parallel_tool_calls
    if given is None or isinstance(given, str):
        if given not in {None, "none", "auto", "required"}:
            raise not_translated("tool_choice", f"{given!r} cannot be translated")
        return with_tools(tools, given, parallel=parallel)
    if given.get("type") == "allowed_tools":
        allowed = converted(given, _AllowedTools, "tool_choice")
        names = {tool.name for tool in allowed.tools}
        return with_tools(
            [tool for tool in tools if tool["function"]["name"] in names], allowed.mode, parallel=parallel
        )
    if given.get("type") != "function":
        raise not_translated("tool_choice.type", f"a choice of the type {given.get('type')!r} cannot be translated")
    return with_tools(tools, named_tool(converted(given, _NamedTool, "tool_choice").name), parallel=parallel)


def _repeated(request: _Request, reasoning: dict[str, Any]) -> dict[str, Any]:
    """Return what a response object says of its request."""
    return {
        "model": request.model,
        "instructions": request.instructions,
        "max_output_tokens": request.max_output_tokens,
        "metadata": request.metadata,
        "parallel_tool_calls": request.parallel_tool_calls is not False,
        "reasoning": {"effort": None, "summary": None, **reasoning},
        "temperature": request.temperature,
        "text": {"format": {"type": "text"}, **stated(request.text)},
        "tool_choice": "auto" if request.tool_choice is None else request.tool_choice,
        "tools": request.tools,
        "top_logprobs": request.top_logprobs,
        "top_p": request.top_p,
        "user": request.user,
    }
