"""The commands as a user runs them, on a system of their own."""

import asyncio
import contextlib
import hashlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest
import pytest_asyncio

from broker.cli.jobs import cut_line
from broker.cli.submission import FILE_LABEL
from broker.client import Client, RequestRefused, Submission
from schemas.api import State
from schemas.job import Job
from tests.builders import CHAT, a_job
from tests.system import (
    System,
    a_catalog_file,
    a_client,
    a_guarded_system,
    among_brokers,
    infermq,
    infermq_here,
    until,
)

pytestmark = [
    pytest.mark.story,
    pytest.mark.commands,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(120),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    folder = tmp_path_factory.mktemp("system")
    async with a_guarded_system(folder, a_catalog_file(folder)) as running:
        yield running


def a_line(custom_id: str | None = "a", **changes: object) -> str:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hello."}], "max_tokens": 8}
    line: dict[str, object] = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps({name: value for name, value in {**line, **changes}.items() if value is not None})


BAD_BODIES: list[dict[str, object]] = [{"model": "nothing"}, {"n": 0}, {"max_tokens": 10**7}, {"messages": []}]
BAD_CODES = ["unknown_model", "n_out_of_range", "max_tokens_out_of_range", "body_shape"]


def write(file: Path, *bodies: dict[str, object]) -> None:
    """A line for each, `c0` and on: what its body has that is not usual."""
    usual = {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 8}
    file.write_text("".join(a_line(f"c{n}", body={**usual, **body}) + "\n" for n, body in enumerate(bodies)))


def asked(system: System, *words: str, stdin: bytes) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "broker", *words, "--data", str(system.data)]
    ran = subprocess.run(command, capture_output=True, timeout=60, check=False, input=stdin)
    return system.noted(
        subprocess.CompletedProcess(ran.args, ran.returncode, ran.stdout.decode(), ran.stderr.decode())
    )


async def is_there(client: Client, job: UUID) -> bool:
    with contextlib.suppress(RequestRefused):
        return (await client.job(job)).state is not State.ACCEPTED
    return False


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
        assert expected in " ".join(report["faults"]), ran.stdout
    assert "line 10: the last line ends in the middle" in report["faults"][-1]
    assert "bad lines: 7; failed jobs: 0" in json.loads(ran.stderr)["error"]["message"]


async def test_a_file_that_was_submitted_and_runs_is_known_and_one_that_was_not_sent_whole_goes_on(
    system: System, tmp_path: Path
) -> None:
    file, text = tmp_path / "same.jsonl", "".join(a_line(f"n{number}") + "\n" for number in range(3))
    file.write_text(text)
    digest = hashlib.sha256(text.encode() + b"\0\0bulk").hexdigest()
    async with a_client(system) as client:
        begun = await client.create_batch(metadata={FILE_LABEL: digest})
    await system.here("pause", "batch", str(begun.id))

    first = system.command("submit", str(file))
    again = system.command("submit", str(file))
    other = system.command("submit", str(file), "--new", "--json")
    await system.here("resume", "batch", str(begun.id))
    watched = await system.here("batch", "watch", str(begun.id))
    later = system.command("submit", str(file), "--wait")

    assert f"this file is the batch {begun.id}, which was not sent to its end: going on with it" in first.stderr
    assert f"batch {begun.id}: 3 jobs submitted" in first.stdout
    assert again.returncode == 2
    assert f"this file is the batch {begun.id}, 0 % done: go on with it with --resume" in again.stderr
    assert json.loads(other.stdout)["batch"]["id"] != str(begun.id)
    assert (watched.returncode, "3 succeeded" in watched.stdout) == (0, True)
    assert later.returncode == 0
    assert f"this file was submitted before, as the batch {json.loads(other.stdout)['batch']['id']}" in later.stderr


