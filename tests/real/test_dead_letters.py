"""Dead letters: what a person sees of them, and what becomes of those that are requeued or dropped."""

import asyncio
import json
from collections.abc import Sequence
from functools import partial

import asyncpg
import msgspec
import pytest

from broker.bus.dead_letters import publish_again
from broker.bus.notices import announce_instruction
from broker.core.principal import Principal
from broker.core.records import DeadLetter
from broker.errors import Unavailable
from broker.ports import Ledger
from broker.service import DeadLetterService
from schemas import subjects
from schemas.accounts import Role
from schemas.dead import DeadCause, DeadDrop, DeadEach, DeadFilter, DeadList, DeadRequeue, DeadWhat
from schemas.jetstream.client import NatsClient as Nats
from schemas.jetstream.lookup import last_stored
from tests.builders import a_dead_letter, an_entropy, now
from tests.contract.ledger.test_dead_letters import OPERATOR, a_dead_job, a_submission, recorded
from tests.declared import declare_streams

pytestmark = pytest.mark.real


@pytest.fixture
async def service(nc: Nats, ledger: Ledger) -> DeadLetterService:
    await declare_streams(nc)
    return DeadLetterService(
        ledger=ledger.dead_letters,
        publish=partial(publish_again, nc),
        tell=partial(announce_instruction, nc),
        clock=now,
        entropy=an_entropy,
    )


async def stored(nc: Nats, subject: str) -> list[dict[str, object]]:
    """The jobs of the newest message of a subject of SUBMIT."""
    jobs: list[dict[str, object]] = msgspec.msgpack.decode((await last_stored(nc, subjects.SUBMIT, subject))[1])
    return jobs


async def how_many_stored(nc: Nats) -> int:
    return (await nc.jetstream().stream_info(subjects.SUBMIT)).state.messages


async def audits(url: str) -> list[tuple[str, str, str]]:
    connection = await asyncpg.connect(url)
    rows = await connection.fetch("select tenant, action, after::text as after from infermq.audit order by id")
    await connection.close()
    return [(row["tenant"], row["action"], row["after"]) for row in rows]


# what becomes of them


async def test_a_requeued_message_is_in_its_stream_again_once(
    service: DeadLetterService, nc: Nats, ledger: Ledger, ledger_url: str
) -> None:
    letter = a_submission({"custom_id": "a"}, {"max_attempts": 99, "custom_id": "b", "id": "x"})
    [message] = await recorded(ledger, letter)

    done = await service.requeue(OPERATOR, DeadRequeue(ids=(message,)))
    again = await service.requeue(OPERATOR, DeadRequeue(ids=(message,)))

    assert (done.messages, done.left) == (1, 0)
    assert (again.messages, again.left, again.skipped[0].id) == (0, 1, message)
    assert [job["custom_id"] for job in await stored(nc, letter.subject)] == ["b"]
    assert await how_many_stored(nc) == 1
    assert (await service.groups(OPERATOR, DeadList())).groups == ()
    assert await audits(ledger_url) == [("ops", "requeue dead letters", '{"messages": 1}')]


async def test_a_message_is_requeued_with_the_key_of_who_does_it(
    service: DeadLetterService, nc: Nats, ledger: Ledger
) -> None:
    letter = a_submission({"custom_id": "a", "id": "x"})
    source = subjects.parse_submit(letter.subject)
    mine = Principal(tenant=source.tenant, key="another", role=Role.PRODUCER)
    [message] = await recorded(ledger, letter)

    await service.requeue(mine, DeadRequeue(ids=(message,)))

    subject = subjects.submit(subjects.Source(source.lane, source.model, source.tenant, "another"))
    assert len(await stored(nc, subject)) == 1
    assert await how_many_stored(nc) == 1


async def test_two_who_requeue_the_same_at_once_send_it_once(
    service: DeadLetterService, nc: Nats, ledger: Ledger
) -> None:
    await recorded(ledger, *(a_submission({"id": n}) for n in range(20)))
    every = DeadRequeue(filter=DeadFilter())

    done = await asyncio.gather(*[service.requeue(OPERATOR, every) for _ in range(4)])

    assert sum(one.messages for one in done) == 20
    assert await how_many_stored(nc) == 20


async def test_a_message_that_no_stream_takes_stays_a_dead_letter(
    ledger: Ledger, nc: Nats, service: DeadLetterService, ledger_url: str
) -> None:
    [message] = await recorded(ledger, a_submission({"id": 1}))
    await nc.jetstream().delete_stream(subjects.SUBMIT)

    with pytest.raises(Unavailable, match="did not take it"):
        await service.requeue(OPERATOR, DeadRequeue(ids=(message,)))
    await declare_streams(nc)
    done = await service.requeue(OPERATOR, DeadRequeue(ids=(message,)))

    assert done.messages == 1
    assert len(await audits(ledger_url)) == 1


async def test_one_that_was_published_before_its_broker_died_is_stored_once(
    service: DeadLetterService, nc: Nats, ledger: Ledger
) -> None:
    letter = a_submission({"id": 1})
    [message] = await recorded(ledger, letter)

    async def publish_and_die(held: Sequence[DeadLetter]) -> list[DeadLetter]:
        await publish_again(nc, held)
        raise asyncio.CancelledError

    dying = DeadLetterService(
        ledger=ledger.dead_letters,
        publish=publish_and_die,
        tell=partial(announce_instruction, nc),
        clock=now,
        entropy=an_entropy,
    )
    with pytest.raises(asyncio.CancelledError):
        await dying.requeue(OPERATOR, DeadRequeue(ids=(message,)))
    assert (await service.requeue(OPERATOR, DeadRequeue(ids=(message,)))).messages == 1
    assert await how_many_stored(nc) == 1


async def test_an_edited_submission_is_admitted_as_edited(
    service: DeadLetterService, nc: Nats, ledger: Ledger
) -> None:
    letter = a_submission({"id": "x"}, model="old")
    [message] = await recorded(ledger, letter)
    ask = DeadRequeue(ids=(message,), model="new", max_tokens=5, patch='{"temperature":0}')

    await service.requeue(OPERATOR, ask)

    subject = subjects.submit(subjects.parse_submit(letter.subject)).replace(".old.", ".new.")
    [job] = await stored(nc, subject)
    body = job["body"]
    assert isinstance(body, bytes)
    fields = json.loads(body)
    assert (fields["temperature"], fields["max_tokens"], len(fields["messages"])) == (0, 5, 1)
    assert "id" not in job


async def test_a_dry_run_changes_nothing(
    service: DeadLetterService, nc: Nats, ledger: Ledger, ledger_url: str
) -> None:
    await recorded(ledger, a_submission({"id": 1}), a_dead_letter(cause=DeadCause.TERMINATED, stream=subjects.RUN))
    await a_dead_job(ledger)

    requeue = await service.requeue(OPERATOR, DeadRequeue(filter=DeadFilter(what=DeadWhat.MESSAGE), dry_run=True))
    drop = await service.drop(OPERATOR, DeadDrop(filter=DeadFilter(), dry_run=True))

    assert (requeue.messages, requeue.left, requeue.dry_run) == (1, 1, True)
    assert (drop.messages, drop.jobs, drop.dry_run) == (2, 1, True)
    assert len((await service.each(OPERATOR, DeadEach())).letters) == 3
    assert await how_many_stored(nc) == 0
    assert await audits(ledger_url) == []
