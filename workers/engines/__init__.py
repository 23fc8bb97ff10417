"""The engines, one file each: the only importer of its library, and only once it is asked for.

simulated   deterministic tokens, delays and faults; for tests, load and demonstrations
llamacpp    llama.cpp in process (xllamacpp), GGUF files
openai      any OpenAI-compatible HTTP API: providers, or servers of one's own
vllm        vLLM in process, through its own OpenAI layer
"""

from importlib import import_module

from workers.ports import EngineConfigError, EngineFactory

_ENGINES = {"simulated": "infermq", "llamacpp": "infermq[llamacpp]", "openai": "infermq[openai]", "vllm": "vllm"}
"""What to install for each."""


def factory(name: str) -> EngineFactory:
    """Raises: EngineConfigError, for an engine that is unknown or not installed."""
    if name not in _ENGINES:
        raise EngineConfigError(f"there is no engine {name!r}; known: {', '.join(sorted(_ENGINES))}")
    try:
        module = import_module(f"workers.engines.{name}")
    except ModuleNotFoundError as error:
        raise EngineConfigError(f"the engine {name!r} needs {error.name}: pip install '{_ENGINES[name]}'") from error
    made: EngineFactory = module.make
    return made