async def test_a_request_that_is_wrong_and_one_that_nobody_can_serve_now_have_other_exit_codes(
    system: System,
) -> None:
    wrong = await system.here("infer", "nothing", "hello", "--json")
    await system.here("pause", "tenant", "default")
    try:
        held = await system.here("infer", "m", "hello", "--json")
        said = await system.here("infer", "m", "hello", "--no-stream")
    finally:
        await system.here("resume", "tenant", "default")

    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert json.loads(wrong.stderr)["error"]["code"] == "unknown_model"
    assert held.returncode == 1
    assert json.loads(held.stderr)["error"]["code"] == "paused"
    assert said.stderr.startswith("error: m takes no requests now")


async def test_a_command_whose_reader_leaves_ends_without_a_word(system: System) -> None:
    command = f"{sys.executable} -m broker status --json --data {system.data} | true"

    ran = subprocess.run(["sh", "-c", command], check=False, capture_output=True, text=True)  # noqa: ASYNC221

    assert ran.stderr == ""


async def test_strict_submits_nothing_of_a_file_with_a_bad_line(system: System, tmp_path: Path) -> None:
    file = tmp_path / "strict.jsonl"
    file.write_text(a_line("a") + "\nnope\n")
    before = json.loads((await system.here("batch", "list", "--json")).stdout)

    ran = await system.here("submit", str(file), "--strict")

    after = json.loads((await system.here("batch", "list", "--json")).stdout)
    assert ran.returncode == 2
    assert "nothing was submitted" in ran.stderr
    assert len(after["batches"]) == len(before["batches"])


@pytest.mark.parametrize(
    ("content", "says"), [(b"", "no request"), (b"\n\n", "no request"), (b"\xff\xfea\x00", "UTF-16")]
)
async def test_a_file_without_requests_is_refused(system: System, tmp_path: Path, content: bytes, says: str) -> None:
    file = tmp_path / "empty.jsonl"
    file.write_bytes(content)

    ran = await system.here("submit", str(file))

    assert ran.returncode == 2
    assert says in ran.stderr


async def test_jobs_that_the_broker_refuses_end_as_failed_with_the_reason(system: System, tmp_path: Path) -> None:
    file, results = tmp_path / "refused.jsonl", tmp_path / "refused.out"
    write(file, {}, *BAD_BODIES)
    async with a_client(system) as client:
        batch = await client.create_batch()

    ran = system.command("submit", str(file), "--batch", str(batch.id), "--out", str(results))

    errors = {line["custom_id"]: line["error"] for line in map(json.loads, results.read_text().splitlines())}
    assert ran.returncode == 1
    assert [errors[f"c{n}"] and errors[f"c{n}"]["code"] for n in range(5)] == [None, *BAD_CODES]
    assert errors["c2"]["param"] == "body.n"
    assert errors["c2"]["limit"] == 128
    assert errors["c2"]["line"] == 3
    assert "line 3 (c2): n_out_of_range: body.n: n is 0" in ran.stderr


async def test_the_first_failures_of_a_batch_are_named(system: System, tmp_path: Path) -> None:
    file = tmp_path / "long.jsonl"
    too_long: dict[str, object] = {"messages": [{"role": "user", "content": "word " * 20_000}]}
    write(file, {}, *[too_long] * 7)

    ran = system.command("submit", str(file), "--wait")

    assert ran.returncode == 1
    assert ran.stderr.count("context_too_long: ") == 5
    assert "… and 2 more" in ran.stderr


async def test_strict_knows_what_the_broker_would_refuse(system: System, tmp_path: Path) -> None:
    file = tmp_path / "strict.jsonl"
    write(file, {}, *BAD_BODIES)
    before = (await system.here("batch", "list", "--json")).stdout

    ran = await system.here("submit", str(file), "--strict", "--json")

    assert ran.returncode == 2
    assert json.loads(ran.stdout)["bad_lines"] == 4
    for expected in (
        "line 2: body.model: ",
        "line 3: body.n: ",
        "line 4: body.max_tokens: ",
        "line 5: body.messages",
    ):
        assert expected in " ".join(json.loads(ran.stdout)["faults"])
    assert (await system.here("batch", "list", "--json")).stdout == before


