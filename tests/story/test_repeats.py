"""Retries and replays as a user runs them: one merged file, two sets of replays, and what is different."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from broker.client import Client
from schemas.api import State
from schemas.listing import JobFilter
from tests.system import System, a_client, a_system, until

pytestmark = [
    pytest.mark.story,
    pytest.mark.commands,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(120),
]
CATALOG = """
[models.m]
[[models.m.route]]
deployment = "d"
[models.other]
[[models.other.route]]
deployment = "e"

[deployments.d]
engine = "simulated"
price = {input = 1.0, output = 2.0}
options = {output_tokens = 8, failures = [{match = "fails", kind = "bad_request"}]}

[deployments.e]
engine = "simulated"
price = {input = 10.0, output = 20.0}
options = {output_tokens = 8, seed = 7, failures = [{match = "fails twice", kind = "bad_request"}]}
"""
LINES, WRONG, TWICE = 30, 6, 2
"""How many lines there are, how many of them fail, and how many of those fail on the other model too."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    folder = tmp_path_factory.mktemp("system")
    catalog = folder / "catalog.toml"
    catalog.write_text(CATALOG)
    async with a_system(folder / "data", catalog) as running:
        yield running


def a_line(number: int, text: str) -> str:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 8}
    return json.dumps({"custom_id": f"c{number}", "method": "POST", "url": "/v1/chat/completions", "body": body})


def text_of(number: int) -> str:
    return f"{number} fails twice" if number < TWICE else f"{number} fails" if number < WRONG else str(number)


async def submitted(system: System, folder: Path) -> str:
    """A complete batch."""
    file = folder / "in.jsonl"
    file.write_text("\n".join(a_line(number, text_of(number)) for number in range(LINES)))
    ran = await asyncio.to_thread(system.command, "submit", str(file), "--wait", "--json")
    batch: str = json.loads(ran.stdout)["batch"]["id"]
    return batch


async def said(system: System, *words: str, code: int = 0) -> Any:
    """What a command says in JSON."""
    ran = await system.here(*words, "--json")
    assert ran.returncode == code, ran.stderr
    return json.loads(ran.stdout)


def results_in(file: Path) -> dict[str, bool]:
    """Whether each line of a file of results has a response, by its custom id; each once."""
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    found = {line["custom_id"]: line["response"] is not None for line in lines}
    assert len(found) == len(lines)
    return found


async def test_what_failed_is_retried_into_one_file_until_all_has_succeeded(system: System, tmp_path: Path) -> None:
    batch, out = await submitted(system, tmp_path), tmp_path / "out.jsonl"
    fixed = tmp_path / "fixed.jsonl"
    fixed.write_text("\n".join(a_line(number, "mended") for number in range(TWICE)))

    first = await system.here("batch", "retry", batch, "--model", "other", "--out", str(out))
    after_first = results_in(out)
    again = await system.here("batch", "retry", batch, "--code", "bad_request", "--model", "other", "--out", str(out))
    after_second = results_in(out)
    third = await said(system, "batch", "retry", batch, "--file", str(fixed), "--model", "m", "--out", str(out))
    nothing = await system.here("batch", "retry", batch)

    assert (first.returncode, again.returncode, nothing.returncode) == (1, 1, 0)
    assert "6 retried" in first.stdout
    assert "2 retried" in again.stdout
    assert "nothing to retry" in nothing.stdout
    assert sorted(after_first.values()) == [False] * TWICE + [True] * (LINES - TWICE)
    assert after_second == after_first
    assert third["instruction"]["counts"] == {"retried": TWICE, "with a fixed body": TWICE}
    assert results_in(out) == {f"c{number}": True for number in range(LINES)}


async def test_the_merged_file_can_be_in_the_order_of_the_lines(system: System, tmp_path: Path) -> None:
    batch, out = await submitted(system, tmp_path), tmp_path / "out.jsonl"
    await system.here("batch", "retry", batch, "--model", "other", "--wait")

    await system.here("batch", "results", batch, "--in-order", "--out", str(out))
    merged = results_in(out)
    await system.here("batch", "results", batch, "--own", "--in-order", "--out", str(out))
    own = results_in(out)
    shown = await system.here("batch", "show", batch)

    assert list(merged) == list(own) == [f"c{number}" for number in range(LINES)]
    assert (sum(merged.values()), sum(own.values())) == (LINES - TWICE, LINES - WRONG)
    assert f"{LINES} admitted, {LINES - TWICE} succeeded, {TWICE} failed" in shown.stdout


