"""The engines, one file each. Only that file imports the engine's library, and only when the engine is used.

simulated   makes up deterministic tokens, delays and faults, for tests, load and demonstrations
llamacpp    runs llama.cpp in process (xllamacpp), for GGUF files
openai      calls any OpenAI-compatible HTTP API: a provider's or a self-hosted server's
vllm        runs vLLM in process, through its own OpenAI layer

amx             asks Linux for AMX in vLLM's processes
asgi            calls an ASGI application in this process, for vllm
guard           kills an engine's processes when its worker ends
openmp          sets how an engine's threads wait for each other
openai_call     sends one request and makes an outcome of its answer, for openai
openai_simplest tries the simplest request, to learn whose fault a refusal is, for openai
prices          looks up list prices, for openai
"""

from importlib import import_module

from workers.ports import EngineConfigError, EngineFactory

_ENGINES = {"simulated": "infermq", "llamacpp": "infermq[llamacpp]", "openai": "infermq[openai]", "vllm": "vllm"}
"""What to install for each engine."""


def factory(name: str) -> EngineFactory:
    """Return what makes the engine of this name. Raises: EngineConfigError, if it is unknown or not installed."""
    if name not in _ENGINES:
        raise EngineConfigError(f"there is no engine {name!r}; known: {', '.join(sorted(_ENGINES))}")
    try:
        module = import_module(f"workers.engines.{name}")
    except ModuleNotFoundError as error:
        raise EngineConfigError(f"the engine {name!r} needs {error.name}: pip install '{_ENGINES[name]}'") from error
    make: EngineFactory = module.make
    return make