async def test_what_the_broker_would_refuse_is_named_and_the_others_run(system: System, tmp_path: Path) -> None:
    file = tmp_path / "mixed.jsonl"
    write(file, *BAD_BODIES, {})

    ran = system.command("submit", str(file), "--wait", "--json")

    report = json.loads(ran.stdout)
    assert ran.returncode == 1
    assert (report["batch"]["jobs"], report["batch"]["counts"]["succeeded"], report["bad_lines"]) == (1, 1, 4)
    assert report["faults"][1] == "line 2: body.n: n is 0, it must be 1 to 128"


async def test_as_json_every_bad_line_is_named(system: System, tmp_path: Path) -> None:
    file = tmp_path / "bad.jsonl"
    file.write_text("nope\n" * 1100)

    ran = system.command("submit", str(file), "--json")
    said = await system.here("submit", str(file))

    report = json.loads(ran.stdout)
    assert (len(report["faults"]), report["bad_lines"], report["batch"]) == (1000, 1100, None)
    assert json.loads(ran.stderr)["error"]["message"] == "nothing was submitted; bad lines: 1100"
    assert "… and 1080 more" in said.stderr


@pytest.mark.parametrize("content", [b"\xff\xfea\x00", b"", b"nope\n"])
async def test_a_batch_stays_open_when_nothing_of_its_file_can_be_read(
    system: System, tmp_path: Path, content: bytes
) -> None:
    file = tmp_path / "u16.jsonl"
    file.write_bytes(content)
    async with a_client(system) as client:
        batch = await client.create_batch()

        ran = await system.here("submit", str(file), "--batch", str(batch.id))

        assert ran.returncode == 2
        assert (await client.batch(batch.id)).status == "open"


async def test_a_sealed_batch_takes_no_other_file_and_says_what_to_do(system: System, tmp_path: Path) -> None:
    """Neither a file of the lines that failed, nor the same file: what is sealed was sent to its end."""
    file = tmp_path / "again.jsonl"
    write(file, {}, BAD_BODIES[0])
    first = json.loads(system.command("submit", str(file), "--wait", "--json").stdout)["batch"]
    file.write_text(a_line("other") + "\n")

    for more in ((), ("--wait",), ("--out", str(tmp_path / "results"))):
        ran = await system.here("submit", str(file), "--batch", first["id"], *more)

        assert ran.returncode == 2
        assert f"the batch {first['id']} was sealed with 1 job and is completed, so it takes no more" in ran.stderr
        assert f"infermq batch results {first['id']}" in ran.stderr
        assert not ran.stdout
    shown = json.loads((await system.here("batch", "show", first["id"], "--json")).stdout)
    assert shown == first


async def test_a_batch_that_lacks_jobs_is_sent_them_again(system: System, tmp_path: Path) -> None:
    """Such as those that NATS had accepted and lost. A bad line is left out, as it was before."""
    file = tmp_path / "whole.jsonl"
    text = a_line("one") + "\n" + "nope\n" + a_line("two") + "\n"
    file.write_text(text)
    label = hashlib.sha256(text.encode() + b"\0\0bulk").hexdigest()
    async with a_client(system) as client:
        batch = await client.create_batch(metadata={FILE_LABEL: label})
        await client.seal(batch.id, jobs=2)

    ran = system.command("submit", str(file), "--resume", "--wait", "--json")

    assert ran.returncode == 1, ran.stderr
    said = json.loads(ran.stdout)
    assert (said["batch"]["id"], said["batch"]["counts"]["succeeded"], said["batch"]["refused"]) == (
        str(batch.id),
        2,
        0,
    )


async def test_jobs_that_came_too_late_for_a_batch_are_shown(system: System) -> None:
    async with a_client(system) as client:
        batch = await client.create_batch()
        await client.seal(batch.id, jobs=0)
        late = Submission.of("m", {"messages": [{"role": "user", "content": "hello"}]})
        await client.submit_many([late], batch_id=batch.id)

        async def counted() -> bool:
            return (await client.batch(batch.id)).refused == 1

        await until(counted, "the batch counts it")
    ran = await system.here("batch", "show", str(batch.id))

    assert "refused    1, since they came when it was full" in ran.stdout


