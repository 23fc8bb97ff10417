"""The tables of exit codes in docs/commands.md: a real command is run for each row, and ends as it says."""

import asyncio
import json
import re
import shlex
import signal
import subprocess
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit
from uuid import UUID

import pytest
import pytest_asyncio

from broker.cli.terminal import Exit
from broker.client import Client, Submission
from broker.config import NATS_KEY_KEPT
from schemas.accounts import KeyCreate, Role
from schemas.changes import Change
from schemas.listing import JobFilter
from schemas.webhooks import WebhookCreate
from tests.builders import an_id
from tests.commands import tree
from tests.receiver import a_receiver
from tests.system import System, a_client, a_system, among_brokers, infermq, infermq_here, until

pytestmark = [
    pytest.mark.story,
    pytest.mark.commands,
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(180),
]
PAGE = Path(__file__).parents[2] / "docs" / "commands.md"
ANY = ("any", "any that asks a running system")
CATALOG = """
[models.m]
[[models.m.route]]
deployment = "d"
[deployments.d]
engine = "simulated"
max_concurrency = 8
reserve = 4
[deployments.d.options]
failures = [{ match = "trouble", kind = "bad_request" }]

[models.other]
[[models.other.route]]
deployment = "d"

[models.slow]
[[models.slow.route]]
deployment = "s"
[deployments.s]
engine = "simulated"
max_concurrency = 4
reserve = 4
[deployments.s.options]
decode_tokens_per_s = 2.0
output_tokens = 200
"""
WITHOUT_WORKER = """
[models.away]
[[models.away.route]]
deployment = "nobody"
[deployments.nobody]
engine = "simulated"
"""


