"""Every role tries every subject: to publish, to ask, to pull, to subscribe, and to have what answers it sent elsewhere.

What is heard in each account is watched. A message goes no further than its sender's key allows, and no answer reaches a
subject of brokers, or comes from a door to anybody but the caller.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from broker.bus import desired
from broker.client import Client, Submission
from broker.core.accounts import Account
from broker.ledger.connection import Connection
from schemas import subjects
from schemas.accounts import Role
from schemas.api import State
from schemas.codec import KIND
from schemas.jetstream import last_sequence
from schemas.job import Job
from schemas.subjects import Verb
from tests.accounts.nats import Noting
from tests.accounts.walked import ACTORS, ANN, BEA, BOB, CATALOG, LEE, OPS, WORKER_E, Actor, Walked, a_walked_system
from tests.accounts.walked_ledger import snapshot
from tests.accounts.walked_subjects import (
    BUILT,
    NO_SUBJECTS,
    WILD,
    all_subjects,
    crosses,
    home,
    may_call,
    may_hear,
    may_publish,
)
from tests.builders import BODY, CHAT
from tests.system import until

pytestmark = [pytest.mark.real, pytest.mark.walks, pytest.mark.timeout(180)]
WALK, CANARY = "Walk", "Canary"
_AT_A_TIME = 500
"""How many messages are sent before they are waited for."""
_SAMPLE = (Verb.BATCH_LIST, Verb.CATALOG_SHOW)
"""The verbs that are tried with every reply subject. They answer whatever the JSON. The others get one of each kind."""
_ALIKE = (LEE, BOB, BEA, WORKER_E)
"""Each has a twin, which tries all replies. These are those whom it should not reach."""


@dataclass(frozen=True, slots=True)
class Sent:
    actor: Actor
    subject: str
    reply: str

    @property
    def is_a_job(self) -> bool:
        """Say whether intake gets it. A server takes no message whose reply subject is an acknowledgement."""
        is_taken = not self.reply.startswith("$JS.ACK.") and may_publish(self.actor, self.subject)
        return is_taken and self.subject.startswith("infermq.submit.")

    def __str__(self) -> str:
        return f"{self.actor.name} on {self.subject}" + (f" with the reply {self.reply}" if self.reply else "")


@dataclass(frozen=True, slots=True)
class Seen:
    """A message that somebody heard, or that passed an account."""

    where: str
    subject: str
    sent: int | None
    headers: dict[str, str]
    data: bytes
    reply: str

    def __str__(self) -> str:
        return f"{self.where} saw {self.subject} {self.headers} {self.data[:80]!r}"

    @property
    def is_of_the_server(self) -> bool:
        """Say whether a server made it, or delivers it from a stream: no broker has written it."""
        if (
            not (self.data or self.reply)
            or "Status" in self.headers
            or "Nats-Sequence" in self.headers
            or self.reply.startswith("$JS.ACK")
        ):
            return True
        try:
            read = json.loads(self.data)
        except ValueError:
            return False
        return (
            isinstance(read, dict)
            and (
                {"stream", "seq"} <= read.keys()
                or "error" in read
                or str(read.get("type", "")).startswith("io.nats.")
            )
            and KIND not in self.headers
        )


class Walk:
    """Notes what is sent and what is seen."""

    def __init__(self, system: Walked) -> None:
        self.system = system
        self.sent: list[Sent] = []
        self.seen: dict[Account, list[Seen]] = {}
        self.heard: dict[str, list[Seen]] = {}
        self.connections: dict[str, Noting] = {}
        self.spies: dict[Account, Noting] = {}
        self.called: list[str] = []
        self.replies: set[str] = set()
        """The subjects of others to which somebody has had an answer sent."""

    async def begin(self) -> None:
        for account in (Account.BROKERS, Account.TENANTS, Account.WORKERS):
            spy = self.spies[account] = await self.system.as_broker(account)
            await _note_all(spy, [">"], self.seen.setdefault(account, []), account)
            await spy.flush()
        for actor in ACTORS:
            nc = self.connections[actor.name] = await self.system.as_(actor)
            heard = self.heard.setdefault(actor.name, [])
            patterns = [*all_subjects(), *WILD, *(f"{one.inbox}.>" for one in ACTORS)]
            await _note_all(nc, patterns, heard, actor.name)

    async def send(self, actor: Actor, pairs: Iterable[tuple[str, str]]) -> None:
        nc = self.connections[actor.name]
        for subject, reply in pairs:
            number = len(self.sent)
            self.sent.append(Sent(actor, subject, reply.replace("<n>", str(number))))
            payload = b"no job" if subject.startswith("infermq.submit.") else b'{"walk":%d}' % number
            await nc.publish(subject, payload, self.sent[-1].reply, headers={WALK: str(number)})
            if reply and not reply.startswith(actor.inbox):
                self.replies.add(reply)
            if number % _AT_A_TIME == 0:
                await nc.flush()
        await self.settled()

    async def settled(self) -> None:
        """Wait until all that was sent has come to where it goes, and was answered."""
        for nc in (*self.connections.values(), *self.spies.values(), *self.connections.values()):
            await nc.flush()
        await until(self._is_idle, "what was stored is taken in", within_s=60)
        for nc in (*self.spies.values(), *self.connections.values()):
            await nc.flush()

    async def _is_idle(self) -> bool:
        for stream in (subjects.SUBMIT, subjects.OUTCOME):
            answer = await self.spies[Account.BROKERS].request(f"$JS.API.STREAM.INFO.{stream}", b"", timeout=5)
            if json.loads(answer.data)["state"]["messages"]:
                return False
        return True

    async def call_out(self) -> None:
        """Publish on every subject in every account, as brokers and servers may."""
        for subject in all_subjects():
            if not subject.startswith("$JS."):
                self.called.append(subject)
                for spy in self.spies.values():
                    await spy.publish(subject, b"{}", headers={CANARY: "1"})
        await self.settled()

    def arrived(self, actor: Actor) -> set[str]:
        """The subjects on which a message of this actor went anywhere."""
        numbers = {one.sent for seen in self.seen.values() for one in seen if one.sent is not None}
        return {self.sent[number].subject for number in numbers if self.sent[number].actor is actor}

    def leaks(self) -> Iterator[str]:
        announced = {
            (one.subject, one.data)
            for one in self.seen[Account.BROKERS]
            if one.subject.startswith("infermq.result.") and not one.is_of_the_server
        }
        for account, seen in self.seen.items():
            for one in seen:
                if (why := self._leak(account, one, announced)) is not None:
                    yield f"{why}: {one}"
        for name, heard in self.heard.items():
            actor = next(actor for actor in ACTORS if actor.name == name)
            yield from (f"heard: {one}" for one in heard if not may_hear(actor, one.subject))

    def _leak(self, account: Account, one: Seen, announced: Container[tuple[str, bytes]]) -> str | None:
        if account is Account.BROKERS and one.subject.startswith("_INBOX.") and "Nats-Sequence" in one.headers:
            return None  # a broker reads a stream
        if one.sent is not None:
            sent = self.sent[one.sent]
            if one.subject != sent.subject or not may_publish(sent.actor, sent.subject):
                return f"{sent} went too far"
            here = home(sent.actor)
            is_right = account is here or (account is Account.BROKERS and crosses(here, sent.subject))
            return None if is_right else f"{sent} went astray"
        if account is Account.BROKERS:
            return "an answer among the brokers" if one.subject in self.replies and one.is_of_the_server else None
        if (one.subject, one.data) in announced:
            return None
        if one.subject in self.replies and not one.is_of_the_server:
            return "a broker's answer to somebody else"
        return None


async def _note_all(nc: Noting, patterns: Sequence[str], notes: list[Seen], where: str) -> None:
    async def note(message: Any) -> None:
        headers = dict(message.headers or {})
        number = int(headers[WALK]) if WALK in headers else None
        notes.append(Seen(where, message.subject, number, headers, message.data, message.reply))

    for pattern in patterns:
        await nc.subscribe(pattern, cb=note, pending_msgs_limit=-1, pending_bytes_limit=-1)


def _pairs(actor: Actor) -> Iterator[tuple[str, str]]:
    """Each subject and reply that an actor tries."""
    everything = all_subjects()
    for subject in everything:
        yield subject, ""
        yield subject, f"{actor.inbox}.walk.<n>"
    if actor in _ALIKE:
        return
    replies = [subject for subject in everything if not subject.startswith("infermq.api.") or BOB.key.id in subject]
    few = [build()[-1] for build in BUILT.values()]
    for subject in everything:
        if may_publish(actor, subject) and ".n." not in subject:
            is_api = subject.startswith("infermq.api.") and not any(f".{verb}." in subject for verb in _SAMPLE)
            for reply in few if is_api else replies:
                if not reply.startswith(actor.inbox):
                    yield subject, reply


@pytest.fixture
async def system(tmp_path: Path) -> Any:
    async with a_walked_system(tmp_path) as walked:
        async with Client.connect(walked.url, api_key=OPS.key.text()) as client:
            await client.apply_catalog(CATALOG)
        yield walked


async def test_nothing_goes_further_and_nobody_hears_more_than_a_key_allows(system: Walked) -> None:
    walk = Walk(system)
    await walk.begin()
    brokers = walk.spies[Account.BROKERS]
    before = await snapshot(system.database), await _sequences(brokers)

    for actor in ACTORS:
        await walk.send(actor, _pairs(actor))

    leaks = list(walk.leaks())
    assert not leaks, f"{len(leaks)} leaks\n" + "\n".join(leaks[:20])
    assert (await snapshot(system.database), await _sequences(brokers)) == before
    assert await _jobs(system.database) == Counter(sent.actor.key.id for sent in walk.sent if sent.is_a_job)
    for actor in ACTORS:
        tried = {sent.subject for sent in walk.sent if sent.actor is actor}
        assert walk.arrived(actor) == {subject for subject in tried if may_publish(actor, subject)}, actor.name

    await walk.call_out()

    for actor in ACTORS:
        called = {one.subject for one in walk.heard[actor.name] if CANARY in one.headers}
        assert called == {subject for subject in walk.called if may_hear(actor, subject)}, actor.name


async def _jobs(database: Connection) -> Counter[str]:
    """How many jobs the ledger has of each key."""
    rows = await database.fetch("select key, count(*) as number from infermq.jobs group by 1")
    return Counter({row["key"]: row["number"] for row in rows})


async def _sequences(nc: Noting) -> dict[str, int]:
    """How much each stream has had, but for those that hold what workers and producers may send."""
    open_to_some = {subjects.SUBMIT, subjects.OUTCOME, f"KV_{subjects.WORKERS_BUCKET}"}
    return {name: await last_sequence(nc, name) for name in desired.NAMES if name not in open_to_some}


def test_every_name_of_a_subject_is_in_the_walk() -> None:
    public = {
        name
        for name, value in vars(subjects).items()
        if not name.startswith("_") and getattr(value, "__module__", subjects.__name__) == subjects.__name__
    }
    imported = {"LONGEST_NAME", "LONGEST_SUBJECT", "SUBJECT", "re"}
    walked = BUILT.keys() | NO_SUBJECTS

    assert public - imported - walked == set(), "a new name: say in tests/accounts/walked_subjects.py who may use it"


def test_every_stream_and_verb_is_in_the_walk() -> None:
    everything = all_subjects()

    for stream in desired.NAMES:
        assert f"$JS.API.STREAM.DELETE.{stream}" in everything
    for verb in Verb:
        assert any(may_call(role, verb) for role in Role), f"nobody may call {verb}"
        assert any(subject.startswith(f"infermq.api.{verb}.bobs.") for subject in everything)


async def test_a_client_ignores_what_others_have_sent_to_it(system: Walked) -> None:
    ann = await system.as_(ANN)
    async with Client.connect(system.url, api_key=BOB.key.text()) as bob:
        batch = (await bob.create_batch()).id
        results = asyncio.create_task(_all_results(bob, batch))
        for reply in (subjects.result("bobs", batch), subjects.key_ended("bobs", BOB.key.id), f"{BOB.inbox}.x.y"):
            for subject in all_subjects():
                if may_publish(ANN, subject):
                    await ann.publish(subject, b"no job", reply)
        await ann.flush()
        await bob.submit_many([Submission("nothing", Job(endpoint=CHAT, body=BODY))], batch_id=batch)
        await bob.seal(batch, jobs=1)

        assert await results == [State.FAILED]


async def _all_results(client: Client, batch: UUID) -> list[State]:
    return [result.state async for result in client.results(batch)]