async def test_a_batch_whose_earlier_jobs_failed_says_so_without_waiting(system: System, tmp_path: Path) -> None:
    file = tmp_path / "rest.jsonl"
    file.write_text(a_line("rest") + "\n")
    async with a_client(system) as client:
        batch = await client.create_batch()
        await client.submit_many([Submission("gone", a_job(batch=batch.id, line=99, custom_id="early"))])

        async def failed() -> bool:
            return (await client.batch(batch.id)).counts.failed == 1

        await until(failed, "the first job failed")

    ran = system.command("submit", str(file), "--batch", str(batch.id))

    assert ran.returncode == 1
    assert "line 99 (early): unknown_model: " in ran.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("FILE", "--batch", "01940000-0000-7000-8000-000000000000"),
        ("FILE", "--model", "gone"),
        ("FILE", "--deadline", "soon"),
        ("FILE", "--out", "/nowhere/results"),
        ("nowhere.jsonl",),
        ("FILE", "--strict"),
        ("FILE",),
        ("FILE", "--wait"),
        ("FILE", "--json"),
        ("FILE", "--nats-url", "nats://127.0.0.1:1"),
    ],
    ids=" ".join,
)
async def test_a_submission_that_fails_says_why_on_standard_error(
    system: System, tmp_path: Path, words: tuple[str, ...]
) -> None:
    file = tmp_path / "bad.jsonl"
    write(file, {}, *BAD_BODIES)

    ran = system.command("submit", *(str(file) if word == "FILE" else word for word in words))

    assert ran.returncode != 0
    assert ran.stderr.strip()


@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
async def test_a_pipe_is_read(system: System, name: str) -> None:
    ran = asked(system, "submit", name, "--wait", "--json", stdin=a_line("a").encode() + b"\n")

    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["batch"]["counts"]["succeeded"] == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("infer", "m", "x", "--timeout-s", "inf"), "timeout_s"),
        (("infer", "m", "x", "--timeout-s", "nan"), "--timeout-s"),
        (("infer", "m", "x", "--temperature", "inf"), "finite"),
        (("infer", "m", "x", "--temperature", "nan"), "--temperature"),
        (("infer", "m", "-"), "not UTF-8"),
        (("infer", "", "x"), "model: "),
        (("infer", "x" * 5000, "x"), "model: "),
        (("submit", "-", "--model", ""), "there is no model"),
        (("submit", "-", "--model", "x" * 5000), "there is no model"),
        (("submit", "x" * 300), "too long"),
        (("submit", "-", "--out", "x" * 253), "too long"),
    ],
)
async def test_what_cannot_be_used_is_said_in_a_line(system: System, words: tuple[str, ...], says: str) -> None:
    if words[0] == "infer":  # it heeds signals, which takes a process of its own
        ran = asked(system, *words, stdin=b"caf\xe9")
    else:
        ran = await system.here(*words, stdin=b"caf\xe9")

    assert ran.returncode == 2, ran.stderr
    assert says in ran.stderr
    assert "Traceback" not in ran.stderr


async def test_a_job_of_odd_values_can_be_looked_at(system: System) -> None:
    odd = "\\[/x] \x1b[31mred :smile:"
    async with a_client(system) as client:
        job = await client.submit("m", {"messages": []}, custom_id=odd, deadline_ms=10**15)
        batch = await client.create_batch()
        await client.submit_many([Submission("m", Job(endpoint=CHAT, body=b"{}", custom_id=odd))], batch_id=batch.id)
        await client.seal(batch.id, jobs=1)
        await until(lambda: is_there(client, job), "the job is recorded")

    ran = system.command("job", "show", str(job))
    [result] = map(json.loads, system.command("batch", "results", str(batch.id), "--wait").stdout.splitlines())
    shown = system.command("job", "show", result["id"])

    assert "9999" in ran.stdout
    assert "custom_id \\[/x] \\x1b[31mred :smile:" in shown.stdout, shown.stderr
    assert "\x1b" not in shown.stdout


