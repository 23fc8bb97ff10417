"""Every program in examples/ against a running system, and the SQL of the documents."""

import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import asyncpg
import pytest
import pytest_asyncio

from tests.system import System, a_catalog_file, a_system

pytestmark = [
    pytest.mark.story,
    pytest.mark.commands,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(120),
]
ROOT = Path(__file__).parents[2]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    folder = tmp_path_factory.mktemp("system")
    async with a_system(folder / "data", a_catalog_file(folder)) as running:
        yield running


def run(system: System, name: str, *arguments: str, door: str = "nats") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "examples" / name), *arguments]
    url = {"INFERMQ_URL": system.info.api} if door == "http" else {"INFERMQ_NATS_URL": system.info.nats_url}
    environ = {**os.environ, **url, "INFERMQ_API_KEY": str(system.api_key)}
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environ)
    assert str(system.api_key) not in ran.stdout + ran.stderr
    return ran


async def test_plain_nats_submits_reads_and_streams(system: System) -> None:
    ran = run(system, "plain_nats.py", system.info.nats_url, "m")

    lines = ran.stdout.splitlines()
    assert ran.returncode == 0, ran.stderr
    assert sum(": succeeded: " in line for line in lines) == 3
    assert sum(line.startswith("chunk") for line in lines) == 16
    assert lines[-1].startswith("final")


@pytest.mark.parametrize("door", ["nats", "http"])
async def test_a_batch_is_submitted_and_read(system: System, door: str) -> None:
    ran = run(system, "batch.py", "m", door=door)

    assert ran.returncode == 0, ran.stderr
    results = [line.split(maxsplit=3) for line in ran.stdout.splitlines()]
    assert sorted(name for name, *_ in results) == ["sea", "sky", "snow"]
    assert all(state == "succeeded" and int(cost) > 0 and answer for _, state, cost, answer in results)


@pytest.mark.parametrize("door", ["nats", "http"])
async def test_a_question_is_answered_whole_and_streamed(system: System, door: str) -> None:
    ran = run(system, "ask.py", "m", door=door)

    assert ran.returncode == 0, ran.stderr
    whole, streamed = ran.stdout.splitlines()
    assert whole.endswith(" 16")
    assert (len(whole.split()) - 1, len(streamed.split())) == (16, 16)


@pytest.mark.parametrize("name", ["plain_nats.py", "batch.py", "ask.py", "unpack_model.py"])
async def test_without_arguments_an_example_says_how_it_is_used(system: System, name: str) -> None:
    if name == "unpack_model.py":
        pytest.importorskip("torch")

    ran = run(system, name)

    assert ran.returncode == 1
    assert f"{name} " in ran.stderr
    assert "Traceback" not in ran.stderr


async def test_the_sql_of_the_documents_runs_on_the_ledger(system: System) -> None:
    [query] = re.findall(r"```sql\n(.*?)```", (ROOT / "docs" / "operating.md").read_text(), re.DOTALL)
    connection = await asyncpg.connect(system.info.postgres_url)
    try:
        rows = await connection.fetch(query)
    finally:
        await connection.close()

    assert all(set(row.keys()) == {"state", "count", "usd"} for row in rows)
