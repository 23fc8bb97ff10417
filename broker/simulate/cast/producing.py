"""What producers of a simulated world do: they submit batches and single jobs, and what is no use as well."""

import json
from dataclasses import replace
from uuid import UUID

import msgspec

from broker.client import Submission
from broker.simulate.cast.acting import Actor, Acts
from broker.simulate.cast.told import JobKind, Sent, a_body, a_kind
from schemas.ids import line_id
from schemas.job import Lane

_REFUSED = frozenset({"failed"})
_STOPPED = frozenset({"cancelled", "failed", "expired"})
_OWN_LIMIT, _CANCELLED_EARLY, _TWICE = 0.15, 0.06, 0.1


class Producer:
    def __init__(self, actor: Actor) -> None:
        self._actor = actor
        self._client = actor.client
        self._chance = actor.process.random
        self._told = actor.told

    def acts(self) -> Acts:
        return ((4, self.batch), (4, self.single), (0.7, self.again), (0.7, self.late), (0.4, self.foreign))

    async def batch(self) -> None:
        """Submit a batch. Sometimes somebody cancels it while it is submitted."""
        client, until_done = self._client, self._actor.until_done
        batch = (await until_done(client.create_batch)).id
        self._told.tenant[batch] = self._actor.tenant
        kinds = [a_kind(self._chance) for _ in range(self._chance.choice((1, 4, 12, 30)))]
        cancelled_at = self._chance.randrange(len(kinds)) if self._chance.random() < _CANCELLED_EARLY else len(kinds)
        ones = [self._one(kind, line_id(batch, line), Lane.BULK) for line, kind in enumerate(kinds, start=1)]
        if before := ones[:cancelled_at]:
            await until_done(lambda: client.submit_many([one.submission for one in before], batch_id=batch))
        for one in before:
            self._accept(one, batch)
        if after := ones[cancelled_at:]:
            self._told.meddled.add(batch)
            await until_done(lambda: client.cancel_batch(batch))
            await until_done(lambda: client.submit_many([one.submission for one in after], batch_id=batch))
        for one in after:
            self._accept(one, batch, ends=_STOPPED)
        await until_done(lambda: client.seal(batch, jobs=len(ones)))
        self._told.batches[batch] = len(ones)

    async def single(self) -> None:
        """Submit a job of no batch. Sometimes it is submitted twice, with the key that says so."""
        kind, lane = a_kind(self._chance), self._chance.choice(tuple(Lane))
        if self._chance.random() < _TWICE:
            await self._twice(kind, lane)
            return
        one = self._one(kind, self._actor.process.new_id(), lane)
        await self._actor.until_done(lambda: self._client.submit_many([one.submission]))
        self._accept(one)

    async def _twice(self, kind: JobKind, lane: Lane) -> None:
        first = self._one(kind, self._actor.process.new_id(), lane, key=f"key {self._chance.getrandbits(48):x}")
        again = self._actor.process.new_id()
        same = replace(first.submission, job=msgspec.structs.replace(first.submission.job, id=again))
        for one in (first.submission, same):
            await self._actor.until_done(lambda one=one: self._client.submit_many([one]))  # type: ignore[misc]
        self._told.twice.append((first.id, again))

    async def again(self) -> None:
        """Submit once more what was accepted, as somebody does who has forgotten."""
        if own := self._actor.own(self._told.sent):
            job = self._chance.choice(own)
            sent = self._told.sent[job]
            await self._actor.until_done(lambda: self._client.submit_many([sent.submission], batch_id=sent.batch))

    async def late(self) -> None:
        """Submit a job to a batch that is complete. One that was cancelled would take it, to end it."""
        own = self._actor.own(self._told.batches)
        if not own:
            return
        batch = self._chance.choice(own)
        seen = await self._actor.until_done(lambda: self._client.batch(batch))
        if seen.completed_ms is None or seen.cancel_ms is not None:
            return
        one = self._one(a_kind(self._chance), self._actor.process.new_id(), Lane.BULK)
        self._told.late[one.id] = batch
        await self._refused(one, batch)

    async def foreign(self) -> None:
        """Submit a job to a batch of another tenant."""
        others = [one for one in self._told.batches if self._told.tenant[one] != self._actor.tenant]
        if others:
            batch = self._chance.choice(others)
            one = self._one(a_kind(self._chance), self._actor.process.new_id(), Lane.BULK)
            await self._refused(one, batch)

    async def _refused(self, one: Sent, batch: UUID) -> None:
        """Submit a job to a batch that does not take it."""
        await self._actor.until_done(lambda: self._client.submit_many([one.submission], batch_id=batch))
        self._accept(one, ends=_REFUSED)
        self._told.sent[one.id] = one._replace(batch=batch)

    def _one(self, kind: JobKind, job: UUID, lane: Lane, *, key: str | None = None) -> Sent:
        deadline = None
        if kind.words == "expires":
            deadline = self._actor.process.wall_ms() + self._chance.randrange(500, 4000)
        most = self._chance.randint(1, 5) if self._chance.random() < _OWN_LIMIT else None
        submission = Submission.of(
            kind.model,
            json.dumps(a_body(self._chance, kind)).encode(),
            id=job,
            lane=lane,
            deadline_ms=deadline,
            custom_id=str(job),
            max_attempts=most,
            idempotency_key=key,
        )
        may_give_up = most == 1 and kind.model == "flaky"
        return Sent(job, submission, kind.ends | {"dead"} if may_give_up else kind.ends)

    def _accept(self, one: Sent, batch: UUID | None = None, ends: frozenset[str] | None = None) -> None:
        self._told.accepted[one.id] = one.ends if ends is None else ends
        self._told.sent[one.id] = one._replace(batch=batch)
        self._told.tenant[one.id] = self._actor.tenant
        if batch is not None:
            self._told.batch_of[one.id] = batch
