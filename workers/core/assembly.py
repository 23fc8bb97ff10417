"""Assembles the response that an API would have sent unstreamed from the pieces of its stream."""

import json
from dataclasses import dataclass, field
from typing import Any

from schemas.endpoints import Endpoint, Shape

_TEXT = frozenset({"content", "refusal", "reasoning", "reasoning_content"})
_HEAD = ("id", "created", "model", "system_fingerprint", "provider", "service_tier")


@dataclass(slots=True)
class PartialCall:
    """A function call of which more pieces may come: its name is sent once, its arguments piece by piece."""

    name: str | None = None
    arguments: list[str] = field(default_factory=list)

    def add(self, function: dict[str, Any]) -> None:
        arguments = function.get("arguments") or ""
        if not isinstance(arguments, str):
            raise TypeError("arguments are text")
        self.name = function.get("name") or self.name
        self.arguments.append(arguments)

    def assembled(self) -> dict[str, Any]:
        named = {} if self.name is None else {"name": self.name}
        return {**named, "arguments": "".join(self.arguments)}


@dataclass(slots=True)
class PartialChoice:
    """A choice of which more pieces may come. Texts are joined, lists are extended, any other value replaces the last."""

    texts: dict[str, list[str]] = field(default_factory=dict)
    lists: dict[str, list[Any]] = field(default_factory=dict)
    message: dict[str, Any] = field(default_factory=dict)
    tools: dict[int, tuple[dict[str, Any], PartialCall]] = field(default_factory=dict)
    function: PartialCall | None = None
    logprobs: dict[str, list[Any]] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)

    def add(self, choice: dict[str, Any]) -> None:
        for name, value in choice.items():
            match name, value:
                case "delta", dict():
                    self._add_delta(value)
                case "text", str():
                    self.texts.setdefault("text", []).append(value)
                case "logprobs", dict():
                    for part, entries in value.items():
                        self.logprobs.setdefault(part, []).extend(entries or [])
                case (("index" | "delta" | "logprobs"), _):
                    pass
                case _ if value is not None:
                    self.others[name] = value

    def _add_delta(self, delta: dict[str, Any]) -> None:
        for name, value in delta.items():
            match name, value:
                case "tool_calls", _:
                    for call in value or []:
                        self._add_tool(call)
                case "function_call", dict():
                    self.function = self.function or PartialCall()
                    self.function.add(value)
                case _, str() if name in _TEXT:
                    self.texts.setdefault(name, []).append(value)
                case _, list():
                    self.lists.setdefault(name, []).extend(value)
                case _ if value is not None:
                    self.message[name] = value

    def _add_tool(self, call: dict[str, Any]) -> None:
        head, function = self.tools.setdefault(_index(call), ({"type": "function"}, PartialCall()))
        if call.get("id"):
            head["id"] = call["id"]
        function.add(call.get("function") or {})

    def assembled(self, index: int, *, chat: bool) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": index, "finish_reason": None, **self.others}
        texts = {name: "".join(parts) for name, parts in self.texts.items()}
        if chat:
            choice["message"] = self._message(texts)
        else:
            choice["text"] = texts.get("text", "")
        if self.logprobs:
            choice["logprobs"] = self.logprobs
        return choice

    def _message(self, texts: dict[str, str]) -> dict[str, Any]:
        calls = bool(self.tools or self.function)
        message = {"role": "assistant", "content": None if calls else "", **self.message, **self.lists, **texts}
        if self.tools:
            tools = [self.tools[number] for number in sorted(self.tools)]
            message["tool_calls"] = [{**head, "function": function.assembled()} for head, function in tools]
        if self.function:
            message["function_call"] = self.function.assembled()
        return message


class ResponseAssembler:
    """Takes the objects of a stream one by one and assembles the unstreamed response.

    It knows the shapes that have `choices`. An endpoint that streams anything else needs another class beside this one.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._choices: dict[int, PartialChoice] = {}
        self._head: dict[str, Any] = {}
        self.usage: dict[str, Any] = {}

    def add(self, event: dict[str, Any]) -> None:
        """Take the next object. Raises: AttributeError, TypeError or ValueError, if it is no streaming object."""
        for name in _HEAD:
            if event.get(name) is not None:
                self._head.setdefault(name, event[name])
        self.usage = event.get("usage") or self.usage
        for choice in event.get("choices") or []:
            self._choices.setdefault(_index(choice), PartialChoice()).add(choice)

    def is_finished(self, choices: int = 1) -> bool:
        """Say whether at least this many choices have come and each has a finish reason."""
        ends = [choice.others.get("finish_reason") for choice in self._choices.values()]
        return len(ends) >= choices and all(ends)

    def body(self, **head: str) -> bytes:
        """Return the response. The fields in `head` replace what the stream said of itself."""
        is_chat = self._endpoint.shape is Shape.CHAT
        choices = [self._choices[n].assembled(n, chat=is_chat) for n in sorted(self._choices)]
        kind, usage = self._endpoint.object, self.usage or None
        response = {**self._head, **head, "object": kind, "choices": choices, "usage": usage}
        return _utf8(json.dumps(response, ensure_ascii=False))


def _index(part: dict[str, Any]) -> int:
    return int(part.get("index") or 0)


def _utf8(text: str) -> bytes:
    """Encode a text that may hold UTF-16 surrogates: a pair becomes its character, a lone one becomes U+FFFD."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").encode()
