"""Translates the answer of a chat completion into a message of Anthropic's /v1/messages, and into its events.

An answer that came whole is a stream with an end and no pieces, so both are made in one way.
"""

from typing import Any
from uuid import UUID

import msgspec

from broker.core.dialects.answers import CUT, FILTERED, Said, Usage, said_in
from broker.core.dialects.blocks import Block, Blocks, Change, Closed, Grew, Kind, Opened
from broker.core.dialects.messages_request import MessagesRequest
from broker.core.dialects.reading import Event

PING = Event("ping", {"type": "ping"})
"""Keeps a stream alive."""
_NO_USAGE = Usage(0, 0, 0, 0, 0)
_json = msgspec.json.Decoder()


def message(request: MessagesRequest, job: UUID, whole: bytes) -> dict[str, Any]:
    """Translate a whole answer."""
    said = said_in(whole)
    blocks = Blocks(shows_reasoning=request.shows_thinking)
    blocks.end(said)
    content = [_content(block, job) for block in blocks.all]
    return _message(request, job, content=content, usage=_usage(said.usage), **_stop(request, blocks, said))


class MessageStream:
    """Translates one answer, piece by piece, into events."""

    def __init__(self, request: MessagesRequest, job: UUID) -> None:
        self._request = request
        self._job = job
        self._blocks = Blocks(shows_reasoning=request.shows_thinking)
        self._has_begun = False

    def piece(self, data: bytes) -> list[Event]:
        """Take a piece of the chat completion's stream."""
        return [*self.begin(), *self._events(self._blocks.add(said_in(data)))]

    def end(self, whole: bytes) -> list[Event]:
        """Take the whole answer."""
        said = said_in(whole)
        events = [*self.begin(), *self._events(self._blocks.end(said))]
        delta = _stop(self._request, self._blocks, said)
        return [*events, _event("message_delta", delta=delta, usage=_usage(said.usage)), _event("message_stop")]

    def begin(self) -> list[Event]:
        """Return the first events, unless they were returned before."""
        if self._has_begun:
            return []
        self._has_begun = True
        nothing = {"stop_reason": None, "stop_sequence": None}
        begun = _message(self._request, self._job, content=[], usage=_usage(None), **nothing)
        return [_event("message_start", message=begun), PING]

    def _events(self, changes: list[Change]) -> list[Event]:
        return [_block_event(change, self._job) for change in changes]


def _message(request: MessagesRequest, job: UUID, **fields: Any) -> dict[str, Any]:
    return {"id": f"msg_{job.hex}", "type": "message", "role": "assistant", "model": request.model, **fields}


def _block_event(change: Change, job: UUID) -> Event:
    match change:
        case Opened(block):
            return _event("content_block_start", index=block.place, content_block=_begun(block, job))
        case Grew(block, text):
            return _event("content_block_delta", index=block.place, delta=_delta(block, text))
        case Closed(block):
            return _event("content_block_stop", index=block.place)


def _begun(block: Block, job: UUID) -> dict[str, Any]:
    match block.kind:
        case Kind.CALL:
            return {"type": "tool_use", "id": _call_id(block, job), "name": block.name, "input": {}}
        case Kind.REASONING:
            return {"type": "thinking", "thinking": "", "signature": ""}
        case _:
            return {"type": "text", "text": ""}


def _delta(block: Block, text: str) -> dict[str, Any]:
    match block.kind:
        case Kind.CALL:
            return {"type": "input_json_delta", "partial_json": text}
        case Kind.REASONING:
            return {"type": "thinking_delta", "thinking": text}
        case _:
            return {"type": "text_delta", "text": text}


def _content(block: Block, job: UUID) -> dict[str, Any]:
    """Return a block that is complete."""
    match block.kind:
        case Kind.CALL:
            return _begun(block, job) | {"input": _input(block.text)}
        case Kind.REASONING:
            return _begun(block, job) | {"thinking": block.text}
        case _:
            return {"type": "text", "text": block.text}


def _input(arguments: str) -> dict[str, Any]:
    """Read the arguments of a call. What is no object is wrapped as Anthropic advises for broken JSON."""
    try:
        read = _json.decode(arguments or "{}")
    except (ValueError, RecursionError):
        read = None
    return read if isinstance(read, dict) else {"INVALID_JSON": arguments}


def _call_id(block: Block, job: UUID) -> str:
    return block.call or f"toolu_{job.hex}_{block.place}"


def _stop(request: MessagesRequest, blocks: Blocks, said: Said) -> dict[str, Any]:
    """Say why the answer ended."""
    sequence = said.stop if said.stop in request.stop_sequences else None
    return {"stop_reason": _stop_reason(blocks, said, sequence), "stop_sequence": sequence}


def _stop_reason(blocks: Blocks, said: Said, sequence: str | None) -> str:
    kinds = {block.kind for block in blocks.all}
    if said.finish == CUT:
        return "max_tokens"
    if said.finish == FILTERED or Kind.REFUSAL in kinds:
        return "refusal"
    if Kind.CALL in kinds:
        return "tool_use"
    return "end_turn" if sequence is None else "stop_sequence"


def _usage(usage: Usage | None) -> dict[str, Any]:
    counted = usage or _NO_USAGE
    return {
        "input_tokens": max(0, counted.input_tokens - counted.cached_tokens),
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": counted.cached_tokens,
        "output_tokens": counted.output_tokens,
    }


def _event(name: str, **fields: Any) -> Event:
    return Event(name, {"type": name, **fields})
