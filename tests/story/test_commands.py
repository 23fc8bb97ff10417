"""The commands as a user runs them, on a system of their own."""

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.system import System, a_catalog_file, a_system, infermq

pytestmark = [pytest.mark.story, pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]
ROOT = Path(__file__).parents[2]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    folder = tmp_path_factory.mktemp("system")
    async with a_system(folder / "data", a_catalog_file(folder)) as running:
        yield running


def a_line(custom_id: str | None = "a", **changes: object) -> str:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 8}
    line: dict[str, object] = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps({name: value for name, value in {**line, **changes}.items() if value is not None})


async def test_a_file_is_submitted_waited_for_and_written(system: System, tmp_path: Path) -> None:
    file, results = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    file.write_text("\n".join(a_line(f"c{n}") for n in range(50)) + "\n")

    ran = system.command("submit", str(file), "--out", str(results), "--json")

    assert ran.returncode == 0, ran.stderr
    state = json.loads(ran.stdout)["batch"]
    lines = [json.loads(line) for line in results.read_text().splitlines()]
    assert state["counts"]["succeeded"] == 50
    assert {line["custom_id"] for line in lines} == {f"c{n}" for n in range(50)}
    assert all(line["response"]["body"]["choices"] for line in lines)
    assert not results.with_name("out.jsonl.part").exists()


async def test_bad_lines_are_named_and_the_good_ones_run(system: System, tmp_path: Path) -> None:
    file = tmp_path / "mixed.jsonl"
    lines = [
        "\ufeff" + a_line("good"),
        "",
        "nope",
        a_line(None),
        a_line("good"),
        a_line("x", url="/v1/images"),
        a_line("y", method="GET"),
        a_line("z", body={"model": "m", "messages": [], "stream": True}),
        a_line("fine"),
        a_line("cut")[:40],
    ]
    file.write_bytes("\r\n".join(lines).encode())

    ran = system.command("submit", str(file), "--wait", "--json")

    report = json.loads(ran.stdout)
    assert ran.returncode == 1
    assert report["batch"]["counts"]["succeeded"] == 2
    assert report["bad_lines"] == 7
    for expected in ("line 3", "line 4", "line 5: custom_id", "line 6: url", "line 7: method", "line 8: body.stream"):
        assert expected in ran.stderr, ran.stderr
    assert "line 10: the last line ends in the middle" in ran.stderr


async def test_strict_submits_nothing_of_a_file_with_a_bad_line(system: System, tmp_path: Path) -> None:
    file = tmp_path / "strict.jsonl"
    file.write_text(a_line("a") + "\nnope\n")
    before = json.loads(system.command("batch", "list", "--json").stdout)

    ran = system.command("submit", str(file), "--strict")

    after = json.loads(system.command("batch", "list", "--json").stdout)
    assert ran.returncode == 2
    assert "nothing was submitted" in ran.stderr
    assert len(after["batches"]) == len(before["batches"])


@pytest.mark.parametrize(
    ("content", "says"), [(b"", "no request"), (b"\n\n", "no request"), (b"\xff\xfea\x00", "UTF-16")]
)
async def test_a_file_without_requests_is_refused(system: System, tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "empty.jsonl"
    file.write_bytes(content)

    ran = system.command("submit", str(file))

    assert ran.returncode == 2
    assert says in ran.stderr


async def test_jobs_that_the_broker_refuses_end_as_failed_with_the_reason(system: System, tmp_path: Path) -> None:
    file, results = tmp_path / "refused.jsonl", tmp_path / "refused.out"
    bodies = [
        {"model": "nothing", "messages": [{"role": "user", "content": "x"}]},
        {"model": "m", "messages": [{"role": "user", "content": "x"}], "n": 0},
        {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 10**7},
        {"model": "m", "messages": [{"role": "user", "content": "word " * 20_000}]},
    ]
    file.write_text("\n".join(a_line(f"c{n}", body=body) for n, body in enumerate(bodies)) + "\n")

    ran = system.command("submit", str(file), "--out", str(results))

    errors = {line["custom_id"]: line["error"]["code"] for line in map(json.loads, results.read_text().splitlines())}
    assert ran.returncode == 1
    assert errors == {"c0": "refused", "c1": "refused", "c2": "refused", "c3": "context_too_long"}


async def test_an_answer_streams_to_the_terminal(system: System) -> None:
    ran = system.command("infer", "m", "Hello.", "--max-tokens", "6")

    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.split()) == 6