async def test_the_doctor_counts_dead_letters_and_says_how_to_look(system: System) -> None:
    async with among_brokers(system) as nc:
        await nc.jetstream().publish("infermq.submit.bulk.m.default.default", b"nope")

    async def counted() -> bool:
        findings = json.loads((await system.here("doctor", "--json")).stdout)
        return any(one["name"] == "dead letters" and one["advice"] == "infermq dead list" for one in findings)

    await until(counted, "the doctor counts the dead letter")


async def test_dead_letters_are_listed_shown_requeued_and_dropped(system: System) -> None:
    job = {"endpoint": CHAT, "body": {"messages": [{"role": "user", "content": "x"}], "max_tokens": 8}, "line": -1}
    sent = [json.dumps({**job, "custom_id": f"dead-{n}"}).encode() for n in range(3)]
    async with among_brokers(system) as nc:
        for payload in sent:
            await nc.jetstream().publish(
                "infermq.submit.bulk.m.default.default", payload, headers={"Content-Type": "application/json"}
            )

    async def letters() -> list[dict[str, str]]:
        ran = await system.here("dead", "list", "--each", "--cause", "not_a_job", "--json")
        return [one for one in json.loads(ran.stdout)["letters"] if "$.line" in one["reason"]]

    async def all_there() -> bool:
        return len(await letters()) == 3

    await until(all_there, "they are dead letters")
    newest = (await letters())[0]["id"]
    grouped = await system.here("dead", "list")
    shown = await system.here("dead", "show", newest)
    raw = system.command("dead", "show", newest, "--raw")
    dry = json.loads((await system.here("dead", "requeue", newest, "--dry-run", "--json")).stdout)
    done = json.loads(
        (await system.here("dead", "requeue", newest, "--max-tokens", "4", "--patch", '{"seed": 1}', "--json")).stdout
    )
    twice = await system.here("dead", "requeue", newest)
    dropped = await system.here("dead", "drop", (await letters())[0]["id"])

    assert "mend its producer" in grouped.stdout
    assert "INFERMQ_SUBMIT" in shown.stdout
    assert raw.stdout.encode() in sent
    assert (dry["messages"], done["messages"]) == (1, 1)
    assert (twice.returncode, "any more" in twice.stderr) == (1, True)
    assert (dropped.returncode, "1 message dropped" in dropped.stdout) == (0, True)
    assert len(await letters()) == 1

    async def succeeded() -> bool:
        mended = json.loads(raw.stdout)["custom_id"]
        ran = await system.here("job", "list", "--custom-id", mended, "--state", "succeeded", "--json")
        return len(json.loads(ran.stdout)["jobs"]) == 1

    await until(succeeded, "the mended job has run")
    audited = await system.here("audit", "--limit", "2")
    assert "requeue dead letters" in audited.stdout


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("dead", "drop"), "say which"),
        (("dead", "requeue", "0197a1b2-0000-7000-8000-000000000000", "--cause", "x"), "not both"),
        (("dead", "requeue", "--all", "--patch", "{"), "not JSON"),
        (("dead", "requeue", "--all", "--patch", "[]"), "not a JSON object"),
        (("dead", "show", "0197a1b2-0000-7000-8000-000000000000"), "infermq job show"),
    ],
)
async def test_what_is_no_dead_letter_is_refused(system: System, words: tuple[str, ...], says: str) -> None:
    ran = await system.here(*words)

    assert ran.returncode == 2
    assert says in ran.stderr


async def test_an_answer_streams_to_the_terminal(system: System) -> None:
    ran = system.command("infer", "m", "Hello.", "--max-tokens", "6")

    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout.split()) == 6


@pytest.mark.parametrize("more", [(), ("--no-stream",)], ids=["streamed", "whole"])
async def test_an_answer_that_was_cut_at_its_limit_says_so_and_how_to_get_more(
    system: System, more: tuple[str, ...]
) -> None:
    ran = system.command("infer", "m", "Hello.", "--max-tokens", "6", *more)

    assert (ran.returncode, len(ran.stdout.split())) == (0, 6)
    assert ran.stderr == "the answer was cut at --max-tokens 6: a higher number gives more\n"


