"""The commands of somebody who reaches the API over HTTP, and neither NATS nor Postgres."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest
import pytest_asyncio

from schemas.api_keys import parse_key
from tests.builders import CHAT
from tests.system import System, a_catalog_file, a_system, infermq

pytestmark = [
    pytest.mark.story,
    pytest.mark.commands,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(120),
]
SLOW = 'failures = [{match = "hang", kind = "hang"}, {match = "wrong", kind = "bad_request"}]'


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    folder = tmp_path_factory.mktemp("system")
    async with a_system(folder / "data", a_catalog_file(folder, options=SLOW)) as running:
        yield running


class Elsewhere:
    """A folder from which only the API over HTTP is known."""

    def __init__(self, system: System, folder: Path) -> None:
        self._system = system
        self.folder = folder
        self.health = system.info.broker_http
        self.environ = {
            "INFERMQ_URL": system.info.api,
            "INFERMQ_API_KEY": str(system.api_key),
            "INFERMQ_NATS_URL": "nats://127.0.0.1:1",
        }

    async def ran(self, *words: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = await asyncio.to_thread(infermq, *words, cwd=self.folder, environ=self.environ)
        self._system.noted(done)
        assert done.returncode == code, done.stderr
        return done

    def a_file(self, *texts: str) -> str:
        lines = [
            {"custom_id": text, "method": "POST", "url": CHAT, "body": {"model": "m", "messages": [a_message(text)]}}
            for text in texts
        ]
        (self.folder / "lines.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        return "lines.jsonl"


def a_message(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


@pytest.fixture
def elsewhere(system: System, tmp_path: Path) -> Elsewhere:
    return Elsewhere(system, tmp_path)


async def test_a_file_is_submitted_watched_and_read(elsewhere: Elsewhere) -> None:
    file = elsewhere.a_file("a", "b", "wrong")
    done = await elsewhere.ran("submit", file, "--new", "--wait", "--out", "out.jsonl", "--json", code=1)
    batch = json.loads(done.stdout)["batch"]["id"]

    shown = json.loads((await elsewhere.ran("batch", "show", batch, "--json")).stdout)
    watched = await elsewhere.ran("batch", "watch", batch, code=1)
    results = [json.loads(line) for line in (await elsewhere.ran("batch", "results", batch)).stdout.splitlines()]

    assert shown["counts"] == {**shown["counts"], "succeeded": 2, "failed": 1}
    assert "2 succeeded" in watched.stdout + watched.stderr
    assert {one["custom_id"]: one["response"] is not None for one in results} == {
        "a": True,
        "b": True,
        "wrong": False,
    }
    assert {json.loads(line)["custom_id"] for line in (elsewhere.folder / "out.jsonl").read_text().splitlines()} >= {
        "a"
    }


MIXED = [
    {"custom_id": "good", "method": "POST", "url": CHAT, "body": {"messages": [a_message("good")]}},
    {"custom_id": "bad", "method": "GET", "url": CHAT, "body": {"model": "m", "messages": []}},
    {"custom_id": "wrong", "method": "POST", "url": CHAT, "body": {"model": "m", "messages": [a_message("wrong")]}},
    {"custom_id": "good", "method": "POST", "url": CHAT, "body": {"model": "m", "messages": []}},
    {"custom_id": "nowhere", "method": "POST", "url": CHAT, "body": {"model": "none", "messages": []}},
    {"custom_id": "text", "method": "POST", "url": "/v1/completions", "body": {"model": "m", "prompt": "Hi."}},
]
WAYS = {
    "files": ["--model", "m", "--out", "out.jsonl", "--errors", "errors.jsonl"],
    "json": ["--model", "m", "--wait", "--json"],
    "nothing-waited-for": ["--model", "m"],
    "said-more": ["--model", "m", "--deadline", "90s", "--priority", "3", "--lane", "standard", "--metadata", "a=b"],
    "interactive": ["--model", "m", "--lane", "interactive", "--wait"],
    "strict": ["--model", "m", "--strict", "--errors", "errors.jsonl"],
    "no-model": ["--wait", "--out", "out.jsonl"],
    "unknown-model": ["--model", "other"],
}


@pytest.mark.parametrize("way", WAYS)
async def test_a_submission_says_the_same_over_both_doors(
    system: System, elsewhere: Elsewhere, tmp_path: Path, way: str
) -> None:
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(line) + "\n" for line in MIXED))
    said = []

    for where in (["--data", str(system.data)], []):
        for name in ("out.jsonl", "errors.jsonl"):
            (tmp_path / name).unlink(missing_ok=True)
        words = ["submit", "in.jsonl", "--new", *WAYS[way], *where]
        done = await asyncio.to_thread(infermq, *words, cwd=tmp_path, environ=elsewhere.environ)
        said.append(
            [done.returncode, _said(done), *(_entries(tmp_path / name) for name in ("out.jsonl", "errors.jsonl"))]
        )

    assert said[0] == said[1]


def _said(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return what was printed, in any order, without ids, times and what may have failed before it ended."""
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|[0-9a-f]{64}", "ID", done.stdout + done.stderr)
    text = re.sub(r'(_ms":\s?)\d+', r"\1 0", text.replace('"of_file":true', '"of_file":false'))
    return sorted(line for line in text.splitlines() if not line.startswith("line 3 (wrong)"))


