"""The APIs besides chat completions in which simulated callers ask, and how they read the answers."""

from dataclasses import dataclass
from typing import Any, NamedTuple


class Ended(NamedTuple):
    """What the last event of a stream says."""

    text: str | None = None
    """The whole text, if it is told once more."""
    code: str = ""
    """Why there is no answer. Empty: there is one."""
    message: str = ""


@dataclass(frozen=True, slots=True)
class Dialect:
    path: str
    input: str
    """The field that holds the conversation."""
    limit: str
    """The field that says how many tokens there may be at most."""
    tells_codes: bool
    """Whether its errors have the codes of infermq."""

    def ask(self, model: str, body: dict[str, Any], *, streamed: bool) -> dict[str, Any]:
        """Make a request of the body of a chat completion."""
        return {
            "model": model,
            self.input: body["messages"],
            self.limit: body["max_tokens"],
            **({"stream": True} if streamed else {}),
        }

    def text(self, whole: dict[str, Any]) -> str:
        """Read the text of a whole answer."""
        if self is MESSAGES:
            return _joined(whole["content"])
        return "".join(_joined(item["content"]) for item in whole["output"] if item["type"] == "message")

    def piece(self, name: str, data: dict[str, Any]) -> str:
        """Read the text that an event brings, if it brings any."""
        if name == "content_block_delta":
            return str(data["delta"]["text"])
        return str(data["delta"]) if name == "response.output_text.delta" else ""

    def end(self, name: str, data: dict[str, Any]) -> Ended | None:
        """Read the last event of a stream. None: it is another."""
        match name:
            case "message_stop":
                return Ended()
            case "response.completed" | "response.incomplete":
                return Ended(text=self.text(data["response"]))
            case "response.failed":
                error = data["response"]["error"]
                return Ended(code=error["code"], message=error["message"])
            case "error":
                return Ended(code=data["error"]["type"], message=data["error"]["message"])
            case _:
                return None


RESPONSES = Dialect("/v1/responses", "input", "max_output_tokens", tells_codes=True)
MESSAGES = Dialect("/v1/messages", "messages", "max_tokens", tells_codes=False)


def _joined(parts: list[dict[str, Any]]) -> str:
    return "".join(part["text"] for part in parts if part["type"] in ("text", "output_text"))
