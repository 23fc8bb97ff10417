"""Every role calls every verb about its own things, about another tenant's, and about what is not there.

Nothing of another tenant is shown or changed, and no answer and no work tells whether it is there.
"""

import re
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
import pytest

from broker.client import Client, Submission
from broker.ledger.connection import Connection
from schemas import cancel, dead, subjects
from schemas.codec import ERROR, KIND, jsoned
from schemas.control import PauseAsk, PauseKind
from schemas.job import Job
from schemas.subjects import Verb
from schemas.webhooks import Delivery, WebhookCreate, WebhookMade, WebhookRef
from tests.accounts.nats import Noting
from tests.accounts.walked import ACTORS, ADA, ANN, BEA, BOB, CATALOG, DEE, OPS, Actor, Walked, a_walked_system
from tests.accounts.walked_ledger import snapshot
from tests.accounts.walked_subjects import may_call
from tests.accounts.walked_verbs import CALLS, LISTS, Things, nobodys
from tests.builders import BODY, CHAT, an_id
from tests.system import until

pytestmark = [pytest.mark.real, pytest.mark.walks, pytest.mark.timeout(180)]
_TRIES = 8
"""How often the work of two calls is compared, until it is the same. Now and then a role of the broker does something at the
same time: what is not done each time does not count."""
_MARKS = {"acme": "acme-mark", "bobs": "bobs-mark"}
"""What is in everything that a tenant has."""


class Caller:
    """Calls verbs with a key."""

    def __init__(self, actor: Actor, nc: Noting) -> None:
        self.actor = actor
        self._nc = nc

    async def call(self, verb: Verb, ask: msgspec.Struct) -> tuple[bool, bytes]:
        """Say whether it was refused, and the answer."""
        subject = subjects.api(verb, self.actor.tenant, self.actor.key.id)
        answer = await self._nc.request(subject, jsoned(ask), timeout=10)
        return (answer.headers or {}).get(KIND) == ERROR, answer.data

    async def is_denied(self, verb: Verb) -> bool:
        denied = len(self._nc.denied)
        await self._nc.publish(subjects.api(verb, self.actor.tenant, self.actor.key.id), b"{}")
        await self._nc.flush()
        await self._nc.flush()  # nats-py writes its first PING in front of what waits to be written
        return len(self._nc.denied) > denied


@pytest.fixture
async def system(tmp_path: Path) -> Any:
    async with a_walked_system(tmp_path) as walked:
        async with Client.connect(walked.url, api_key=OPS.key.text()) as client:
            await client.apply_catalog(CATALOG)
        yield walked


async def some_things(system: Walked, admin: Actor, key: Actor) -> Things:
    """Make everything that a tenant can have."""
    caller = Caller(admin, await system.as_(admin))
    mark = _MARKS[admin.tenant]
    async with Client.connect(system.url, api_key=admin.key.text()) as client:
        batches = [(await client.create_batch(metadata={"mark": mark})).id for _ in range(2)]
        for batch, model in zip(batches, ("m", "nothing"), strict=True):
            job = Job(endpoint=CHAT, body=BODY, custom_id=mark, metadata={"mark": mark})
            await client.submit_many([Submission(model, job)], batch_id=batch)
        await client.nats.publish(f"infermq.submit.bulk.m.{admin.tenant}.{admin.key.id}", b"\xc1" + mark.encode())

        async def are_there() -> bool:
            counts = [(await client.batch(batch)).counts.admitted for batch in batches]
            return counts == [1, 1] and len(await _letters(caller)) > 0

        await until(are_there, "all is in the ledger")
        await client.seal(batches[1], jobs=1)
    hook = WebhookCreate(url=f"https://{mark}.invalid/hook", label=mark)
    made = msgspec.json.decode((await caller.call(Verb.WEBHOOK_CREATE, hook))[1], type=WebhookMade).webhook.id
    sent = msgspec.json.decode((await caller.call(Verb.WEBHOOK_TEST, WebhookRef(made)))[1], type=Delivery).id
    tried = "select jsonb_array_length(tries) = 1 from infermq.deliveries where id = $1"

    async def is_tried() -> bool:
        return bool(await system.database.fetchval(tried, sent))

    await until(is_tried, "the webhook was tried")
    await system.database.execute("update infermq.deliveries set next_ms = null where id = $1", sent)
    order = cancel.CancelMany(id=an_id(), batch=an_id())
    pause = PauseAsk(PauseKind.BATCH, str(batches[0]), reason=mark)
    for verb, ask in ((Verb.CANCEL, order), (Verb.PAUSE, pause)):
        assert not (await caller.call(verb, ask))[0]
    waiting = "select count(*) from infermq.waiting where batch = $1"

    async def is_parked() -> bool:
        return not await system.database.fetchval(waiting, batches[0])

    await until(is_parked, "its jobs are put aside")
    letter = (await _letters(caller))[0]
    jobs = [
        await system.database.fetchval("select id from infermq.jobs where batch = $1", batch) for batch in batches
    ]
    return Things(
        tenant=admin.tenant,
        batch=batches[0],
        failed=batches[1],
        job=jobs[0],
        failed_job=jobs[1],
        instruction=order.id,
        dead=letter,
        key=key.key.id,
        webhook=made,
        delivery=sent,
    )