async def test_as_json_an_answer_that_was_cut_says_so_in_the_document_only(system: System) -> None:
    ran = await system.here("infer", "m", "Hello.", "--max-tokens", "6", "--json")

    assert json.loads(ran.stdout)["response"]["choices"][0]["finish_reason"] == "length"
    assert ran.stderr == ""


@pytest.mark.parametrize(
    ("tokens", "most", "says"),
    [
        (512, None, "cut after 512 tokens: its model's limit"),
        (0, None, "cut off: its model's limit"),
        (90, 100, "cut after 90 tokens, before --max-tokens 100: prompt and answer fill"),
        (100, 100, "at --max-tokens 100: a higher number"),
        (0, 100, "at --max-tokens 100: a higher number"),
    ],
)
async def test_where_an_answer_was_cut_says_what_gives_more(tokens: int, most: int | None, says: str) -> None:
    assert says in cut_line(tokens, most)


async def test_what_was_run_can_be_looked_at(system: System, tmp_path: Path) -> None:
    file = tmp_path / "one.jsonl"
    file.write_text(a_line("only") + "\n")
    batch = json.loads(system.command("submit", str(file), "--wait", "--json").stdout)["batch"]["id"]
    result = json.loads((await system.here("batch", "results", batch)).stdout)

    shown = json.loads((await system.here("job", "show", result["id"], "--json")).stdout)
    commands = [
        ("batch", "show", batch),
        ("job", "show", result["id"]),
        ("batch", "list"),
        ("status",),
        ("catalog",),
    ]
    texts = [(await system.here(*words)).stdout for words in commands]

    assert shown["state"] == "succeeded"
    assert shown["executions"][0]["cost_nano_usd"] > 0
    assert shown["executions"][0]["cost_source"].startswith("catalog:")
    assert batch in texts[0]
    assert "succeeded" in texts[1]
    assert batch in texts[2]
    assert "simulated" in texts[3]
    assert "[models.m]" in texts[4]


async def test_jobs_and_batches_are_found_by_what_is_known_of_them(system: System, tmp_path: Path) -> None:
    file = tmp_path / "findable.jsonl"
    write(file, {}, {"messages": [{"role": "user", "content": "word " * 20_000}]}, {})
    sent = system.command("submit", str(file), "--wait", "--metadata", "of=findable", "--json")
    batch = json.loads(sent.stdout)["batch"]["id"]

    async def found(*words: str) -> list[str]:
        ran = await system.here("job", "list", "--batch", batch, *words, "--json")
        assert ran.returncode == 0, ran.stderr
        return [job["custom_id"] for job in json.loads(ran.stdout)["jobs"]]

    assert await found() == ["c2", "c1", "c0"]
    assert await found("--state", "failed") == ["c1"]
    assert await found("--code", "context_too_long", "--since", "1h") == ["c1"]
    assert await found("--until", "1h") == []
    assert await found("--custom-id", "c2", "--lane", "bulk", "--model", "m") == ["c2"]

    page = json.loads((await system.here("job", "list", "--batch", batch, "--limit", "2", "--json")).stdout)
    assert await found("--before", page["next"]) == ["c0"]
    table = await system.here("job", "list", "--batch", batch, "--state", "failed")
    assert "context_too_long" in table.stdout
    listed = json.loads((await system.here("batch", "list", "--metadata", "of=findable", "--json")).stdout)
    assert [one["id"] for one in listed["batches"]] == [batch]
    nothing = await system.here("batch", "list", "--status", "open", "--metadata", "of=findable")
    assert (nothing.returncode, nothing.stderr.strip()) == (0, "no batch matches")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("job", "list", "--since", "yesterday"), "is not an instant"),
        (("job", "list", "--metadata", "team"), "NAME=VALUE"),
        (("job", "list", "--state", "lost"), "lost"),
        (("job", "list", "--batch", "0197a1b2-0000-7000-8000-000000000000"), "there is no batch"),
        (("job", "list", "--state", "accepted"), "infermq job show"),
    ],
)
async def test_a_list_of_what_cannot_be_is_refused(system: System, words: tuple[str, ...], says: str) -> None:
    ran = await system.here(*words)

    assert ran.returncode == 2
    assert says in ran.stderr


