"""Assembles the response that an API would have sent unstreamed from the pieces of its stream.

What is null or empty in a piece says nothing: it replaces nothing that was said before.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from schemas.endpoints import Endpoint, Shape
from schemas.lenient import whole_characters
from schemas.outcome import CANCELLED_REASON, Usage
from workers.core.body import count_of
from workers.core.usage import usage_in

_TEXT = frozenset({"content", "refusal", "reasoning", "reasoning_content"})
_HEAD = ("id", "created", "model", "system_fingerprint", "provider", "service_tier")


@dataclass(slots=True)
class PartialCall:
    """A function call of which more pieces may come: its name is sent once, its arguments piece by piece."""

    name: str | None = None
    arguments: list[str] = field(default_factory=list)

    def add(self, function: dict[str, Any]) -> None:
        arguments = function.get("arguments") or ""
        if isinstance(arguments, dict):  # as at Ollama
            arguments = json.dumps(arguments)
        if not isinstance(arguments, str):
            raise TypeError("arguments are text")
        self.name = function.get("name") or self.name
        self.arguments.append(arguments)

    def assembled(self) -> dict[str, Any]:
        named = {} if self.name is None else {"name": self.name}
        return {**named, "arguments": "".join(self.arguments)}


class PartialTools:
    """The tool calls of a choice. A new id begins a new call, whatever index it has: some APIs send 0, or none, for all."""

    def __init__(self) -> None:
        self._calls: dict[int, tuple[dict[str, Any], PartialCall]] = {}
        """The calls by their right index, each with its fields beside the function."""
        self._last: dict[int | None, int] = {}
        """The right index of the call that last had this index in the stream. None: it had none."""

    def __bool__(self) -> bool:
        return bool(self._calls)

    def add(self, call: dict[str, Any], *, place: int) -> None:
        """Take a piece of a call, and put its call's right index into it. `place` is its position in the list."""
        function = call.get("function") or {}
        given = count_of(call.get("index"))
        number = self._known(call.get("id"), function, given, place)
        if number is None:
            number = given if given is not None and given not in self._calls else self._next()
            self._calls[number] = {"type": "function"}, PartialCall()
        head, partial = self._calls[number]
        if call.get("id"):
            head.setdefault("id", call["id"])
        head["type"] = call.get("type") or head["type"]
        partial.add(function)
        self._last[given] = self._last[None] = call["index"] = number

    def _known(self, id_: Any, function: dict[str, Any], given: int | None, place: int) -> int | None:
        """Return the index of the call that this is a piece of; None if it begins one."""
        last = self._last.get(given, given if given in self._calls else None)
        if id_:
            known = next((number for number, (head, _) in self._calls.items() if head.get("id") == id_), None)
            if known is not None or given is None or last is None:
                return known
            goes_on = "id" not in self._calls[last][0] or not function.get("name")
            return last if goes_on else None
        if given is not None or last is None:
            return last
        begins = function.get("name") and (place > 0 or function["name"] != self._calls[last][1].name)
        return None if begins else last

    def _next(self) -> int:
        return max(self._calls, default=-1) + 1

    def assembled(self) -> list[dict[str, Any]]:
        calls = [self._calls[number] for number in sorted(self._calls)]
        return [{**head, "function": function.assembled()} for head, function in calls]