async def test_what_was_run_can_be_looked_at(system: System, tmp_path: Path) -> None:
    file = tmp_path / "one.jsonl"
    file.write_text(a_line("only") + "\n")
    batch = json.loads(system.command("submit", str(file), "--wait", "--json").stdout)["batch"]["id"]
    result = json.loads(system.command("batch", "results", batch).stdout)

    shown = json.loads(system.command("job", "show", result["id"], "--json").stdout)
    texts = [
        system.command("batch", "show", batch).stdout,
        system.command("job", "show", result["id"]).stdout,
        system.command("batch", "list").stdout,
        system.command("status").stdout,
        system.command("catalog").stdout,
    ]

    assert shown["state"] == "succeeded"
    assert shown["executions"][0]["cost_nano_usd"] > 0
    assert shown["executions"][0]["cost_source"].startswith("catalog:")
    assert batch in texts[0]
    assert "succeeded" in texts[1]
    assert batch in texts[2]
    assert "simulated" in texts[3]
    assert "[models.m]" in texts[4]


async def test_the_doctor_finds_nothing_bad(system: System) -> None:
    ran = system.command("doctor", "--json")

    assert ran.returncode == 0, ran.stdout
    assert {finding["name"] for finding in json.loads(ran.stdout)} >= {
        "NATS",
        "streams",
        "broker",
        "Postgres",
        "migrations",
    }


async def test_the_example_in_plain_nats_submits_reads_and_streams(system: System) -> None:
    command = [sys.executable, str(ROOT / "examples" / "plain_nats.py"), system.info.nats_url, "m"]

    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)  # noqa: ASYNC221 - nothing else runs

    lines = ran.stdout.splitlines()
    assert ran.returncode == 0, ran.stderr
    assert sum(": succeeded: " in line for line in lines) == 3
    assert sum(line.startswith("chunk") for line in lines) == 16
    assert lines[-1].startswith("final")


async def test_a_second_up_on_the_same_data_says_who_runs(system: System) -> None:
    ran = infermq("up", "--data", str(system.data))

    assert ran.returncode == 3
    assert str(system.process.pid) in ran.stderr


async def test_a_bad_catalog_is_refused_with_every_fault(system: System, tmp_path: Path) -> None:
    file = tmp_path / "bad.toml"
    file.write_text('[models.x]\nendpoints = ["/v9"]\n[[models.x.route]]\ndeployment = "none"\n')

    ran = system.command("apply", str(file))

    assert ran.returncode == 2
    assert "/v9" in ran.stderr
    assert "none" in ran.stderr


@pytest.mark.parametrize("words", [("batch", "show", "01a20a99-e3c1-7340-97d5-e1e24b0b5345"), ("infer", "none", "x")])
async def test_what_is_not_there_is_said(system: System, words: tuple[str, ...]) -> None:
    ran = system.command(*words)

    assert ran.returncode == 2
    assert "there is no" in ran.stderr
    assert "Traceback" not in ran.stderr


async def test_without_a_system_the_commands_say_how_to_start_one(tmp_path: Path) -> None:
    ran = infermq("status", cwd=tmp_path)
    gone = infermq("status", "--nats-url", "nats://127.0.0.1:9")

    assert ran.returncode == gone.returncode == 3
    assert "infermq up" in ran.stderr
    assert "nats://127.0.0.1:9" in gone.stderr


async def test_the_schema_has_the_job() -> None:
    ran = infermq("schema")

    assert ran.returncode == 0
    assert "JsonJob" in json.loads(ran.stdout)["$defs"]