async def test_the_doctor_finds_nothing_bad(system: System) -> None:
    ran = system.command("doctor", "--json")

    assert ran.returncode == 0, ran.stdout
    assert {finding["name"] for finding in json.loads(ran.stdout)} >= {
        "NATS",
        "streams",
        "broker",
        "Postgres",
        "migrations",
        "sums",
    }


async def test_a_worker_finds_the_running_system_and_joins_it(system: System) -> None:
    command = [sys.executable, "-m", "broker", "worker", "--deployment", "d", "--name", "w2"]
    with subprocess.Popen([*command, "--data", str(system.data)]) as worker:  # noqa: ASYNC220 - it ends with the block
        try:
            async with a_client(system) as client:

                async def has_joined() -> bool:
                    return "w2" in {beat.worker for beat in (await client.status()).workers}

                await until(has_joined, "the worker is in the status")
        finally:
            worker.terminate()


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


async def test_a_file_that_is_no_catalog_is_named(system: System, tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text(a_line() + "\n")

    ran = await system.here("apply", str(file))

    assert ran.returncode == 2
    assert f"error: {file}: Invalid statement (at line 1" in ran.stderr


@pytest.mark.parametrize("words", [("batch", "show", "01a20a99-e3c1-7340-97d5-e1e24b0b5345"), ("infer", "none", "x")])
async def test_what_is_not_there_is_said(system: System, words: tuple[str, ...]) -> None:
    ran = system.command(*words)

    assert ran.returncode == 2
    assert "there is no" in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("infer", "m", b"caf\xe9"), "not UTF-8"),
        (("infer", b"caf\xe9", "x"), "not UTF-8"),
        (("submit", "FILE", "--model", b"caf\xe9"), "not UTF-8"),
        (("submit", "FILE", "--deadline", "99999999999999999d"), "at most 7d"),
        (("submit", "FILE", "--deadline", "8d"), "at most 7d"),
        (("submit", "FILE/x"), "there is no file"),
        (("submit", "FILE", "--out", "nowhere/x"), "nowhere/x"),
        (("submit", "FILE", "--out", "FILE/x"), "no file can be made"),
        (("apply", "LATIN"), "not UTF-8"),
        (("apply", "FILE/x"), "there is no file"),
    ],
)
async def test_arguments_that_cannot_be_used_are_said_and_nothing_is_submitted(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str | bytes, ...], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text(a_line("a") + "\n")
    (tmp_path / "LATIN").write_bytes(b"# caf\xe9\n")
    before = (await system.here("batch", "list", "--json")).stdout

    ran = await system.here(*map(os.fsdecode, words))

    assert ran.returncode == 2
    assert says in ran.stderr
    assert (await system.here("batch", "list", "--json")).stdout == before


async def test_up_refuses_a_catalog_that_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "latin.toml"
    file.write_bytes(b"# caf\xe9\n")

    ran = infermq("up", "--data", str(tmp_path / "data"), "--catalog", str(file))

    assert ran.returncode == 2
    assert "not UTF-8" in ran.stderr


async def test_without_a_system_the_commands_say_how_to_start_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    ran = await asyncio.to_thread(infermq_here, "status")
    gone = await asyncio.to_thread(infermq_here, "status", "--nats-url", "nats://127.0.0.1:9")

    assert ran.returncode == gone.returncode == 3
    assert "infermq up" in ran.stderr
    assert "nats://127.0.0.1:9" in gone.stderr


async def test_the_schema_has_the_job() -> None:
    ran = infermq("schema")

    assert ran.returncode == 0
    assert "JsonJob" in json.loads(ran.stdout)["$defs"]