@dataclass(slots=True)
class PartialChoice:
    """A choice of which more pieces may come. Texts are joined, lists are extended, any other value replaces the last."""

    texts: dict[str, list[str]] = field(default_factory=dict)
    lists: dict[str, list[Any]] = field(default_factory=dict)
    message: dict[str, Any] = field(default_factory=dict)
    tools: PartialTools = field(default_factory=PartialTools)
    function: PartialCall | None = None
    logprobs: dict[str, list[Any]] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)
    whole: dict[str, Any] = field(default_factory=dict)
    """A message that came whole. Some APIs send it beside its pieces, some instead of them."""

    def add(self, choice: dict[str, Any]) -> None:
        for name, value in choice.items():
            match name, value:
                case "delta", dict():
                    self._add_delta(value)
                case "message", dict():
                    self.whole = value
                case "text", str():
                    self.texts.setdefault("text", []).append(value)
                case "logprobs", dict():
                    for part, entries in value.items():
                        self.logprobs.setdefault(part, []).extend(entries or [])
                case (("index" | "delta" | "logprobs"), _):
                    pass
                case _ if value not in (None, ""):
                    self.others[name] = value

    def _add_delta(self, delta: dict[str, Any]) -> None:
        for name, value in delta.items():
            match name, value:
                case "tool_calls", _:
                    for place, call in enumerate(call for call in value or [] if call is not None):
                        self.tools.add(call, place=place)
                case "function_call", dict():
                    self.function = self.function or PartialCall()
                    self.function.add(value)
                case _, str() if name in _TEXT:
                    self.texts.setdefault(name, []).append(value)
                case _, list() if name in _TEXT and (texts := _texts(value)) is not None:
                    self.texts.setdefault(name, []).extend(texts)
                case _, list():
                    self.lists.setdefault(name, []).extend(value)
                case _ if value not in (None, ""):
                    self.message[name] = value

    def assembled(self, index: int, *, chat: bool) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": index, "finish_reason": None, **self.others}
        texts = {name: "".join(parts) for name, parts in self.texts.items()}
        if chat:
            choice["message"] = self._message({"content": texts.pop("text"), **texts} if "text" in texts else texts)
        else:
            choice["text"] = texts.get("text", "")
        if self.logprobs:
            choice["logprobs"] = self.logprobs
        return choice

    def _message(self, texts: dict[str, str]) -> dict[str, Any]:
        calls = bool(self.tools or self.function)
        if self.whole and not calls and not any(texts.values()):
            return {"role": "assistant", **self.message, **self.whole}
        message = {"role": "assistant", "content": None if calls else "", **self.message, **self.lists, **texts}
        if self.tools:
            message["tool_calls"] = self.tools.assembled()
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
        """Take the next object, and put the right index into the tool calls in it.

        Raises: AttributeError, TypeError or ValueError, if it is no streaming object.
        """
        for name in _HEAD:
            if event.get(name) is not None:
                self._head.setdefault(name, event[name])
        if (usage := usage_in(event)) is not None:
            self._add_usage(usage)
        for place, choice in enumerate(event.get("choices") or []):
            if choice is not None:
                self._choices.setdefault(_index(choice, place), PartialChoice()).add(choice)

    def _add_usage(self, usage: dict[str, Any]) -> None:
        """Take what a piece says was used so far. Nothing, and 0, replace no count."""
        self.usage |= {
            name: value for name, value in usage.items() if value or (value is not None and name not in self.usage)
        }

    def end(self) -> None:
        """Note that the stream said that it ends: a choice without a finish reason has stopped."""
        for choice in self._choices.values():
            choice.others.setdefault("finish_reason", "tool_calls" if choice.tools else "stop")

    def is_finished(self, choices: int = 1) -> bool:
        """Say whether at least this many choices have come and each has a finish reason."""
        ends = [choice.others.get("finish_reason") for choice in self._choices.values()]
        return len(ends) >= choices and all(ends)

    def body(self, **head: str) -> bytes:
        """Return the response. The fields in `head` replace what the stream said of itself."""
        return self._response(self._assembled(), head)

    def cancelled_body(self, **head: str) -> bytes | None:
        """Return the response as far as it came, for a request that was cancelled. None: no choice had begun."""
        choices = self._assembled()
        for choice in choices:
            choice["finish_reason"] = choice["finish_reason"] or CANCELLED_REASON
        return self._response(choices, head) if choices else None

    def _assembled(self) -> list[dict[str, Any]]:
        is_chat = self._endpoint.shape is Shape.CHAT
        return [self._choices[n].assembled(n, chat=is_chat) for n in sorted(self._choices)]

    def _response(self, choices: list[dict[str, Any]], head: dict[str, str]) -> bytes:
        kind, usage = self._endpoint.object, self.usage or None
        response = {**self._head, **head, "object": kind, "choices": choices, "usage": usage}
        return whole_characters(json.dumps(response, ensure_ascii=False)).encode()


def cut_off(endpoint: Endpoint, texts: Mapping[int, str], usage: Usage, **head: str) -> bytes | None:
    """Make the response of a request that was cancelled out of the text of each choice so far. None: there is none."""
    assembler = ResponseAssembler(endpoint)
    is_chat = endpoint.shape is Shape.CHAT
    for index, text in sorted(texts.items()):
        piece: dict[str, Any] = {"delta": {"content": text}} if is_chat else {"text": text}
        assembler.add({"choices": [{"index": index, **piece}]})
    assembler.usage = usage_object(usage)
    return assembler.cancelled_body(**head)


def usage_object(usage: Usage) -> dict[str, Any]:
    """Return OpenAI's object for a usage."""
    total = usage.input_tokens + usage.output_tokens
    return {"prompt_tokens": usage.input_tokens, "completion_tokens": usage.output_tokens, "total_tokens": total}


def _texts(parts: list[Any]) -> list[str] | None:
    """Return the texts of a content that is a list of text parts; None if it has parts of another kind."""
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type", "text") == "text"]
    found = [text for text in texts if isinstance(text, str)]
    return found if len(found) == len(parts) else None


def _index(choice: dict[str, Any], place: int) -> int:
    """Return the index of a choice: its place, if it has none that can be read."""
    index = count_of(choice.get("index"))
    return place if index is None else index