async def test_lines_of_no_failed_job_are_named_and_nothing_is_retried(system: System, tmp_path: Path) -> None:
    batch, fixed = await submitted(system, tmp_path), tmp_path / "fixed.jsonl"
    fixed.write_text("\n".join(a_line(number, "mended") for number in (0, LINES - 1, 777)))

    ran = await system.here("batch", "retry", batch, "--file", str(fixed))

    assert ran.returncode == 2
    assert f"line 2: 'c{LINES - 1}'" in ran.stderr
    assert "line 3: 'c777'" in ran.stderr
    assert (await said(system, "batch", "show", batch))["retries"] == []


async def test_a_batch_is_replayed_on_another_model_and_compared(system: System, tmp_path: Path) -> None:
    batch = await submitted(system, tmp_path)

    estimate = await said(system, "replay", "--batch", batch, "--to-model", "other", "--dry-run")
    made = await said(system, "replay", "--batch", batch, "--to-model", "other", "--wait", code=1)
    again = await said(system, "replay", "--batch", batch, "--to-model", "other", "--wait", code=1)
    found = await said(system, "replay", "diff", made["batch"]["id"], "--all", "--limit", "100")
    table = await system.here("replay", "diff", made["batch"]["id"])

    assert (estimate["jobs"], estimate["by_price"], estimate["unknown"]) == (LINES, LINES - WRONG, WRONG)
    assert made["batch"]["id"] != again["batch"]["id"]
    assert made["batch"]["counts"]["admitted"] == again["batch"]["counts"]["admitted"] == LINES
    counts = found["summary"]["comparisons"]
    assert (counts["now_succeeds"], counts["both_fail"]) == (WRONG - TWICE, TWICE)
    assert counts["same"] + counts["different"] == LINES - WRONG
    ran_both = [pair for pair in found["pairs"] if pair["comparison"] in {"same", "different"}]
    assert estimate["cost_nano_usd"] == sum(pair["new"]["cost_nano_usd"] for pair in ran_both)
    assert estimate["cost_nano_usd"] == 10 * sum(pair["old"]["cost_nano_usd"] for pair in ran_both)
    assert "succeed now" in table.stdout


async def test_an_interactive_request_is_replayed_on_one_deployment_with_changes(system: System) -> None:
    streamed = await asyncio.to_thread(system.command, "infer", "m", "hello", "--stream")
    assert streamed.returncode == 0, streamed.stderr
    async with a_client(system) as client:
        job = await newest(client)

        made = await said(
            system, "replay", "--job", job, "--to-deployment", "e", "--set", "user=somebody", "--max-tokens", "3",
            "--wait",
        )  # fmt: skip
        [result] = [result async for result in client.results(made["batch"]["id"], wait=False)]
        shown = await client.job(result.job)

    assert (result.state, result.usage.output_tokens, result.model) == (State.SUCCEEDED, 3, "m@e")
    assert str(shown.replay_of) == job
    assert [execution.deployment for execution in shown.executions] == ["e"]


async def newest(client: Client) -> str:
    """The newest job that has no batch, once it is recorded."""
    found: list[str] = []

    async def is_there() -> bool:
        page = await client.jobs(JobFilter(states=(State.SUCCEEDED,)), limit=1)
        found[:] = [str(job.id) for job in page.jobs if job.batch is None]
        return bool(found)

    await until(is_there, "the request is recorded")
    return found[0]


async def test_a_replay_of_what_cannot_be_is_refused(system: System) -> None:
    for words in (
        [],
        ["--state", "running"],
        ["--model", "m", "--to-model", "none"],
        ["--model", "m", "--to-deployment", "none"],
        ["--model", "m", "--patch", "[1]"],
        ["--model", "m", "--set", "x"],
        ["--model", "m", "--rate", "fast"],
    ):
        ran = await system.here("replay", *words)
        assert (ran.returncode, ran.stdout) == (2, ""), words
        assert ran.stderr.startswith("error: ")
