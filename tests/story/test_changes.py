"""Lane, deadline and priority are changed while jobs wait, as a user does it."""

import asyncio
import json
from pathlib import Path

import pytest

from tests.system import System, a_catalog_file, a_system, until

pytestmark = [pytest.mark.story, pytest.mark.commands]


def lines(folder: Path, count: int) -> Path:
    path = folder / "jobs.jsonl"
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4}
    one = {"method": "POST", "url": "/v1/chat/completions", "body": body}
    path.write_text("".join(json.dumps({**one, "custom_id": f"c{n}"}) + "\n" for n in range(count)))
    return path


async def told(system: System, *words: str, code: int = 0) -> dict[str, object]:
    ran = await system.here(*words, "--json")
    assert ran.returncode == code, ran.stderr
    said: dict[str, object] = json.loads(ran.stdout)
    return said


async def test_a_job_and_a_batch_are_changed_while_they_wait_and_the_audit_says_so(tmp_path: Path) -> None:
    async with a_system(tmp_path / "data", a_catalog_file(tmp_path)) as system:
        await told(system, "pause", "tenant", "default")
        file = str(lines(tmp_path, 20))
        sent = await asyncio.to_thread(system.command, "submit", file, "--priority", "3", "--json")
        batch = json.loads(sent.stdout)["batch"]
        assert isinstance(batch, dict)

        async def all_are_in() -> bool:
            shown = await told(system, "batch", "show", batch["id"])
            counts = shown["counts"]
            assert isinstance(counts, dict)
            return bool(counts["admitted"] == 20)

        await until(all_are_in, "all are in the ledger")
        jobs = (await told(system, "job", "list", "--batch", batch["id"]))["jobs"]
        assert isinstance(jobs, list)
        job = jobs[0]["id"]
        one = await told(system, "job", "change", job, "--priority", "50", "--deadline", "2h")
        all_ = await told(system, "batch", "change", batch["id"], "--lane", "standard")
        shown = await told(system, "job", "show", job)
        nothing = await system.here("job", "change", job)
        human = await system.here("job", "change", job, "--priority", "-1")
        changes = (await told(system, "audit"))["entries"]
        await told(system, "resume", "tenant", "default")

        assert (one["before"]["priority"], one["after"]["priority"]) == (3, 50)  # type: ignore[index]
        assert all_["counts"] == {"changed": 20}
        assert (shown["lane"], shown["priority"]) == ("standard", 50)
        assert (nothing.returncode, "say what to change" in nothing.stderr) == (2, True)
        assert [word in human.stdout for word in ("before", "standard", "50", "-1")] == [True] * 4
        assert isinstance(changes, list)
        assert [entry["action"] for entry in changes[:4]] == ["change", "change", "change", "pause"]

        async def is_complete() -> bool:
            return (await told(system, "batch", "show", batch["id"]))["status"] == "completed"

        await until(is_complete, "the batch is complete")
        ended = await system.here("job", "change", job, "--priority", "1")
        assert "has ended (succeeded)" in ended.stderr
