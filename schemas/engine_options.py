"""Defines the engines and the options that a catalog may set for each, so that a broker can check them without the engines.

vLLM's options are the arguments of its own `AsyncEngineArgs`: only a worker that has vLLM can check them.
"""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from schemas.catalog import Catalog, Deployment

TEXT_WORDS = 4096
"""The most words of a simulated answer."""


class FailureKind(StrEnum):
    """How a request can be scripted to fail."""

    BAD_REQUEST = "bad_request"
    FILTERED = "filtered"
    THROTTLED = "throttled"
    ENGINE_FAULT = "engine_fault"
    ENGINE_LOST = "engine_lost"
    """The engine dies for good."""
    CRASH = "crash"
    """The whole process ends."""
    HANG = "hang"
    """The engine never answers."""
    RAISE = "raise"
    """The engine raises an exception, as a bug would."""


class ScriptedFailure(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Makes requests fail whose body contains `match`."""

    match: Annotated[str, Meta(min_length=1)]
    kind: FailureKind
    times: Annotated[int, Meta(ge=0)] = 0
    """Fail only this many first attempts of a job; 0: all attempts."""
    retry_after_ms: Annotated[int, Meta(ge=0)] | None = None


class SimulatedOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The simulated engine: how fast it answers, with what, and which requests fail."""

    prefill_tokens_per_s: Annotated[float, Meta(ge=0)] = 0.0
    """0: the prompt takes no time."""
    decode_tokens_per_s: Annotated[float, Meta(ge=0)] = 0.0
    slowdown: Annotated[float, Meta(ge=0)] = 0.0
    output_tokens: Annotated[int, Meta(ge=1, le=TEXT_WORDS)] = 16
    """The length of an answer, unless the body or the model allows less."""
    reasoning_tokens: Annotated[int, Meta(ge=0, le=TEXT_WORDS)] = 0
    """How many words of reasoning come before the answer to a chat. They count as output."""
    makes_json: bool = False
    """Whether a chat that demands JSON gets some of its schema, and one that has tools a call, both made up."""
    seed: Annotated[int, Meta(ge=0, lt=2**32)] = 0
    """Chooses the words of the answers."""
    failures: tuple[ScriptedFailure, ...] = ()
    log: str | None = None
    """A file that gets a line for each request as it starts: the process id, and the request's id. For trials: it tells
    what really ran, whatever became of it."""


class LlamaCppOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """llama.cpp in process."""

    threads: Annotated[int, Meta(ge=1, le=1024)] | None = None
    """CPU threads. None: one for each physical core that the worker may use."""
    gpu_layers: Annotated[int, Meta(ge=-1)] | None = None
    """How many layers to put on the GPU, -1 for all. None: llama.cpp decides."""
    batch_tokens: Annotated[int, Meta(ge=32)] = 2048
    """The most tokens of all requests together in one step."""
    chat_template: str | None = None
    """Replaces the template in the model file."""
    prompt_cache_mib: Annotated[int, Meta(ge=0)] = 0
    """Memory for the caches of prompts that have left their slots."""
    embeddings: bool = False
    """Whether to serve /v1/embeddings, and nothing else."""


class OpenAiOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An OpenAI-compatible API."""

    profile: str | None = None
    """An entry of providers.toml. None: the one that lists the host of `base_url`."""
    body: dict[str, Any] = {}
    """Fields to add to every request that does not have them: routing, fallback models, service tier …"""
    headers: dict[str, str] = {}
    connect_timeout_s: Annotated[float, Meta(gt=0, le=600)] = 10.0
    silence_timeout_s: Annotated[float, Meta(gt=0, le=86400)] = 600.0
    """The longest time without a byte once the request has been sent."""
    repeat_unanswered: bool = True
    """Whether to send a request again when no complete answer came, although it may have been billed."""
    list_prices: bool = True
    """Whether genai-prices comes before the deployment's own price for a response without a cost."""


OPTIONS: Mapping[str, type[msgspec.Struct] | None] = {
    "simulated": SimulatedOptions,
    "llamacpp": LlamaCppOptions,
    "openai": OpenAiOptions,
    "vllm": None,
}
"""The engines, and what their options are. None: only the engine knows."""


def engine_faults(catalog: Catalog) -> list[str]:
    """Say which deployments name an engine that there is not, or options that it does not have."""
    found = ((name, _fault(deployment)) for name, deployment in catalog.deployments.items())
    return [f"deployments.{name}.{fault}" for name, fault in found if fault is not None]


def _fault(deployment: Deployment) -> str | None:
    if deployment.engine not in OPTIONS:
        return f"engine: there is no engine {deployment.engine!r}; known: {', '.join(sorted(OPTIONS))}"
    options = OPTIONS[deployment.engine]
    if options is None:
        return None
    try:
        msgspec.convert(deployment.options, options)
    except msgspec.ValidationError as error:
        return f"options: {error}; the engine {deployment.engine!r} has {', '.join(options.__struct_fields__)}"
    return None
