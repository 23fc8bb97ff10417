"""The commands of somebody who reaches the API over HTTP, and neither NATS nor Postgres."""

import asyncio
import json
import subprocess
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