def a_line(custom_id: str, model: str, question: str) -> str:
    body = {"model": model, **a_body(question)}
    line = {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": body}
    return json.dumps(line) + "\n"


def a_body(question: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": question}], "max_tokens": 4}


FILES = {
    "CATALOG": ("more.toml", CATALOG + WITHOUT_WORKER),
    "REQUESTS": ("requests.jsonl", a_line("a", "m", "Hello.") + a_line("b", "m", "Goodbye.")),
    "SOME_BAD": ("some_bad.jsonl", a_line("a", "m", "Hello.") + "nope\n"),
    "WAITING": ("waiting.jsonl", a_line("a", "away", "Hello.")),
    "FAILING": ("failing.jsonl", a_line("a", "m", "trouble")),
}


class Row(NamedTuple):
    commands: tuple[str, ...]
    code: int
    words: str
    """The command to run, with words in capitals for what the scene has."""


def rows() -> list[Row]:
    found = re.findall(r"^\| (.+?) \| (\d+) \| .+? \| `(.+)` \|$", PAGE.read_text(), re.MULTILINE)
    return [
        Row(tuple(name.strip("`") for name in names.split(", ")), int(code), words.replace("\\|", "|"))
        for names, code, words in found
    ]


ROWS = rows()


def commands() -> Iterator[str]:
    """Every command, and each group that is a command itself."""
    return (words for words, one in tree() if words and (not hasattr(one, "commands") or one.invoke_without_command))


async def test_every_command_has_its_rows_and_no_other_is_named() -> None:
    named = {name for row in ROWS for name in row.commands} - set(ANY)

    assert named == set(commands())
    assert {name for row in ROWS if row.code == 0 for name in row.commands} >= named


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def system(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[System]:
    folder = tmp_path_factory.mktemp("system")
    (folder / "catalog.toml").write_text(CATALOG)
    with pytest.MonkeyPatch.context() as environ:
        environ.setenv("INFERMQ_WEBHOOK_ALLOW", "127.0.0.1")
        environ.setenv("INFERMQ_WEBHOOK_HTTP", "1")
        async with a_system(folder / "data", folder / "catalog.toml") as running:
            async with a_client(running) as client:
                await client.apply_catalog(CATALOG + WITHOUT_WORKER)
            yield running


class Scene:
    """What the words in capitals stand for, made when a row names it, and new for each row."""

    def __init__(self, system: System, client: Client, folder: Path, hook: str) -> None:
        self._hook = hook
        self._system, self._client, self._folder = system, client, folder
        self.names: dict[str, Callable[[], Awaitable[str]]] = {
            **{name: partial(self._known, value) for name, value in self._values().items()},
            **{name: partial(self._file, *texts) for name, texts in FILES.items()},
            "EMPTY": self._empty,
            "BATCH": partial(self._batch, "m", "Hello."),
            "FAILED_BATCH": partial(self._batch, "m", "trouble"),
            "WAITING_BATCH": partial(self._batch, "away", "Hello."),
            "JOB": partial(self._job, "m"),
            "WAITING_JOB": partial(self._job, "away"),
            "DEAD": self._dead_letter,
            "INSTRUCTION": self._instruction,
            "TENANT": self._tenant,
            "KEY": self._key,
            "WEBHOOK": partial(self._webhook, hook),
            "DEAF_WEBHOOK": partial(self._webhook, "http://127.0.0.1:1/hook"),
        }

    def _values(self) -> dict[str, str]:
        info = self._system.info
        return {
            "MODEL": "m",
            "SLOW_MODEL": "slow",
            "OTHER_MODEL": "other",
            "MODEL_WITHOUT_WORKER": "away",
            "NO_MODEL": "gone",
            "HOOK": self._hook,
            "DEPLOYMENT": "d",
            "NATS": info.nats_url,
            "NATS_KEY": str(self._system.data / NATS_KEY_KEPT),
            "POSTGRES": info.postgres_url,
            "TAKEN": str(urlsplit(info.broker_http).port),
            "RUNNING": str(self._system.data),
            "NO_FILE": str(self._folder / "nothing.jsonl"),
            "NO_ID": str(an_id()),
            "NEW_TENANT": f"t{an_id().hex}",
        }

    async def words(self, text: str) -> str:
        """Put what there is in the place of the names."""
        made = {name: await self.names[name]() for name in re.findall(r"[A-Z][A-Z_]+", text) if name in self.names}
        return re.sub(r"[A-Z][A-Z_]+", lambda found: made.get(found[0], found[0]), text)

    async def _known(self, value: str) -> str:
        return value

    async def _file(self, name: str, text: str) -> str:
        (self._folder / name).write_text(text)
        return str(self._folder / name)

    async def _empty(self) -> str:
        return str(self._folder / "empty")

    async def _batch(self, model: str, question: str) -> str:
        batch = await self._client.create_batch()
        await self._client.submit_many([Submission.of(model, a_body(question))], batch_id=batch.id)
        await self._client.seal(batch.id, jobs=1)

        async def is_there() -> bool:
            state = await self._client.batch(batch.id)
            return state.counts.admitted == 1 and (model == "away" or state.completed_ms is not None)

        await until(is_there, "the batch is there, and complete if it can be")
        return str(batch.id)

    async def _job(self, model: str) -> str:
        batch = UUID(await self._batch(model, "Hello."))
        return str((await self._client.jobs(JobFilter(batch=batch))).jobs[0].id)

    async def _dead_letter(self) -> str:
        async with among_brokers(self._system) as nc:
            await nc.jetstream().publish("infermq.submit.bulk.m.default.default", b"nope")

        async def is_there() -> bool:
            return bool(await self._client.dead_letters())

        await until(is_there, "the dead letter is there")
        return str((await self._client.dead_letters())[0].id)

    async def _tenant(self) -> str:
        return (await self._client.create_tenant(f"t{an_id().hex}")).name

    async def _key(self) -> str:
        return (await self._client.create_key(KeyCreate(role=Role.PRODUCER))).key.id

    async def _webhook(self, url: str) -> str:
        for old in await self._client.webhooks():
            await self._client.delete_webhook(old.id)
        return str((await self._client.create_webhook(WebhookCreate(url=url))).webhook.id)

    async def _instruction(self) -> str:
        batch = UUID(await self._batch("away", "Hello."))
        return str((await self._client.change_batch(batch, Change(priority=1))).id)


@pytest_asyncio.fixture(loop_scope="module")
async def scene(system: System, tmp_path: Path) -> AsyncIterator[Scene]:
    async with a_client(system) as client, a_receiver() as receiver:
        yield Scene(system, client, tmp_path, receiver.url)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.words} {row.code}")
async def test_a_command_ends_as_its_row_says(system: System, scene: Scene, row: Row) -> None:
    if "not_a_job" in row.words:
        await scene.words("DEAD")
    words = shlex.split((await scene.words(row.words)).removeprefix("infermq "))
    words = [*words, *where(system, words)]

    if "|" in words:
        code, said = await piped(words)
    elif row.code == Exit.INTERRUPTED:
        code, said = await signalled(words, signal.SIGINT, after=rb"\S")
    elif row.code == Exit.DONE and words[0] in ("up", "serve", "worker"):
        code, said = await signalled(words, signal.SIGTERM, after=rb"ready|is up")
    else:
        done = await ran(*words, apart=words[0] in APART)
        code, said = done.returncode, done.stdout + done.stderr

    assert code == row.code, said
    assert "Traceback" not in said


APART = ("up", "serve", "worker", "submit", "infer", "demo", "bench")
"""Commands that heed signals, or become another program: they get a process of their own."""


def where(system: System, words: list[str]) -> list[str]:
    """The option by which a command finds the system, if it needs one."""
    says = {"--data", "--nats-url", "--postgres-url", "--help"} & set(words)
    return ["--data", str(system.data)] if "--data" in options(words) and not says else []


def options(words: Sequence[str]) -> set[str]:
    """The options of the command that these words begin with."""
    known = dict(tree())
    name = next(name for length in (2, 1) if (name := " ".join(words[:length])) in known)
    return {option for parameter in known[name].params for option in parameter.opts}


async def ran(*words: str, apart: bool) -> subprocess.CompletedProcess[str]:
    return await asyncio.to_thread(lambda: infermq(*words) if apart else infermq_here(*words))


async def piped(words: list[str]) -> tuple[int, str]:
    """Run a pipe in a shell. Its code is that of our command."""
    line = " ".join(word if word == "|" else shlex.quote(word) for word in words)
    text = f"set -o pipefail; {shlex.quote(sys.executable)} -m broker {line}"
    shell = await asyncio.create_subprocess_exec("bash", "-c", text, stdout=PIPE, stderr=STDOUT)
    said, _ = await shell.communicate()
    return await shell.wait(), said.decode()


async def signalled(words: list[str], number: signal.Signals, *, after: bytes) -> tuple[int, str]:
    """Run a command, and send it a signal once it has printed this."""
    command = [sys.executable, "-m", "broker", *words]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, stderr=STDOUT)
    assert process.stdout is not None
    said = b""
    try:
        async with asyncio.timeout(60):
            while not re.search(after, said) and (piece := await process.stdout.read(4096)):
                said += piece
            process.send_signal(number)
            said += await process.stdout.read()
            return await process.wait(), said.decode()
    finally:
        if process.returncode is None:
            process.kill()


@pytest.mark.parametrize("name", sorted(commands()))
async def test_each_command_has_help_and_refuses_what_it_does_not_know(system: System, name: str) -> None:
    words = [*name.split(), *(["--data", str(system.data)] if name == "worker" else [])]

    helped = await ran(*words, "--help", apart=name == "worker")
    refused = await ran(*words, "--no-such-option", apart=name == "worker")

    assert (helped.returncode, refused.returncode) == (0, 2)
    assert "--no-such-option" in refused.stderr


NO_SERVER = ["--nats-url", "nats://127.0.0.1:1"]


WAITING = ("up", "serve", "migrate", "doctor", "key first")
"""Commands that have the option, and do not ask a running system, or wait for one."""


def asks(row: Row) -> bool:
    """Whether the command of a row asks a running system."""
    is_one = not set(row.commands) & {*ANY, *WAITING}
    return is_one and row.code == 0 and "--nats-url" in options(row.words.split()[1:])


@pytest.mark.parametrize("row", [row for row in ROWS if asks(row)], ids=lambda row: row.words)
async def test_a_command_that_finds_nothing_running_ends_with_3(scene: Scene, row: Row) -> None:
    words = shlex.split((await scene.words(row.words)).removeprefix("infermq "))

    done = await ran(*words, *NO_SERVER, apart=words[0] in APART)

    assert done.returncode == 3, done.stdout + done.stderr
    assert "127.0.0.1:1" in done.stderr
