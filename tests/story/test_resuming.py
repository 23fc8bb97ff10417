"""Commands that are killed and started again: a batch is submitted once, and each line of it has one result."""

import asyncio
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from uuid import UUID

import pytest
import pytest_asyncio

from schemas.api import BatchList
from tests.system import System, a_client, a_system, until

pytestmark = [
    pytest.mark.story,
    pytest.mark.commands,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(240),
]
CATALOG = """
[models.m]
[[models.m.route]]
deployment = "d"
[models.other]
[[models.other.route]]
deployment = "e"
[models.away]
[[models.away.route]]
deployment = "away"

[deployments.d]
engine = "simulated"
max_concurrency = 16
options = {output_tokens = 8, decode_tokens_per_s = 200, failures = [{match = "fails", kind = "bad_request"}]}
[deployments.e]
engine = "simulated"
options = {output_tokens = 8, failures = [{match = "fails twice", kind = "bad_request"}]}
"""
AWAY = """
[deployments.away]
engine = "simulated"
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    folder = tmp_path_factory.mktemp("system")
    catalog = folder / "catalog.toml"
    catalog.write_text(CATALOG.replace('[models.away]\n[[models.away.route]]\ndeployment = "away"\n', ""))
    async with a_system(folder / "data", catalog) as running:
        async with a_client(running) as client:
            await client.apply_catalog(CATALOG + AWAY)
        yield running


def a_line(number: int, text: str, *, model: str = "m") -> str:
    body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 8}
    return json.dumps({"custom_id": f"c{number}", "method": "POST", "url": "/v1/chat/completions", "body": body})


BAD = {3: "nope", 50: '{"custom_id": "bad", "url": "/v1/none", "body": {}}'}


def write_input(file: Path, lines: int, *, stuck: bool = False) -> None:
    """Every tenth line fails, one of those on the other model too, and two lines are bad. `stuck`: the last one waits."""
    texts = {n: "fails twice" if n == 0 else "fails" if n % 10 == 0 else str(n) for n in range(lines)}
    models = {lines - 1: "away"} if stuck else {}
    written = [BAD.get(n) or a_line(n, f"{text} {file}", model=models.get(n, "m")) for n, text in texts.items()]
    file.write_text("\n".join(written) + "\n")


def check_whole(out: Path, errors: Path, lines: int) -> None:
    """Each line is in one of the files, once, and nothing else is there."""
    good, bad = ([json.loads(line) for line in file.read_text().splitlines()] for file in (out, errors))
    failing = {f"c{n}" for n in range(0, lines, 10) if n not in BAD}
    assert sorted(line["custom_id"] for line in good) == sorted(
        f"c{n}" for n in range(lines) if n not in BAD and f"c{n}" not in failing
    )
    assert sorted(line["error"]["line"] for line in bad) == sorted([*(int(name[1:]) + 1 for name in failing), 4, 51])
    assert {line["custom_id"] for line in bad} == {*failing, None, "bad"}
    assert {file.name for file in out.parent.iterdir()} == {"in.jsonl", out.name, errors.name}


def start(system: System, *words: str, over_http: bool = False) -> subprocess.Popen[bytes]:
    where = ["--url", system.info.api] if over_http else ["--data", str(system.data)]
    environ = {**os.environ, "INFERMQ_API_KEY": str(system.api_key)} if over_http else None
    command = [sys.executable, "-m", "broker", *words, *where]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environ)


DOORS = pytest.mark.parametrize("over_http", [False, True], ids=["over NATS", "over HTTP"])


async def ended(process: subprocess.Popen[bytes]) -> tuple[int, str]:
    said, errors = await asyncio.to_thread(process.communicate, timeout=100)
    return process.returncode, (said + errors).decode()


async def batches_of(system: System, file: Path) -> int:
    """How many batches were made for the file: they have its name in their metadata."""
    async with a_client(system) as client:
        return len(await client.batches(limit=100, matching=BatchList(metadata={"file": file.parent.name})))


def command_for(folder: Path, *more: str) -> list[str]:
    files = ["--out", str(folder / "out.jsonl"), "--errors", str(folder / "errors.jsonl")]
    return ["submit", str(folder / "in.jsonl"), *files, "--metadata", f"file={folder.name}", *more]


KILLED_AT_A_LINE = """
import os, signal, sys
import broker.batch_file as files
from broker.cli import main