async def _letters(caller: Caller) -> list[Any]:
    _, answer = await caller.call(Verb.DEAD_EACH, dead.DeadEach())
    return [letter.id for letter in msgspec.json.decode(answer, type=dead.DeadPage).letters]


class Work:
    """Counts the statements of the database."""

    def __init__(self, database: Connection) -> None:
        self._database = database
        self._read: Mapping[str, int] = {}

    async def done(self) -> dict[str, int]:
        """Return how often each statement was done since the last time, once all instructions are carried out."""
        await until(self._is_idle, "all instructions are carried out")
        rows = await self._database.fetch(
            "select query, sum(calls)::bigint as calls from pg_stat_statements"
            " where query not like '%pg_stat_statements%' group by 1"
        )
        before, self._read = self._read, {row["query"]: row["calls"] for row in rows}
        return {
            query: calls - before.get(query, 0) for query, calls in self._read.items() if calls > before.get(query, 0)
        }

    async def _is_idle(self) -> bool:
        """Its own statement is not counted because of its name for the answer."""
        left = "select count(*) as pg_stat_statements from infermq.instructions where ended_ms is null"
        return not await self._database.fetchval(left)


async def test_no_verb_shows_or_changes_what_is_anothers_or_tells_that_it_is_there(system: Walked) -> None:
    theirs = await some_things(system, BEA, BOB)
    before = await snapshot(system.database, of=theirs.names, but="acme")
    work = Work(system.database)

    faults = []
    for actor in (ANN, ADA, DEE):
        caller = Caller(actor, await system.as_(actor))
        for verb, n in _calls(actor):
            faults += [f"{actor.name} {verb} {n}: {why}" async for why in _tells(caller, verb, n, theirs, work)]

    assert not faults, "\n".join(faults)
    assert await snapshot(system.database, of=theirs.names, but="acme") == before


@pytest.mark.parametrize("actor", [ANN, ADA], ids=lambda actor: actor.name)
async def test_each_verb_reaches_what_is_ones_own_and_shows_nothing_else(system: Walked, actor: Actor) -> None:
    theirs, ours = await some_things(system, BEA, BOB), await some_things(system, ADA, ANN)
    before = await snapshot(system.database, of=theirs.names, but="acme")
    caller = Caller(actor, await system.as_(actor))

    shown = b""
    for verb, n in _calls(actor):
        nothing = nobodys()
        (_, own), (refused, answer) = [await caller.call(verb, CALLS[verb](of)[n]) for of in (ours, nothing)]
        assert not refused or _bare(own, ours) != _bare(answer, nothing), f"{actor.name} {verb} {n}: {own!r}"
        shown += own

    assert _MARKS["acme"].encode() in shown
    assert _MARKS["bobs"].encode() not in shown
    assert [name for name in theirs.names if name.encode() in shown] == []
    assert await snapshot(system.database, of=theirs.names, but="acme") == before


async def test_no_role_may_call_a_verb_that_is_not_for_it(system: Walked) -> None:
    for actor in ACTORS:
        caller = Caller(actor, await system.as_(actor))
        denied = {verb for verb in Verb if await caller.is_denied(verb)}
        assert denied == {verb for verb in Verb if not may_call(actor.role, verb)}, actor.name


def _calls(actor: Actor) -> list[tuple[Verb, int]]:
    """Each verb that an actor may call, with each number of its examples."""
    return [(verb, n) for verb in Verb if may_call(actor.role, verb) for n in range(len(CALLS[verb](nobodys())))]


def test_every_verb_has_examples() -> None:
    assert CALLS.keys() == set(Verb)


async def _tells(caller: Caller, verb: Verb, n: int, theirs: Things, work: Work) -> AsyncIterator[str]:
    """Say by what a call about another's things differs from one about what is not there."""
    did: dict[bool, list[Mapping[str, int]]] = {True: [], False: []}
    for number in range(_TRIES):
        answers: dict[bool, tuple[bool, str]] = {}
        for is_there in (True, False) if number % 2 else (False, True):
            things = theirs if is_there else nobodys()
            await work.done()
            refused, answer = await caller.call(verb, CALLS[verb](things)[n])
            did[is_there].append(await work.done())
            answers[is_there] = refused, _bare(answer, things)
            if _MARKS["bobs"].encode() in answer:
                yield f"shows {answer[:300]!r}"
        if verb not in LISTS and answers[True] != answers[False]:
            yield f"answers {answers[True]} for another's and {answers[False]} for nothing"
        if did[True][-1] == did[False][-1]:
            return
    queries = {query for calls in (*did[True], *did[False]) for query in calls}
    for query in sorted(queries):
        some, none = ({calls.get(query, 0) for calls in did[is_there]} for is_there in (True, False))
        if len(some) == len(none) == 1 and some != none:
            yield f"does {some} for another's and {none} for nothing: {query[:100]}"


def _bare(answer: bytes, things: Things) -> str:
    """Return an answer without what must differ: ids, names and times."""
    text = answer.decode()
    for name in things.names:
        text = text.replace(name, "NAME")
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f-]{21}", "ID", text)
    return re.sub(r'_ms": ?\d+', '_ms":0', text)