def _entries(file: Path) -> list[tuple[str, ...]]:
    lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return sorted((str(line["custom_id"]), str(line["error"]), str(line["response"] is None)) for line in lines)


async def test_a_file_goes_on_over_the_other_door(system: System, elsewhere: Elsewhere) -> None:
    """A batch that is of a file is followed over NATS, and is not sent once more."""
    file = elsewhere.a_file(*(f"t{n}" for n in range(50)))
    made = await elsewhere.ran("submit", file, "--json")
    nats = ["--data", str(system.data), "--resume", "--out", "out.jsonl", "--json"]
    done = await elsewhere.ran("submit", file, *nats)

    assert json.loads(made.stdout)["batch"]["id"] == json.loads(done.stdout)["batch"]["id"]
    assert json.loads(done.stdout)["batch"]["counts"]["succeeded"] == 50


async def test_a_file_whose_lines_are_being_made_jobs_is_not_sent_once_more_over_nats(
    system: System, elsewhere: Elsewhere
) -> None:
    lines = 60_000
    elsewhere.a_file(*(f"u{n}" for n in range(lines)))
    command = [sys.executable, "-m", "broker", "submit", "lines.jsonl", "--metadata", "made=now"]
    environ = {**os.environ, **elsewhere.environ}
    process = await asyncio.create_subprocess_exec(*command, cwd=elsewhere.folder, env=environ, stdout=-1, stderr=-1)
    assert process.stderr is not None
    said = (await process.stderr.readline()).decode()
    process.kill()
    await process.communicate()

    words = ["submit", "lines.jsonl", "--data", str(system.data)]
    done = await elsewhere.ran(*words)
    shown = json.loads((await elsewhere.ran("batch", "show", said.split()[1], "--json")).stdout)
    await elsewhere.ran("batch", "cancel", said.split()[1])

    assert "whose lines are being made jobs" in done.stderr
    assert f"{lines} jobs submitted" in done.stdout
    assert (shown["jobs"], shown["counts"]["admitted"]) == (lines, lines)


async def test_standard_input_and_a_file_that_was_submitted_before(elsewhere: Elsewhere) -> None:
    file = elsewhere.a_file("once")
    first = await elsewhere.ran("submit", file, "--wait")
    second = await elsewhere.ran("submit", file, "--wait")
    text = (elsewhere.folder / file).read_text()
    words = ["submit", "-", "--new", "--wait", "--json"]
    piped = await asyncio.to_thread(infermq, *words, stdin=text, cwd=elsewhere.folder, environ=elsewhere.environ)

    assert "submitted before" not in first.stderr
    assert "this file was submitted before" in second.stderr
    assert json.loads(piped.stdout)["batch"]["counts"]["succeeded"] == 1


async def test_an_answer_is_asked_for_and_its_job_is_shown(elsewhere: Elsewhere) -> None:
    streamed = await elsewhere.ran("infer", "m", "Hello.")
    whole = json.loads((await elsewhere.ran("infer", "m", "Hello.", "--json")).stdout)
    job = json.loads((await elsewhere.ran("job", "show", whole["job"], "--json")).stdout)

    assert streamed.stdout.strip()
    assert whole["response"]["choices"]
    assert (job["state"], job["lane"]) == ("succeeded", "interactive")
    assert UUID(job["id"]) == UUID(whole["job"])


async def test_a_batch_is_cancelled_and_retried(elsewhere: Elsewhere) -> None:
    done = await elsewhere.ran("submit", elsewhere.a_file("hang"), "--new", "--json")
    batch = json.loads(done.stdout)["batch"]["id"]

    await elsewhere.ran("batch", "cancel", batch)
    await elsewhere.ran("batch", "watch", batch, code=1)
    shown = json.loads((await elsewhere.ran("batch", "show", batch, "--json")).stdout)

    assert (shown["status"], shown["counts"]["cancelled"]) == ("cancelled", 1)


async def test_keys_are_made_and_used(elsewhere: Elsewhere) -> None:
    made = (await elsewhere.ran("key", "create", "--role", "producer")).stdout.strip()
    elsewhere.environ["INFERMQ_API_KEY"] = made

    may_not = await elsewhere.ran("status", code=2)
    await elsewhere.ran("key", "show", parse_key(made).id)

    assert "may not read the status" in may_not.stderr


async def test_what_cannot_be_reached_is_said(elsewhere: Elsewhere) -> None:
    nobody = await elsewhere.ran("status", "--url", "http://127.0.0.1:1", code=3)
    health = await elsewhere.ran("status", "--url", elsewhere.health, code=3)
    del elsewhere.environ["INFERMQ_API_KEY"]
    keyless = await elsewhere.ran("status", code=2)
    serve = await elsewhere.ran("serve", "--nats-url", "http://127.0.0.1:1", "--postgres-url", "x", code=2)
    worker = await elsewhere.ran("worker", "--deployment", "d", "--nats-url", "http://127.0.0.1:1", code=2)

    assert "nothing listens at 127.0.0.1:1" in nobody.stderr
    assert "not as infermq does" in health.stderr
    assert "set INFERMQ_API_KEY" in keyless.stderr
    assert "is no NATS" in serve.stderr
    assert "is no NATS" in worker.stderr
