"""Translates the answer of a chat completion into a response object of OpenAI's /v1/responses, and into its events.

An answer that came whole is a stream with an end and no pieces, so both are made in one way.
"""

from typing import Any
from uuid import UUID

from broker.core.dialects.answers import CUT, FILTERED, Usage, said_in
from broker.core.dialects.blocks import Block, Blocks, Change, Closed, Grew, Kind, Opened
from broker.core.dialects.reading import Event
from broker.core.dialects.responses_request import ResponsesRequest
from schemas.ids import ms_of

_INCOMPLETE = {CUT: "max_output_tokens", FILTERED: "content_filter"}
"""Why a response is incomplete, by the finish reason of the chat completion."""
_ITEM_PREFIX = {Kind.TEXT: "msg", Kind.REFUSAL: "msg", Kind.REASONING: "rs", Kind.CALL: "fc"}
_PART = {
    Kind.TEXT: ("output_text", "text"),
    Kind.REFUSAL: ("refusal", "refusal"),
    Kind.REASONING: ("reasoning_text", "text"),
}
"""The type of the only part of an item of a kind, and its field that holds the text."""
_FAILED_CODES = {
    "rate_limited": "rate_limit_exceeded",
    "bad_request": "invalid_prompt",
    "context_too_long": "invalid_prompt",
}


def response(request: ResponsesRequest, job: UUID, whole: bytes) -> dict[str, Any]:
    """Translate a whole answer."""
    last = ResponseStream(request, job).end(whole)[-1]
    found: dict[str, Any] = last.data["response"]
    return found


class ResponseStream:
    """Translates one answer, piece by piece, into events."""

    def __init__(self, request: ResponsesRequest, job: UUID) -> None:
        self._request = request
        self._job = job
        self._blocks = Blocks()
        self._sequence = 0
        self._has_begun = False

    def piece(self, data: bytes) -> list[Event]:
        """Take a piece of the chat completion's stream."""
        return [*self.begin(), *self._events(self._blocks.add(said_in(data)))]

    def end(self, whole: bytes) -> list[Event]:
        """Take the whole answer. The last event holds the response object."""
        said = said_in(whole)
        why = _INCOMPLETE.get(said.finish or "")
        ends = self._blocks.end(said)
        cut = self._blocks.all[-1] if why is not None else None
        events = [*self.begin(), *self._events(ends, cut)]
        status = "completed" if why is None else "incomplete"
        body = self._response(
            status,
            output=[self._item(block, "incomplete" if block is cut else "completed") for block in self._blocks.all],
            incomplete_details=None if why is None else {"reason": why},
            usage=_usage(said.usage),
        )
        return [*events, self._event(f"response.{status}", response=body)]

    def failed(self, code: str, message: str) -> list[Event]:
        """End the stream with an error."""
        output = [self._item(block, "incomplete" if block.is_open else "completed") for block in self._blocks.all]
        error = {"code": _FAILED_CODES.get(code, "server_error"), "message": message}
        body = self._response("failed", output=output, error=error)
        return [*self.begin(), self._event("response.failed", response=body)]

    def begin(self) -> list[Event]:
        """Return the first events, unless they were returned before."""
        if self._has_begun:
            return []
        self._has_begun = True
        body = self._response("in_progress", output=[])
        return [self._event(f"response.{name}", response=body) for name in ("created", "in_progress")]

    def _events(self, changes: list[Change], cut: Block | None = None) -> list[Event]:
        """Translate changes of blocks. `cut` is the block that is not complete though it ends."""
        events: list[Event] = []
        for change in changes:
            match change:
                case Opened(block):
                    events += self._opened(block)
                case Grew(block, text, logprobs):
                    events.append(self._grew(block, text, list(logprobs)))
                case Closed(block):
                    events += self._closed(block, "incomplete" if block is cut else "completed")
        return events

    def _opened(self, block: Block) -> list[Event]:
        item = self._event(
            "response.output_item.added", output_index=block.place, item=self._item(block, "in_progress")
        )
        if block.kind is Kind.CALL:
            return [item]
        return [item, self._part_event("response.content_part.added", block, part=_part(block))]

    def _grew(self, block: Block, text: str, logprobs: list[dict[str, Any]]) -> Event:
        match block.kind:
            case Kind.CALL:
                return self._item_event("response.function_call_arguments.delta", block, delta=text)
            case Kind.TEXT:
                return self._part_event("response.output_text.delta", block, delta=text, logprobs=logprobs)
            case kind:
                return self._part_event(f"response.{_PART[kind][0]}.delta", block, delta=text)

    def _closed(self, block: Block, status: str) -> list[Event]:
        return [
            *self._content_done(block),
            self._event("response.output_item.done", output_index=block.place, item=self._item(block, status)),
        ]

    def _content_done(self, block: Block) -> list[Event]:
        if block.kind is Kind.CALL:
            name = "response.function_call_arguments.done"
            return [self._item_event(name, block, name=block.name, arguments=block.text)]
        kind, field = _PART[block.kind]
        extra: dict[str, Any] = {"logprobs": list(block.logprobs)} if block.kind is Kind.TEXT else {}
        return [
            self._part_event(f"response.{kind}.done", block, **{field: block.text}, **extra),
            self._part_event("response.content_part.done", block, part=_part(block)),
        ]

    def _item(self, block: Block, status: str) -> dict[str, Any]:
        """Return the output item of a block. While it is in progress, it holds nothing of the answer."""
        head = {"id": self._item_id(block), "status": status}
        is_new = status == "in_progress"
        match block.kind:
            case Kind.CALL:
                call = block.call or f"call_{self._job.hex}_{block.place}"
                arguments = "" if is_new else block.text
                return head | {"type": "function_call", "call_id": call, "name": block.name, "arguments": arguments}
            case Kind.REASONING:
                return head | {"type": "reasoning", "summary": [], "content": [] if is_new else [_part(block)]}
            case _:
                return head | {"type": "message", "role": "assistant", "content": [] if is_new else [_part(block)]}

    def _item_id(self, block: Block) -> str:
        return f"{_ITEM_PREFIX[block.kind]}_{self._job.hex}_{block.place}"

    def _part_event(self, name: str, block: Block, **fields: Any) -> Event:
        return self._item_event(name, block, content_index=0, **fields)

    def _item_event(self, event: str, block: Block, **fields: Any) -> Event:
        return self._event(event, item_id=self._item_id(block), output_index=block.place, **fields)

    def _event(self, event: str, **fields: Any) -> Event:
        data = {"type": event, "sequence_number": self._sequence, **fields}
        self._sequence += 1
        return Event(event, data)

    def _response(self, status: str, *, output: list[dict[str, Any]], **fields: Any) -> dict[str, Any]:
        return {
            "id": f"resp_{self._job.hex}",
            "object": "response",
            "created_at": ms_of(self._job) // 1000,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "output": output,
            "previous_response_id": None,
            "store": False,
            "truncation": "disabled",
            "usage": None,
            **self._request.repeated,
            **fields,
        }


def _part(block: Block) -> dict[str, Any]:
    kind, field = _PART[block.kind]
    extra: dict[str, Any] = {"annotations": [], "logprobs": list(block.logprobs)} if block.kind is Kind.TEXT else {}
    return {"type": kind, field: block.text, **extra}


def _usage(usage: Usage | None) -> dict[str, Any] | None:
    return usage and {
        "input_tokens": usage.input_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.output_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }
