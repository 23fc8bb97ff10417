"""Answers without a model: the same body always gets the same words, at a set pace, and failures follow a script.

A prompt has a token for every four characters, rounded up; an answer has one for each word. With `r` requests running, a
token of the answer takes (1 + slowdown * (r - 1)) / decode_tokens_per_s seconds.
"""

import asyncio
import base64
import hashlib
import os
import struct
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from itertools import accumulate
from typing import Annotated, Any, NamedTuple
from zlib import crc32

import msgspec
from msgspec import Meta

from schemas.catalog import Deployment
from schemas.codec import UNREADABLE
from schemas.endpoints import Shape
from schemas.engine_options import TEXT_WORDS, FailureKind, ScriptedFailure, SimulatedOptions
from schemas.outcome import (
    CANCELLED_REASON,
    BadRequest,
    ContextTooLong,
    EngineFault,
    Failed,
    Failure,
    Filtered,
    Succeeded,
    Throttled,
    Usage,
)
from schemas.units import Ms
from workers.core.constraints import Constraints
from workers.core.made_up import MadeUp, made_up
from workers.ports import (
    Capacity,
    Chunk,
    EngineConfigError,
    EngineDied,
    EngineRequest,
    Overrides,
    Progress,
    SoFar,
    Step,
)

_WORDS = (
    "a broker keeps every job until its answer is written down and the worker that ran it may forget "
    "what it said since nobody needs to ask twice while queues drain slowly over quiet machines at night"
).split()
_TEXT_IN_WORDS = [_WORDS[(n * n + n // 7) % len(_WORDS)] for n in range(3 * TEXT_WORDS)]
_TEXT = " ".join(_TEXT_IN_WORDS)
_STARTS = [0, *accumulate(len(word) + 1 for word in _TEXT_IN_WORDS)]
"""Where each word starts in the text."""
_CHARACTERS = 4
"""How many characters of JSON are a token."""
_DEFAULT_SLOTS = 64
_DIMENSIONS = 8
_MOST_DIMENSIONS = 4096
_CRASH_CODE = 70


class _Message(msgspec.Struct):
    role: str = ""
    content: str | list[Any] | None = None


class _Body(msgspec.Struct):
    messages: list[_Message] = []
    prompt: str | list[Any] = ""
    input: str | list[Any] = ""
    max_tokens: float | None = None
    max_completion_tokens: float | None = None
    encoding_format: str = "float"
    tools: Any = None
    tool_choice: Any = None
    response_format: Any = None
    dimensions: Annotated[int, Meta(ge=1, le=_MOST_DIMENSIONS)] | None = None


_body = msgspec.json.Decoder(_Body)
_json = msgspec.json.Encoder()


class _Answer(NamedTuple):
    reasoning: str
    text: str
    reason: str
    """The finish reason: `stop`, `length` or `tool_calls`."""
    outcome: Succeeded
    json: MadeUp | None = None
    """What the answer is instead of words."""

    def pieces(self) -> list[str]:
        """Return the pieces of the text, each a token."""
        return _words(self.text) if self.json is None else _cut(self.text)


def make(deployment: Deployment, overrides: Overrides) -> "Simulated":
    try:
        options = msgspec.convert(deployment.options, SimulatedOptions)
    except msgspec.ValidationError as error:
        known = ", ".join(SimulatedOptions.__struct_fields__)
        raise EngineConfigError(f"options of the engine 'simulated': {error}; known: {known}") from error
    slots = overrides.slots or deployment.max_concurrency or _DEFAULT_SLOTS
    return Simulated(options, Capacity(slots, deployment.reserve), deployment.context_tokens)


class Simulated:
    """An engine that makes up its answers."""

    def __init__(self, options: SimulatedOptions, capacity: Capacity, context_tokens: int) -> None:
        self._options = options
        self._capacity = capacity
        self._context_tokens = context_tokens
        self._running = 0
        self._log: int | None = None
        self._takes_time = bool(options.prefill_tokens_per_s or options.decode_tokens_per_s)

    async def start(self) -> Capacity:
        if self._options.log is not None:
            try:
                self._log = os.open(self._options.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            except OSError as error:
                raise EngineConfigError(f"options.log of the engine 'simulated': {error}") from error
        return self._capacity

    def capacity(self) -> Capacity:
        return self._capacity

    async def gone(self) -> str:
        await asyncio.Event().wait()
        return "never"

    async def close(self) -> None:
        if self._log is not None:
            os.close(self._log)

    async def run(self, request: EngineRequest) -> AsyncGenerator[Step, None]:
        if self._log is not None:
            os.write(self._log, f"{os.getpid()} {request.id}\n".encode())
        script = self._script(request)
        answer = self._answer(request) if script is None else await _fail(script)
        if isinstance(answer, Failed):
            yield answer
            return
        self._running += 1
        try:
            if request.streamed or self._takes_time:
                async for chunk in self._chunks(request, answer):
                    yield chunk
            yield answer.outcome
        finally:
            self._running -= 1

    def _script(self, request: EngineRequest) -> ScriptedFailure | None:
        for script in self._options.failures:
            if script.match.encode() in request.body and (not script.times or request.attempt <= script.times):
                return script
        return None

    def _answer(self, request: EngineRequest) -> "_Answer | Failed":
        """Make the answer to a request, or the failure of a body that cannot be answered."""
        try:
            body = _body.decode(request.body)
        except UNREADABLE as error:
            return Failed(BadRequest(f"the body cannot be read: {error}"))
        reasoning = self._options.reasoning_tokens if request.endpoint.shape is Shape.CHAT else 0
        full_length = self._options.output_tokens + reasoning
        prompt = -(-_length(body) // 4)
        if self._options.makes_json and (made := _made_up(request, body)) is not None:
            return self._json_answer(request, body, made)
        if request.constraints is not None:
            return Failed(_unmet(request.constraints))
        if request.endpoint.shape is Shape.EMBEDDINGS and body.encoding_format not in {"float", "base64"}:
            return Failed(BadRequest("encoding_format must be float or base64"))
        most = int(body.max_completion_tokens or body.max_tokens or request.max_output_tokens)
        words = max(0, min(full_length, most)) if request.endpoint.limits else 0
        if prompt + words > self._context_tokens:
            return self._too_long(prompt, words)
        start = crc32(request.body, self._options.seed) % TEXT_WORDS
        middle = start + min(words, reasoning)
        thought = _TEXT[_STARTS[start] : _STARTS[middle]].rstrip() if reasoning else ""
        text = _TEXT[_STARTS[middle] : _STARTS[start + words]].rstrip()
        reason = "length" if words < full_length else "stop"
        usage = Usage(prompt, words)
        response = _response(request, body, text, usage, reason)
        if reasoning:
            response = _with_reasoning(response, thought)
        return _Answer(thought, text, reason, Succeeded(response, usage))

    def _json_answer(self, request: EngineRequest, body: _Body, made: MadeUp) -> "_Answer | Failed":
        """Answer with JSON, or with the call of a tool."""
        prompt, pieces = -(-_length(body) // 4), _cut(made.text)
        words = min(len(pieces), int(body.max_completion_tokens or body.max_tokens or request.max_output_tokens))
        if prompt + words > self._context_tokens:
            return self._too_long(prompt, words)
        reason = "length" if words < len(pieces) else "tool_calls" if made.tool else "stop"
        text, usage = "".join(pieces[:words]), Usage(prompt, words)
        response = _response(request, body, text, usage, reason)
        if made.tool:
            response = _with_call(response, _call(request, made.tool, text))
        return _Answer("", text, reason, Succeeded(response, usage), made)

    def _too_long(self, prompt: int, words: int) -> Failed:
        message = f"{prompt} prompt tokens and {words} of the answer are more than {self._context_tokens}"
        return Failed(ContextTooLong(message, self._context_tokens))

    async def _chunks(self, request: EngineRequest, answer: "_Answer") -> AsyncGenerator[Chunk | Progress, None]:
        """Yield the words of an answer at their pace. If nobody reads them, yield one empty chunk for the first token."""
        pacing = _Pacing()
        if pace := self._options.prefill_tokens_per_s:
            await asyncio.sleep(answer.outcome.usage.input_tokens / pace)
        if not request.streamed:
            await self._decode(1, pacing)
            yield Chunk(b"", lambda: _so_far(request, answer, pacing.words(answer)))
            await self._decode(answer.outcome.usage.output_tokens - 1, pacing)
            return
        thoughts, pieces = _words(answer.reasoning), answer.pieces()
        last = len(thoughts) + len(pieces) - 1
        for number, text in enumerate((*thoughts, *pieces)):
            await self._decode(1, pacing)
            delta: dict[str, object] = {"reasoning" if number < len(thoughts) else "content": text}
            if answer.json is not None and answer.json.tool:
                delta = {"tool_calls": [_call_piece(_call(request, answer.json.tool, text), is_first=number == 0)]}
            chunk = _chunk(request, text, answer.reason if number == last else None, delta=delta)
            yield Chunk(chunk, None if number else lambda: _so_far(request, answer, pacing.words(answer)))

    async def _decode(self, tokens: int, pacing: "_Pacing") -> None:
        options = self._options
        pace = 0.0
        if options.decode_tokens_per_s and tokens > 0:
            pace = (1 + options.slowdown * (self._running - 1)) / options.decode_tokens_per_s
        pacing.began_s, pacing.pace_s = asyncio.get_running_loop().time(), pace
        if pace:
            await asyncio.sleep(tokens * pace)
        pacing.done, pacing.pace_s = pacing.done + max(0, tokens), 0.0


@dataclass(slots=True)
class _Pacing:
    """How far an answer is, also while nobody reads it."""

    done: int = 0
    """How many words are complete, before those that are being decoded."""
    began_s: float = 0.0
    """When the decoding of the next words began, by the loop's clock."""
    pace_s: float = 0.0
    """How long each of them takes. 0: none is being decoded."""

    def words(self, answer: _Answer) -> int:
        more = int((asyncio.get_running_loop().time() - self.began_s) / self.pace_s) if self.pace_s else 0
        return min(self.done + more, answer.outcome.usage.output_tokens)


def _so_far(request: EngineRequest, answer: _Answer, words: int) -> SoFar:
    """Say what a request has come to after so many words."""
    usage = Usage(answer.outcome.usage.input_tokens, words)
    if request.endpoint.shape is Shape.EMBEDDINGS:
        return SoFar(None, usage)
    thoughts = answer.reasoning.split()
    text = "".join(answer.pieces()[: max(0, words - len(thoughts))])
    if answer.json is not None and answer.json.tool:
        return SoFar(
            _with_call(
                _response(request, _Body(), "", usage, CANCELLED_REASON), _call(request, answer.json.tool, text)
            ),
            usage,
        )
    response = _response(request, _Body(), text, usage, CANCELLED_REASON)
    return SoFar(_with_reasoning(response, " ".join(thoughts[:words])) if thoughts else response, usage)


async def _fail(script: ScriptedFailure) -> Failed:
    failure: Failure
    match script.kind:
        case FailureKind.CRASH:
            os._exit(_CRASH_CODE)
        case FailureKind.HANG:
            await asyncio.Event().wait()
        case FailureKind.RAISE:
            raise RuntimeError("scripted")
        case FailureKind.ENGINE_LOST:
            raise EngineDied("scripted")
        case FailureKind.BAD_REQUEST:
            failure = BadRequest("scripted")
        case FailureKind.FILTERED:
            failure = Filtered("scripted")
        case FailureKind.THROTTLED:
            failure = Throttled(None if script.retry_after_ms is None else Ms(script.retry_after_ms))
        case FailureKind.ENGINE_FAULT:
            failure = EngineFault("scripted")
    return Failed(failure)


def _length(body: _Body) -> int:
    """Count the characters of the prompt, in whatever field it is."""
    if body.messages:
        return sum(_characters(message.content) for message in body.messages)
    return _characters(body.prompt) or _characters(body.input)


def _characters(content: object) -> int:
    match content:
        case str():
            return len(content)
        case list():
            return sum(_characters(part) for part in content)
        case {"text": str() as text}:
            return len(text)
        case int():
            return 4
        case _:
            return 0


def _response(request: EngineRequest, body: _Body, text: str, usage: Usage, reason: str) -> bytes:
    prompt, words = usage.input_tokens, usage.output_tokens
    used = {"prompt_tokens": prompt, "completion_tokens": words, "total_tokens": prompt + words}
    head: dict[str, object] = {"id": request.id, "model": request.model, "created": 0}
    parts: list[dict[str, object]]
    match request.endpoint.shape:
        case Shape.CHAT:
            message = {"role": "assistant", "content": text}
            parts = [{"index": 0, "message": message, "finish_reason": reason}]
        case Shape.TEXT:
            parts = [{"index": 0, "text": text, "finish_reason": reason}]
        case Shape.EMBEDDINGS:
            del head["id"], head["created"], used["completion_tokens"]
            parts = [_embedding(number, text, body) for number, text in enumerate(_inputs(body.input))]
    endpoint = request.endpoint
    return _json.encode({**head, "object": endpoint.object, endpoint.parts: parts, "usage": used})


def _with_reasoning(response: bytes, thought: str) -> bytes:
    """Add reasoning to a chat's response, as vLLM and OpenRouter do."""
    read = msgspec.json.decode(response)
    message = read["choices"][0]["message"]
    message |= {"content": message["content"] or None, "reasoning": thought}
    read["usage"]["completion_tokens_details"] = {"reasoning_tokens": len(thought.split())}
    return _json.encode(read)


def _made_up(request: EngineRequest, body: _Body) -> MadeUp | None:
    if request.endpoint.shape is not Shape.CHAT:
        return None
    after_result = bool(body.messages) and body.messages[-1].role == "tool"
    return made_up(body.tools, body.tool_choice, body.response_format, after_result=after_result)


def _words(text: str) -> list[str]:
    return [word if number == 0 else f" {word}" for number, word in enumerate(text.split())]


def _cut(text: str) -> list[str]:
    return [text[start : start + _CHARACTERS] for start in range(0, len(text), _CHARACTERS)]


def _call(request: EngineRequest, tool: str, arguments: str) -> dict[str, object]:
    name = request.id.replace(".", "-")  # Anthropic's clients take no dots
    return {"id": f"call_{name}", "type": "function", "function": {"name": tool, "arguments": arguments}}


def _call_piece(call: dict[str, Any], *, is_first: bool) -> dict[str, object]:
    """Return a piece of a call: only the first names it."""
    if is_first:
        return {"index": 0, **call}
    return {"index": 0, "function": {"arguments": call["function"]["arguments"]}}


def _with_call(response: bytes, call: dict[str, object]) -> bytes:
    """Make a chat's response call a tool instead of saying something."""
    read = msgspec.json.decode(response)
    read["choices"][0]["message"] |= {"content": None, "tool_calls": [call]}
    return _json.encode(read)


def _inputs(given: str | list[Any]) -> list[Any]:
    """List what to embed. The field holds a text or its tokens, or a list of either."""
    is_one = isinstance(given, str) or all(isinstance(part, int) for part in given)
    return [given] if is_one else list(given)


def _embedding(number: int, given: Any, body: _Body) -> dict[str, object]:
    dimensions = body.dimensions or _DIMENSIONS
    digest = hashlib.shake_128(_json.encode(given)).digest(dimensions)
    vector = [byte / 127.5 - 1 for byte in digest]
    is_packed = body.encoding_format == "base64"
    packed = base64.b64encode(struct.pack(f"<{dimensions}f", *vector)).decode() if is_packed else vector
    return {"object": "embedding", "index": number, "embedding": packed}


def _unmet(constraints: Constraints) -> BadRequest:
    """Say by its name what this engine cannot do."""
    field = "response_format" if constraints.tool is None else "tool_choice"
    return BadRequest(f"{field}: this engine makes up words, and neither JSON nor calls of tools")


def _chunk(request: EngineRequest, text: str, reason: str | None, *, delta: dict[str, object]) -> bytes:
    endpoint = request.endpoint
    piece: dict[str, object] = {"delta": delta} if endpoint.shape is Shape.CHAT else {"text": text}
    head = {"id": request.id, "object": endpoint.chunk, "created": 0, "model": request.model}
    return _json.encode({**head, "choices": [{"index": 0, **piece, "finish_reason": reason}]})
