"""Jobs and batches are cancelled as a user does it, and what they had answered stays."""

import json
from pathlib import Path
from uuid import UUID

import asyncpg
import pytest

from broker.client import Client, Submission, new_id
from schemas.api import State
from schemas.endpoints import CHAT
from schemas.job import Job
from tests.system import System, a_catalog_file, a_client, a_system, until

pytestmark = [pytest.mark.real, pytest.mark.timeout(120)]
BODY = b'{"messages":[{"role":"user","content":"Say much."}],"max_tokens":1000}'
SLOW = "decode_tokens_per_s = 20.0\noutput_tokens = 1000"


async def test_jobs_and_batches_are_cancelled_by_commands(tmp_path: Path) -> None:
    catalog = a_catalog_file(tmp_path, slots=1, options=SLOW)
    async with a_system(tmp_path / "data", catalog) as system, a_client(system) as client:
        job = await client.submit("m", BODY)
        await until(lambda: _runs(client, job), "the job runs")
        batch = await client.create_batch()
        lines = (Submission("m", Job(endpoint=CHAT.path, body=BODY, custom_id=f"line-{n}")) for n in range(20))
        await client.seal(batch.id, jobs=await client.submit_many(lines, batch_id=batch.id))

        await _what_runs(system, str(job))
        await _what_has_ended(system, str(job))
        await _a_batch(system, str(batch.id))
        await _what_matches(system)
        short, empty = await _that_lacks(2, system, client, sent=3), await _that_lacks(2, system, client, sent=0)
        await _what_never_came(system, str(short), tmp_path / "results.jsonl")
        await _nothing_came(system, str(empty), tmp_path / "nothing.jsonl")


async def _runs(client: Client, job: object) -> bool:
    shown = await client.job(job)  # type: ignore[arg-type] # it is an id
    return shown.state is State.RUNNING and shown.dispatched_ms is not None


async def _what_runs(system: System, job: str) -> None:
    ran = await system.here("job", "cancel", job)
    assert (ran.returncode, "it ran, and has ended" in ran.stdout) == (0, True), ran
    shown = json.loads((await system.here("job", "show", job, "--json")).stdout)
    [choice] = shown["body"]["choices"]
    assert (shown["state"], choice["finish_reason"]) == ("cancelled", "cancelled")
    assert shown["usage"]["output_tokens"] == len(choice["message"]["content"].split()) < 1000
    assert shown["cost_nano_usd"] > 0


async def _what_has_ended(system: System, job: str) -> None:
    ran = await system.here("job", "cancel", job, str(new_id()), "--json")
    answers = [one["answer"] for one in json.loads(ran.stdout)["jobs"]]
    assert (ran.returncode, answers) == (1, ["ended", "unknown"])


async def _a_batch(system: System, batch: str) -> None:
    ran = await system.here("batch", "cancel", batch, "--wait", "--json")
    state = json.loads(ran.stdout)
    assert (ran.returncode, state["status"], state["counts"]["cancelled"]) == (0, "cancelled", 20)
    again = await system.here("batch", "cancel", batch)
    assert again.returncode == 0
    results = [json.loads(line) for line in (await system.here("batch", "results", batch)).stdout.splitlines()]
    assert {result["custom_id"] for result in results} == {f"line-{n}" for n in range(20)}
    assert {result["error"]["code"] for result in results} == {"cancelled"}


async def _what_matches(system: System) -> None:
    nothing = await system.here("cancel")
    unasked = await system.here("cancel", "--model", "m")
    count = await system.here("cancel", "--model", "m", "--dry-run", "--json")
    given = await system.here("cancel", "--older-than", "0s", "--yes", "--wait", "--json")
    assert [nothing.returncode, unasked.returncode, count.returncode, given.returncode] == [2, 2, 0, 0]
    assert json.loads(count.stdout) == {"queued": 0, "running": 0, "more": False}
    assert json.loads(given.stdout)["ended_ms"] is not None


async def _that_lacks(lost: int, system: System, client: Client, *, sent: int) -> UUID:
    """Make a batch that was cancelled an hour ago, some of whose jobs NATS has lost."""
    batch = await client.create_batch()
    lines = (Submission("m", Job(endpoint=CHAT.path, body=BODY, custom_id=f"line-{n}")) for n in range(sent))
    await client.submit_many(lines, batch_id=batch.id)
    await client.seal(batch.id, jobs=sent + lost)
    await client.cancel_batch(batch.id)
    await _is_an_hour_ago(system, batch.id)
    await until(lambda: _is_complete(client, batch.id), "the batch is complete without the jobs that are lost")
    return batch.id


async def _is_an_hour_ago(system: System, batch: UUID) -> None:
    """Make it so that the batch was cancelled an hour ago."""
    connection = await asyncpg.connect(system.info.postgres_url)
    await connection.execute("update infermq.batches set cancel_ms = cancel_ms - 3600000 where id = $1", batch)
    await connection.close()


async def _is_complete(client: Client, batch: UUID) -> bool:
    return (await client.batch(batch)).completed_ms is not None


async def _what_never_came(system: System, batch: str, file: Path) -> None:
    """Three of five jobs were sent, and NATS has no other."""
    cancelled = await system.here("batch", "cancel", batch, "--wait")
    shown = await system.here("batch", "show", batch)
    watched = await system.here("batch", "watch", batch)
    unwritten = await system.here("batch", "results", batch)
    piped = await system.here("batch", "results", batch, "--wait")
    written = await system.here("batch", "results", batch, "--wait", "--out", str(file))

    assert "2: accepted, and lost" in _field(cancelled.stdout, "never came")
    assert "2, which were accepted and lost" in _field(shown.stdout, "never came")
    assert (watched.returncode, watched.stdout.startswith("3 cancelled, 2 never came;")) == (1, True), watched
    assert unwritten.returncode == 0
    for waited in (piped, written):
        said = "3 results, 3 of them failed, jobs without a result: 2" in waited.stderr
        assert (waited.returncode, said) == (1, True), waited
    assert len(file.read_text().splitlines()) == len(piped.stdout.splitlines()) == 3


async def _nothing_came(system: System, batch: str, file: Path) -> None:
    """A batch fails that has no failed job, and no other."""
    waited = await system.here("batch", "results", batch, "--wait")
    as_json = await system.here("batch", "results", batch, "--wait", "--json", "--out", str(file))
    watched = await system.here("batch", "watch", batch)

    assert "failed jobs: 0; jobs without a result: 2" in as_json.stderr
    assert (waited.returncode, waited.stderr.strip()) == (1, "0 results, jobs without a result: 2")
    assert (watched.returncode, watched.stdout.startswith("2 never came;")) == (1, True), watched


def _field(printed: str, name: str) -> str:
    """Return the line of a field, without its spaces at the ends."""
    [line] = [line for line in printed.splitlines() if line.strip().startswith(name)]
    return line.strip()
