"""The example in JavaScript against a running system, with a real Node.js."""

import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest
import pytest_asyncio

from tests.system import System, a_catalog_file, a_client, a_system

FOLDER = Path(__file__).parents[2] / "examples" / "node"
IS_HERE = shutil.which("node") is not None and (FOLDER / "node_modules").exists()

pytestmark = [
    pytest.mark.story,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(120),
    pytest.mark.skipif(
        not IS_HERE and "INFERMQ_TEST_NODE" not in os.environ,
        reason="Node.js or the packages of the example are not installed here: make test-node",
    ),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    folder = tmp_path_factory.mktemp("system")
    async with a_system(folder / "data", a_catalog_file(folder)) as running:
        yield running


def run(system: System, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["node", str(FOLDER / "producer.js"), *arguments]
    environ = {**os.environ, "INFERMQ_API_KEY": str(system.api_key)}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environ)
    assert str(system.api_key) not in ran.stdout + ran.stderr
    return ran


async def test_it_submits_jobs_reads_results_and_asks_for_a_whole_and_a_streamed_answer(system: System) -> None:
    ran = run(system, system.info.nats_url, "m")

    assert ran.returncode == 0, ran.stderr
    lines = ran.stdout.splitlines()
    results, whole, chunks, final = lines[:3], lines[3], lines[4:-1], lines[-1]
    assert sorted(line.split(": ")[0] for line in results) == ["Oslo", "Paris", "Rome"]
    assert all(line.split(": ")[1] == "succeeded" for line in results)
    assert whole.startswith("whole ")
    assert whole.endswith(" 16")
    assert len(chunks) == 16
    assert all(line.startswith("chunk ") for line in chunks)
    assert final.startswith("final ")
    assert '"completion_tokens":16' in final


async def test_what_it_sent_is_recorded_as_of_any_producer(system: System) -> None:
    before = await batches(system)

    run(system, system.info.nats_url, "m")

    [batch] = [one for one in await batches(system) if one not in before]
    async with a_client(system) as client:
        custom_ids = [result.custom_id async for result in client.results(batch)]
    assert sorted(custom_ids, key=str) == ["Oslo", "Paris", "Rome"]


async def batches(system: System) -> list[UUID]:
    async with a_client(system) as client:
        return [batch.id for batch in await client.batches()]


async def test_a_model_that_is_not_there_is_said(system: System) -> None:
    ran = run(system, system.info.nats_url, "gone")

    assert ran.returncode == 1
    assert ran.stdout.count('"unknown_model"') == 3
    assert "there is no model 'gone'" in ran.stderr
    assert "at " not in ran.stderr.split()


async def test_without_arguments_it_says_how_it_is_used(system: System) -> None:
    ran = run(system)

    assert ran.returncode == 1
    assert "node producer.js NATS_URL MODEL" in ran.stderr