read, stop = files._raw_lines, int(sys.argv.pop(1))

def lines(stream, **more):
    for number, item in enumerate(read(stream, **more)):
        if number == stop and stream.tell() and lines.passes:
            os.kill(os.getpid(), signal.SIGKILL)
        yield item
    lines.passes += 1

lines.passes = int(sys.argv.pop(1))
files._raw_lines = lines
main()
"""
"""Runs a command that is killed when it reads a line, the first time or later."""


async def test_a_submission_that_is_killed_at_any_line_goes_on(system: System, tmp_path: Path) -> None:
    """At the first lines, around the ends of messages of 1000, and at the last."""
    lines = 2003
    write_input(tmp_path / "in.jsonl", lines)

    for stop in (0, 1, 3, 4, 999, 1000, 1001, 1999, 2002):
        words = [*command_for(tmp_path, "--resume"), "--data", str(system.data)]
        run = [sys.executable, "-c", KILLED_AT_A_LINE, str(stop), "1", *words]
        killed = await asyncio.to_thread(subprocess.run, run, capture_output=True, timeout=60, check=False)
        assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()
    code, said = await ended(start(system, *command_for(tmp_path, "--resume")))

    assert code == 1, said
    check_whole(tmp_path / "out.jsonl", tmp_path / "errors.jsonl", lines)
    assert await batches_of(system, tmp_path / "in.jsonl") == 1


@DOORS
async def test_a_submission_that_is_killed_at_any_moment_goes_on(
    system: System, tmp_path: Path, *, over_http: bool
) -> None:
    """While it starts, reads, sends, waits and writes, ten times, and then it may end."""
    lines, chance = 1200, random.Random(7)  # noqa: S311 - no secret
    write_input(tmp_path / "in.jsonl", lines)
    kills, began = 0, time.monotonic()
    await ended(start(system, "status"))
    unit_s = time.monotonic() - began

    for moment in [0.5, 0.9, *(chance.uniform(0.6, 2.4) for _ in range(8))]:
        process = start(system, *command_for(tmp_path, "--resume"), over_http=over_http)
        try:
            await asyncio.to_thread(process.wait, moment * unit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            kills += 1
        await ended(process)
    code, said = await ended(start(system, *command_for(tmp_path, "--resume"), over_http=over_http))

    assert code == 1, said
    assert kills >= 3
    check_whole(tmp_path / "out.jsonl", tmp_path / "errors.jsonl", lines)
    assert await batches_of(system, tmp_path / "in.jsonl") == 1


async def submitted(system: System, folder: Path, lines: int, *, stuck: bool = False) -> str:
    """A batch that runs."""
    write_input(folder / "in.jsonl", lines, stuck=stuck)
    code, said = await ended(start(system, "submit", str(folder / "in.jsonl"), "--json"))
    assert code == 1, said
    batch: str = json.loads(said[: said.rindex('{"error"')])["batch"]["id"]
    return batch


def grown(file: Path, size: int) -> Callable[[], Awaitable[bool]]:
    async def is_there() -> bool:
        return file.exists() and file.stat().st_size > size

    return is_there


async def test_results_that_are_killed_while_their_file_grows_go_on(system: System, tmp_path: Path) -> None:
    lines = 600
    batch, out = await submitted(system, tmp_path, lines, stuck=True), tmp_path / "out.jsonl"
    words = ["batch", "results", batch, "--wait", "--out", str(out), "--resume"]
    part = tmp_path / "out.jsonl.part"

    for size in (0, 20_000, 60_000, 100_000):
        process = start(system, *words)
        await until(grown(part, size), "the file has grown")
        process.kill()
        await ended(process)
        with part.open("ab") as file:
            file.write(b'{"id":"half of a line')
    await system.here("batch", "cancel", batch)
    code, said = await ended(start(system, *words))

    assert code == 1, said
    found = [json.loads(line)["custom_id"] for line in out.read_text().splitlines()]
    assert sorted(found) == sorted(f"c{n}" for n in range(lines) if n not in BAD)
    assert f"{lines - len(BAD)} results" in said


def ended_but_one(system: System, batch: str) -> Callable[[], Awaitable[bool]]:
    async def are_ended() -> bool:
        async with a_client(system) as client:
            found = await client.batch(UUID(batch))
            return found.counts.admitted - found.counts.settled() == 1

    return are_ended


@DOORS
@pytest.mark.parametrize("command", ["submit", "results"])
async def test_a_command_that_is_stopped_says_how_to_go_on(
    system: System, tmp_path: Path, command: str, *, over_http: bool
) -> None:
    """In words that can be typed as they are: they are the last line."""
    lines = 100
    if command == "submit":
        write_input(tmp_path / "in.jsonl", lines, stuck=True)
        words = command_for(tmp_path)
    else:
        files = ["--out", str(tmp_path / "out.jsonl"), "--errors", str(tmp_path / "errors.jsonl")]
        words = ["batch", "results", await submitted(system, tmp_path, lines, stuck=True), "--wait", *files]
    process = start(system, *words, over_http=over_http)
    await until(grown(tmp_path / "out.jsonl.part", 0), "results come")
    process.send_signal(signal.SIGINT)
    code, said = await ended(process)

    assert code == 130, said
    assert ("go on with the same command and --resume" in said) == (command == "submit")
    way = shlex.split(said[said.rindex("infermq batch results") :])
    await until(ended_but_one(system, way[3]), "all jobs but the one without a worker have ended")
    await system.here("batch", "cancel", way[3])
    code, said = await ended(start(system, *way[1:]))

    assert code == 1, said
    good, bad = (
        [json.loads(line)["custom_id"] for line in (tmp_path / name).read_text().splitlines()]
        for name in ("out.jsonl", "errors.jsonl")
    )
    ran = {f"c{n}" for n in range(lines) if n not in BAD}
    assert len(good) == lines - len(BAD) - 9 - 1
    assert sorted(map(str, good + bad)) == sorted([*ran, *(["None", "bad"] if command == "submit" else [])])


async def test_merged_results_in_order_go_on(system: System, tmp_path: Path) -> None:
    """The file ends in the middle of the results, before or after the batch was retried."""
    lines = 60
    batch, out, errors = await submitted(system, tmp_path, lines), tmp_path / "out.jsonl", tmp_path / "errors.jsonl"
    words = ["batch", "results", batch, "--out", str(out), "--errors", str(errors), "--in-order", "--resume"]
    await system.here("batch", "watch", batch)
    await system.here("batch", "retry", batch, "--model", "other", "--wait")

    for _ in range(2):
        done = await system.here(*words)
        assert done.returncode == 0, done.stderr
        good, bad = (
            [json.loads(line)["custom_id"] for line in file.read_text().splitlines()] for file in (out, errors)
        )
        assert good == [f"c{n}" for n in range(1, lines) if n not in BAD]
        assert bad == ["c0"]
    failed = await system.here("batch", "results", batch, "--failed", "--own", "--in-order")
    assert [json.loads(line)["custom_id"] for line in failed.stdout.splitlines()] == [
        f"c{n}" for n in (0, 10, 20, 30, 40)
    ]


async def test_waiting_for_results_of_which_some_failed_ends_with_1(system: System, tmp_path: Path) -> None:
    batch = await submitted(system, tmp_path, 30)

    waited = await system.here("batch", "results", batch, "--wait")
    looked = await system.here("batch", "results", batch)
    watched = await system.here("batch", "watch", batch)
    failed = await system.here(
        "batch", "results", batch, "--wait", "--failed", "--out", str(tmp_path / "failed"), "--json"
    )

    assert (waited.returncode, looked.returncode, watched.returncode, failed.returncode) == (1, 0, 1, 1)
    assert "29 results, 3 of them failed" in waited.stderr
    assert json.loads(failed.stdout) == {"results": 29, "failed": 3, "file": str(tmp_path / "failed")}
    assert json.loads(failed.stderr) == {"error": {"code": "failed", "message": "failed jobs: 3"}}
    assert [json.loads(line)["error"]["code"] for line in (tmp_path / "failed").read_text().splitlines()] == [
        "bad_request"
    ] * 3


async def test_what_would_be_lost_is_not_written_over(system: System, tmp_path: Path) -> None:
    """A file of anything else, and what a command left of another batch; results of the same batch are."""
    (tmp_path / "other").mkdir()
    batch, other = await submitted(system, tmp_path, 20), await submitted(system, tmp_path / "other", 20)
    out, notes = tmp_path / "out.jsonl", tmp_path / "notes"
    notes.write_text("mine\n")
    words = ["batch", "results", batch, "--wait", "--out"]

    for more in ((), ("--resume",)):
        refused = await system.here(*words, str(notes), *more)
        assert (refused.returncode, "holds no results of this batch" in refused.stderr) == (2, True)
        assert notes.read_text() == "mine\n"
    assert (await system.here(*words, str(out))).returncode == 1
    assert (await system.here(*words, str(out))).returncode == 1
    foreign = await system.here("batch", "results", other, "--out", str(out), "--resume")
    anew = await asyncio.to_thread(system.command, "submit", str(tmp_path / "in.jsonl"), "--out", str(out))
    assert (foreign.returncode, anew.returncode) == (2, 2)
    assert "--resume" in anew.stderr
    (tmp_path / "out.jsonl.resume").write_text(json.dumps({"batch": batch, "out": str(out)}) + '\n{"results": 1}\n')
    left = await system.here("batch", "results", other, "--out", str(out), "--resume")
    assert (left.returncode, f"wrote results of the batch {batch}" in left.stderr) == (2, True)
    nobody = await system.here(
        "batch", "results", "0197a1b2-0000-7000-8000-000000000000", "--out", str(tmp_path / "new")
    )
    assert (nobody.returncode, list(tmp_path.glob("new*"))) == (2, [])
    forced = await system.here("batch", "results", other, "--out", str(out), "--force")
    assert forced.returncode == 0
    assert len(out.read_text().splitlines()) == 20 - 1


async def test_what_is_wrong_with_a_file_of_which_nothing_is_submitted_is_in_its_errors(
    system: System, tmp_path: Path
) -> None:
    """They hold nothing of a batch, so the next try may write over them."""
    file, errors = tmp_path / "in.jsonl", tmp_path / "errors.jsonl"
    words = ["submit", str(file), "--errors", str(errors)]
    file.write_text(f"{a_line(1, 'good')}\nnope\n{a_line(2, 'x', model='gone')}\n")

    strict = await system.here(*words, "--strict")
    found = [json.loads(line) for line in errors.read_text().splitlines()]
    again = await asyncio.to_thread(system.command, *words)

    assert strict.returncode == 2
    assert [(line["id"], line["custom_id"], line["error"]["line"]) for line in found] == [
        (None, None, 2),
        (None, "c2", 3),
    ]
    assert [line["error"]["code"] for line in found] == ["not_json", "unknown_model"]
    assert again.returncode == 1
    assert len(errors.read_text().splitlines()) == 2


async def test_whoever_has_the_input_has_its_bad_lines_later(system: System, tmp_path: Path) -> None:
    await submitted(system, tmp_path, 60)

    code, said = await ended(start(system, *command_for(tmp_path, "--resume")))

    assert code == 1, said
    assert "58 jobs submitted, 2 bad lines" in said
    check_whole(tmp_path / "out.jsonl", tmp_path / "errors.jsonl", 60)


async def test_the_batch_of_a_file_is_gone_on_with_however_far_it_is(system: System, tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text(a_line(1, str(tmp_path), model="away") + "\n")

    async def submit(*more: str) -> tuple[int, str, str]:
        ran = await asyncio.to_thread(system.command, "submit", str(file), *more)
        return ran.returncode, ran.stdout, ran.stderr

    _, first, _ = await submit("--json")
    batch = json.loads(first)["batch"]["id"]
    running = await submit("--resume", "--json")
    refused = await submit()
    as_json = await submit("--json")
    both = await submit("--resume", "--new")
    await system.here("batch", "cancel", batch)
    cancelled = await submit("--resume")

    assert (running[0], json.loads(running[1])["batch"]["id"], running[2]) == (0, batch, "")
    assert (refused[0], f"this file is the batch {batch}, 0 % done" in refused[2]) == (2, True)
    assert (as_json[0], as_json[1], json.loads(as_json[2])["error"]["code"]) == (2, "", "bad_input")
    assert (both[0], cancelled[0]) == (2, 2)
    assert "which was cancelled; to submit it once more: --new" in cancelled[2]
