"""Policies of retries, and a model that reasons until its limit, as a user meets them."""

import json
from pathlib import Path

import pytest

from broker.client import Client, RequestRefused
from schemas.api import State
from tests.system import System, a_client, a_system, until

pytestmark = [pytest.mark.story, pytest.mark.commands]
CATALOG = """
[models.patient]
[[models.patient.route]]
deployment = "faulty"
[models.patient.retry]
max_attempts = 5
backoff_base_s = 0.01
[models.patient.retry.attempts]
filtered = 2

[models.strict]
[[models.strict.route]]
deployment = "faulty"
[models.strict.retry.attempts]
engine_fault = 1

[models.thinker]
max_output_tokens = 64
[[models.thinker.route]]
deployment = "thinking"

[deployments.faulty]
engine = "simulated"
[[deployments.faulty.options.failures]]
match = "boom"
kind = "engine_fault"
[[deployments.faulty.options.failures]]
match = "filtered"
kind = "filtered"
times = 1

[deployments.thinking]
engine = "simulated"
[deployments.thinking.price]
output = 1.0
[deployments.thinking.options]
reasoning_tokens = 32
output_tokens = 4
"""


async def test_each_model_has_a_policy_of_its_own_and_reasoning_that_ate_the_limit_says_so(tmp_path: Path) -> None:
    catalog = tmp_path / "catalog.toml"
    catalog.write_text(CATALOG)
    async with a_system(tmp_path / "data", catalog) as system, a_client(system) as client:
        assert await ended(client, "patient", "boom") == (State.DEAD, 5)
        assert await ended(client, "patient", "boom", max_attempts=2) == (State.DEAD, 2)
        assert await ended(client, "patient", "filtered") == (State.SUCCEEDED, 2)
        assert await ended(client, "strict", "boom") == (State.FAILED, 1)
        assert "patient.retry" in (await system.here("catalog")).stdout

        await cut_while_reasoning(system, client)


async def ended(client: Client, model: str, text: str, *, max_attempts: int | None = None) -> tuple[State, int]:
    """The state in which a job ends, and its attempts."""
    job = await client.submit(model, {"messages": [{"role": "user", "content": text}]}, max_attempts=max_attempts)

    async def is_over() -> bool:
        try:
            return (await client.job(job)).settled_ms is not None
        except RequestRefused:
            return False

    await until(is_over, f"{model} {text} ends")
    shown = await client.job(job)
    return shown.state, len(shown.executions)


async def cut_while_reasoning(system: System, client: Client) -> None:
    chat = {"messages": [{"role": "user", "content": "Why?"}], "max_tokens": 16}
    job = await client.submit("thinker", chat)

    async def is_over() -> bool:
        shown = await system.here("job", "show", str(job), "--json")
        return shown.returncode == 0 and json.loads(shown.stdout)["settled_ms"] is not None

    await until(is_over, "the job is over")
    shown = json.loads((await system.here("job", "show", str(job), "--json")).stdout)
    said = (await system.here("job", "show", str(job))).stdout
    with pytest.raises(RequestRefused) as refused:
        await client.infer("thinker", chat)
    answer = await client.infer("thinker", {**chat, "max_tokens": 40})

    assert (shown["state"], shown["failure"]["type"]) == ("failed", "cut_while_reasoning")
    assert len(shown["executions"]) == 1
    assert shown["cost_nano_usd"] == 16 * 1000
    assert "set max_tokens higher (this model allows 64)" in " ".join(said.split())
    assert refused.value.problem.code == "cut_while_reasoning"
    assert "16 of them counted as reasoning" in refused.value.problem.message
    assert len(answer.text().split()) == 4
