"""The response that was not streamed, put together from the one that was."""

import json
from dataclasses import dataclass, field
from typing import Any

from schemas.catalog import CHAT

_TEXT = frozenset({"content", "refusal", "reasoning", "reasoning_content"})
_HEAD = ("id", "created", "model", "system_fingerprint", "provider", "service_tier")


@dataclass(slots=True)
class Choice:
    """One choice: texts are joined, lists go on, of anything else the last word counts."""

    message: dict[str, Any] = field(default_factory=dict)
    tools: dict[int, dict[str, Any]] = field(default_factory=dict)
    text: str = ""
    logprobs: dict[str, list[Any]] = field(default_factory=dict)
    others: dict[str, Any] = field(default_factory=dict)

    def add(self, choice: dict[str, Any]) -> None:
        for name, value in choice.items():
            match name, value:
                case "delta", dict():
                    self._add_delta(value)
                case "text", str():
                    self.text += value
                case "logprobs", dict():
                    for part, entries in value.items():
                        self.logprobs.setdefault(part, []).extend(entries or [])
                case (("index" | "delta" | "logprobs"), _):
                    pass
                case _ if value is not None:
                    self.others[name] = value

    def _add_delta(self, delta: dict[str, Any]) -> None:
        for name, value in delta.items():
            if name == "tool_calls":
                for call in value or []:
                    self._add_tool(call)
            elif isinstance(value, str) and name in _TEXT:
                self.message[name] = self.message.get(name, "") + value
            elif isinstance(value, list):
                self.message[name] = [*self.message.get(name, ()), *value]
            elif value is not None:
                self.message[name] = value

    def _add_tool(self, call: dict[str, Any]) -> None:
        whole = self.tools.setdefault(call.get("index", 0), {"type": "function", "function": {"arguments": ""}})
        function = call.get("function") or {}
        if call.get("id"):
            whole["id"] = call["id"]
        if function.get("name"):
            whole["function"]["name"] = function["name"]
        whole["function"]["arguments"] += function.get("arguments") or ""

    def whole(self, index: int, *, chat: bool) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": index, "finish_reason": None, **self.others}
        if chat:
            text = None if self.tools else ""
            choice["message"] = {"role": "assistant", "content": text, **self.message}
            if self.tools:
                choice["message"]["tool_calls"] = [self.tools[n] for n in sorted(self.tools)]
        else:
            choice["text"] = self.text
        if self.logprobs:
            choice["logprobs"] = self.logprobs
        return choice


class Whole:
    """Streaming objects in, one response out."""

    def __init__(self, endpoint: str) -> None:
        self._is_chat = endpoint == CHAT
        self._choices: dict[int, Choice] = {}
        self._head: dict[str, Any] = {}
        self.usage: dict[str, Any] = {}

    def add(self, event: dict[str, Any]) -> None:
        for name in _HEAD:
            if event.get(name) is not None:
                self._head.setdefault(name, event[name])
        self.usage = event.get("usage") or self.usage
        for choice in event.get("choices") or []:
            self._choices.setdefault(choice.get("index", 0), Choice()).add(choice)

    def is_finished(self) -> bool:
        """Each choice has said why it ends."""
        return bool(self._choices) and all(choice.others.get("finish_reason") for choice in self._choices.values())

    def body(self, **head: str) -> bytes:
        """The response; `head` replaces what the stream said of itself."""
        choices = [self._choices[n].whole(n, chat=self._is_chat) for n in sorted(self._choices)]
        kind = "chat.completion" if self._is_chat else "text_completion"
        response = {**self._head, **head, "object": kind, "choices": choices, "usage": self.usage or None}
        return json.dumps(response, ensure_ascii=False).encode()
