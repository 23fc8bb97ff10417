"""What somebody can do who has the key of a worker of the deployment `d`: each row of the table in docs/accounts.md."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import pytest
from msgspec.structs import replace

from broker.client import Client
from broker.ledger.settlement import MOST_EXECUTIONS
from schemas import subjects
from schemas.codec import bundled, jsoned, packed
from schemas.job import Attempt, Lane
from schemas.outcome import Charge, Outcome, Usage
from schemas.subjects import ReplyTo, worker_id
from schemas.units import MOST_NANO_USD, NanoUsd
from schemas.worker import HeldExecution, WorkerBeat, held_bytes
from tests.accounts.nats import Noting
from tests.accounts.walked import ANN, CATALOG, OPS, WORKER_D, WORKER_E, Actor, Walked, a_walked_system
from tests.builders import a_beat, a_report, a_success, an_id, now
from tests.system import until

pytestmark = [pytest.mark.real, pytest.mark.walks, pytest.mark.timeout(120)]
PAGE = Path(__file__).parents[2] / "docs" / "accounts.md"
HEADING = "## What a stolen worker key can do"
_attempt = msgspec.msgpack.Decoder(Attempt)


class Holder:
    """Whoever has the key of a worker: a connection, and no program of ours."""

    def __init__(self, actor: Actor, nc: Noting) -> None:
        self.actor = actor
        self.nc = nc
        self.deployment = str(actor.deployment)
        self.started_ms = now()
        self.held: list[HeldExecution] = []

    async def beat(self, **changes: Any) -> None:
        await self.send(
            subjects.beat(worker_id(self.deployment, self.actor.key.id, "w")), jsoned(self.state(**changes))
        )

    def state(self, **changes: Any) -> WorkerBeat:
        own = {"deployment": self.deployment, "key": self.actor.key.id, "started_ms": self.started_ms}
        return a_beat("w", **{**own, "held": held_bytes(self.held), **changes})

    async def send(self, subject: str, data: bytes, reply: str = "") -> bool:
        """Say whether the server took it."""
        denied = len(self.nc.denied)
        await self.nc.publish(subject, data, reply)
        for _ in range(2):  # nats-py writes its first PING in front of what waits to be written
            await self.nc.flush()
        return len(self.nc.denied) == denied

    async def pull(self) -> tuple[Attempt, str]:
        """Return an attempt, and what acknowledges it."""
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{subjects.RUN}.{self.deployment}"
        inbox = self.nc.new_inbox()
        pulled: asyncio.Queue[Any] = asyncio.Queue()
        taken = await self.nc.subscribe(inbox, cb=pulled.put)
        assert await self.send(subject, b'{"batch":1,"expires":20000000000}', inbox)
        async with asyncio.timeout(20):
            message = await pulled.get()
        await taken.unsubscribe()
        return _attempt.decode(message.data), message.reply

    async def report(
        self, attempt: Attempt, outcome: Outcome | None = None, *, on: str | None = None, **changes: Any
    ) -> bool:
        made = a_report(outcome, **_said(attempt), **changes)
        return await self.send(subjects.outcome(on or self.deployment), bundled([packed(made)]))


def _said(attempt: Attempt) -> dict[str, Any]:
    return {"job": attempt.job, "attempt": attempt.number, "deployment": attempt.deployment, "seal": attempt.seal}


class Robbed:
    """A system, a thief with the key of `d`, and an honest worker of `e`."""

    def __init__(self, system: Walked, client: Client, thief: Holder, other: Holder) -> None:
        self.system = system
        self.client = client
        self.thief = thief
        self.other = other

    async def job(self, model: str = "m", text: str = "a prompt") -> UUID:
        return await self.client.submit(model, {"messages": [{"role": "user", "content": text}], "max_tokens": 4})

    async def handed(self, text: str = "a prompt") -> tuple[Attempt, str]:
        """An attempt that the thief pulls, and its acknowledgement."""
        await self.job("m", text)
        return await self.thief.pull()

    async def state_of(self, job: UUID) -> str:
        return str(await self.system.database.fetchval("select state from infermq.jobs where id = $1", job))

    async def cost(self, job: UUID) -> int:
        return int(await self.system.database.fetchval("select cost_nano_usd from infermq.jobs where id = $1", job))

    async def ends(self, job: UUID, state: str = "succeeded") -> None:
        async def has_ended() -> bool:
            return await self.state_of(job) == state

        await until(has_ended, f"the job is {state}")

    async def taken_in(self) -> None:
        """Wait until settle has had all reports."""

        async def is_empty() -> bool:
            nc = await self.system.as_broker()
            answer = await nc.request(f"$JS.API.STREAM.INFO.{subjects.OUTCOME}", b"", timeout=5)
            return not json.loads(answer.data)["state"]["messages"]

        await until(is_empty, "all reports are taken in")

    async def causes(self) -> list[str]:
        return [row["cause"] for row in await self.system.database.fetch("select cause from infermq.dead_letters")]


@asynccontextmanager
async def a_robbed_system(folder: Path) -> AsyncIterator[Robbed]:
    async with a_walked_system(folder) as system, Client.connect(system.url, api_key=ANN.key.text()) as client:
        async with Client.connect(system.url, api_key=OPS.key.text()) as operator:
            await operator.apply_catalog(CATALOG)
        holders = [Holder(actor, await system.as_(actor)) for actor in (WORKER_D, WORKER_E)]
        beating = [asyncio.create_task(_keep_beating(holder)) for holder in holders]
        try:
            yield Robbed(system, client, *holders)
        finally:
            for task in beating:
                task.cancel()
            await asyncio.wait(beating)


async def _keep_beating(holder: Holder) -> None:
    while True:
        await holder.nc.publish(
            subjects.beat(worker_id(holder.deployment, holder.actor.key.id, "w")), jsoned(holder.state())
        )
        await asyncio.sleep(0.5)


async def _reads_prompts(of: Robbed) -> None:
    attempt, _ = await of.handed("nobody else should read this")
    assert b"nobody else should read this" in attempt.body


async def _reports_what_it_likes(of: Robbed) -> None:
    attempt, _ = await of.handed()
    await of.thief.report(attempt, a_success(body=b'{"choices":["a lie"]}', usage=Usage(1, 1)))
    await of.ends(attempt.job)
    assert b"a lie" in bytes((await of.client.job(attempt.job)).body)


async def _charges_what_it_likes_within_bounds(of: Robbed) -> None:
    attempt, _ = await of.handed()
    most = a_success(charge=Charge(MOST_NANO_USD, "a lie"))
    for _ in range(MOST_EXECUTIONS + 5):
        await of.thief.report(attempt, most, execution=an_id())
    bundle = [a_report(most, **_said(attempt), execution=an_id()) for _ in range(MOST_EXECUTIONS)]
    await of.thief.send(subjects.outcome("d"), bundled([packed(one) for one in bundle]))
    await of.taken_in()
    assert await of.cost(attempt.job) == MOST_EXECUTIONS * MOST_NANO_USD


async def _offers_slots_that_it_has_not(of: Robbed) -> None:
    jobs = {await of.job() for _ in range(4)}
    pulled: list[UUID] = []
    while len(pulled) == len(set(pulled)):  # what it says it does not hold is handed out again
        pulled.append((await of.thief.pull())[0].job)
    assert set(pulled) <= jobs

    job = await of.job("n")
    attempt, _ = await of.other.pull()
    await of.other.report(attempt)
    await of.ends(job)


async def _settles_nothing_of_others(of: Robbed) -> None:
    job = await of.job("n")
    attempt, _ = await of.other.pull()
    for changes in ({}, {"deployment": "d"}):
        lie = replace(a_report(a_success(), **_said(attempt)), **changes)
        assert await of.thief.send(subjects.outcome("d"), bundled([packed(lie)]))
    assert not await of.thief.report(attempt, on="e")
    await of.taken_in()
    assert await of.state_of(job) == "open"
    assert (await of.causes()).count("false_seal") >= 2


async def _forges_no_seal(of: Robbed) -> None:
    attempt, _ = await of.handed()
    true = a_report(**_said(attempt))
    for changes in ({"attempt": 2}, {"job": an_id()}, {"seal": bytes(16)}, {"seal": b""}):
        assert await of.thief.send(subjects.outcome("d"), bundled([packed(replace(true, **changes))]))
    await of.taken_in()
    assert await of.state_of(attempt.job) == "open"
    assert await of.causes() == 4 * ["false_seal"]


async def _gains_nothing_by_an_old_report(of: Robbed) -> None:
    attempt, _ = await of.handed()
    report = a_report(a_success(charge=Charge(NanoUsd(7), "a")), **_said(attempt))
    for _ in range(5):
        await of.thief.send(subjects.outcome("d"), bundled([packed(report)]))
    await of.taken_in()
    assert await of.cost(attempt.job) == 7
    other = replace(report, outcome=a_success(body=b'{"another":1}', charge=Charge(NanoUsd(9), "a")))
    await of.thief.send(subjects.outcome("d"), bundled([packed(other)]))
    await of.taken_in()
    assert await of.cost(attempt.job) == 7
    assert b"another" not in bytes((await of.client.job(attempt.job)).body)


async def _acks_nothing_of_others(of: Robbed) -> None:
    await of.job("n")
    _, ack = await of.other.pull()
    own, _ = await of.handed()
    assert not await of.thief.send(ack, b"+ACK")
    assert not await of.thief.send(ack, b"-NAK")
    assert await of.thief.report(own, run_ack=ack)
    await of.taken_in()
    assert "false_seal" in await of.causes()
    left = await _info(of, "e")
    assert left["num_ack_pending"] >= 1, "the message of the other is still with it"


async def _info(of: Robbed, consumer: str) -> dict[str, Any]:
    nc = await of.system.as_broker()
    answer = await nc.request(f"$JS.API.CONSUMER.INFO.{subjects.RUN}.{consumer}", b"", timeout=5)
    found: dict[str, Any] = json.loads(answer.data)
    return found


async def _pulls_nothing_of_others(of: Robbed) -> None:
    await of.job("n")
    inbox = f"{WORKER_D.inbox}.x"
    for stream in (subjects.RUN, subjects.NOW):
        assert not await of.thief.send(f"$JS.API.CONSUMER.MSG.NEXT.{stream}.e", b"1", inbox)
    attempt, _ = await of.other.pull()
    assert attempt.deployment == "e"


async def _beats_in_nobodys_name(of: Robbed) -> None:
    theirs = worker_id("e", WORKER_E.key.id, "w")
    false = of.other.state(slots=1000)
    for subject, is_taken in (
        (subjects.beat(theirs), False),
        (subjects.beat(worker_id("e", WORKER_D.key.id, "w")), False),
        (subjects.beat(worker_id("d", WORKER_E.key.id, "w")), False),
        (subjects.beat(worker_id("d", WORKER_D.key.id, "another")), True),
    ):
        assert await of.thief.send(subject, jsoned(false)) is is_taken
        assert await of.thief.send(subject, b"") is is_taken
    async with Client.connect(of.system.url, api_key=OPS.key.text()) as operator:
        workers = (await operator.status()).workers
    assert {(one.deployment, one.slots, one.held) for one in workers} == {("d", 4, b""), ("e", 4, b"")}
    own = subjects.beat(worker_id("d", WORKER_D.key.id, "w"))
    for header in ({"Nats-Rollup": "all"}, {"Nats-TTL": "never"}):  # delete all others', and stay for ever
        answer = await of.thief.nc.request(own, jsoned(of.thief.state()), headers=header)
        assert b'"error"' in answer.data


async def _holds_and_blames_nothing_of_others(of: Robbed) -> None:
    await of.job("n")
    theirs, _ = await of.other.pull()
    of.other.held = [HeldExecution(theirs.job, theirs.number, an_id())]
    own, _ = await of.handed()
    held = held_bytes([HeldExecution(one.job, one.number, an_id()) for one in (theirs, own)])
    name = worker_id("d", WORKER_D.key.id, "dying")
    await of.thief.send(subjects.beat(name), jsoned(replace(of.thief.state(held=held), worker="dying")))

    async def is_blamed() -> bool:
        query = "select count(*) from infermq.running where job = $1 and attempt = $2 and suspicion is null"
        return not await of.system.database.fetchval(query, own.job, own.number)

    await until(is_blamed, "what was handed to its deployment is under suspicion, or runs again")
    row = await of.system.database.fetchrow("select ward, suspicion from infermq.running where job = $1", theirs.job)
    assert row is not None
    assert (row["ward"], row["suspicion"]) == (None, None)
    await of.other.report(theirs)
    await of.ends(theirs.job)


async def _reaches_nothing_else(of: Robbed) -> None:
    for subject in (
        subjects.RULING,
        subjects.CTL_SETTLED,
        subjects.ACTIVE_CATALOG,
        subjects.catalog_entry("d"),
        subjects.run("d"),
        subjects.submit(subjects.Source(Lane.BULK, "m", "default", WORKER_D.key.id)),
        subjects.reply(ReplyTo("e", "b", "t")),
        f"infermq.api.batch-list.default.{WORKER_D.key.id}",
        "$JS.API.STREAM.LIST",
        f"$JS.API.DIRECT.GET.KV_{subjects.CATALOG_BUCKET}.{subjects.catalog_entry('e')}",
    ):
        assert not await of.thief.send(subject, b"{}"), subject


ROWS: Mapping[str, Callable[[Robbed], Awaitable[None]]] = {
    "read the prompts of jobs that its deployments are to run": _reads_prompts,
    "answer those jobs with what it likes": _reports_what_it_likes,
    "say what they cost": _charges_what_it_likes_within_bounds,
    "offer slots that it has not, and lose what it is handed": _offers_slots_that_it_has_not,
    "end or charge another deployment's job": _settles_nothing_of_others,
    "make up an attempt": _forges_no_seal,
    "gain by sending an old report again": _gains_nothing_by_an_old_report,
    "acknowledge another deployment's messages": _acks_nothing_of_others,
    "take another deployment's jobs": _pulls_nothing_of_others,
    "beat or leave in another worker's name": _beats_in_nobodys_name,
    "hold up or bring under suspicion what another deployment runs": _holds_and_blames_nothing_of_others,
    "call the API, submit, change the catalog, rule, or read streams": _reaches_nothing_else,
}


@pytest.mark.parametrize("row", ROWS)
async def test_a_stolen_worker_key_does_what_the_table_says_and_no_more(tmp_path: Path, row: str) -> None:
    async with a_robbed_system(tmp_path) as robbed:
        await ROWS[row](robbed)


def test_the_table_has_each_row() -> None:
    section = PAGE.read_text().partition(HEADING)[2].partition("\n## ")[0]
    rows = [line.split("|")[1].strip() for line in section.splitlines() if line.startswith("| ")]

    assert [row for row in rows if row not in {"It can", "It cannot", "---"}] == list(ROWS)
