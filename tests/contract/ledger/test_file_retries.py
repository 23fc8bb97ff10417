"""Retries of what failed in a batch of a file: its files then have each line once, as it ended at last."""

import json
from collections import Counter
from typing import Any
from uuid import UUID

import pytest

from broker.core.file_stores import POSTGRES
from broker.core.openai_batch import ERRORS, OUTPUT, batch_id, shown_batch
from broker.core.records import FileBatchState
from broker.ports import Ledger
from schemas.api import State
from schemas.job import Lane
from schemas.repeats import BatchRetry
from tests.builders import an_id, now
from tests.contract.ledger.test_file_batches import a_line, files_of, given, state, stored
from tests.contract.ledger.test_retries import carry_out, end, give, somebody
from tests.system import CATALOG

S, F, E, D, C = State.SUCCEEDED, State.FAILED, State.EXPIRED, State.DEAD, State.CANCELLED


@pytest.fixture(autouse=True)
async def _catalog(ledger: Ledger) -> None:
    await ledger.catalogs.apply(CATALOG.format(slots=4, options=""), "default", now())


async def ended(ledger: Ledger, *states: State, **changes: Any) -> UUID:
    """A batch whose good lines have ended so, with a bad line after them."""
    content = b"\n".join([*(a_line(n) for n in range(1, len(states) + 1)), b"{"])
    batch = await given(ledger, (await stored(ledger, content)).id, skips_bad=True, **changes)
    await run(ledger, *states)
    return batch


async def run(ledger: Ledger, *states: State) -> None:
    """Carry out what was asked for, and let the jobs that it makes end so."""
    places = [place for page in await carry_out(ledger) for place in page.waiting]
    await end(ledger, places, *states)


async def read(ledger: Ledger, found: FileBatchState) -> dict[str, bytes]:
    """Its output and its errors, which have the sizes that are said."""
    files = files_of(ledger)
    content = {which: b"".join([part async for part in files.lines(found, which)]) for which in (OUTPUT, ERRORS)}
    assert {which: await files.size(found, which) for which in content} == {
        which: len(part) for which, part in content.items()
    }
    return content


def names(content: bytes) -> list[str | None]:
    return [json.loads(line)["custom_id"] for line in content.splitlines()]


async def test_each_line_is_once_in_the_files_as_it_ended_at_last(ledger: Ledger) -> None:
    batch = await ended(ledger, S, F, E, D, F, S)
    before = await read(ledger, await state(ledger, batch))

    first = await give(ledger, batch)
    await run(ledger, S, F, S, F)
    once = await state(ledger, batch)
    second = await give(ledger, first.id)
    await run(ledger, F, S)
    twice = await state(ledger, batch)

    assert [names(before[which]) for which in (OUTPUT, ERRORS)] == [["c1", "c6"], [None, "c2", "c3", "c4", "c5"]]
    merged = await read(ledger, once)
    assert [names(merged[which]) for which in (OUTPUT, ERRORS)] == [["c1", "c2", "c4", "c6"], [None, "c3", "c5"]]
    merged = await read(ledger, twice)
    assert [names(merged[which]) for which in (OUTPUT, ERRORS)] == [["c1", "c2", "c4", "c5", "c6"], [None, "c3"]]
    assert merged[OUTPUT].count(b'"status_code":200') == 5
    view = shown_batch(twice, [])
    assert view["request_counts"] == {"total": 7, "completed": 5, "failed": 2}
    assert view["infermq"]["retries"] == [batch_id(first.id), batch_id(second.id)]
    assert (await read(ledger, once))[OUTPUT] != merged[OUTPUT], "what was read before does not change"


async def test_a_retry_is_a_batch_of_the_same_file_with_files_of_its_own(ledger: Ledger) -> None:
    batch = await ended(ledger, S, F, E, webhook=None, lane=Lane.STANDARD)
    ask = BatchRetry(id=an_id(), batch=batch, deadline_in_ms=3_600_000)
    assert await ledger.retries.give(ask, "default", somebody(), window="1h") is not None

    begun = shown_batch(await state(ledger, ask.id), [])
    await run(ledger, S, F)

    own = await state(ledger, ask.id)
    content = await read(ledger, own)
    assert [names(content[which]) for which in (OUTPUT, ERRORS)] == [["c2"], ["c3"]]
    view, first = shown_batch(own, []), await state(ledger, batch)
    assert begun["status"] == "in_progress"
    assert (view["status"], view["completion_window"], view["input_file_id"]) == (
        "completed",
        "1h",
        shown_batch(first, [])["input_file_id"],
    )
    assert view["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    assert view["infermq"]["retry_of"] == batch_id(batch)
    assert view["infermq"]["lane"] == "standard"
    assert [one.batch.id for one in await ledger.file_batches.page("default", limit=5, before=None)] == [
        ask.id,
        batch,
    ]


async def test_until_a_retry_is_over_the_files_stay_as_they_were(ledger: Ledger) -> None:
    batch = await ended(ledger, S, F, E, F)
    before = await read(ledger, await state(ledger, batch))
    await give(ledger, batch)
    places = [place for page in await carry_out(ledger) for place in page.waiting]
    await end(ledger, places[:2], S, S)

    during = await state(ledger, batch)

    assert await read(ledger, during) == before
    view = shown_batch(during, [])
    assert (view["status"], view["output_file_id"], view["completed_at"]) == ("in_progress", None, None)
    assert view["request_counts"] == {"total": 5, "completed": 3, "failed": 1}
    await end(ledger, places[2:], S)
    after = await state(ledger, batch)
    assert await read(ledger, during) == before, "who began to read before goes on so"
    assert Counter(names((await read(ledger, after))[OUTPUT])) == Counter(f"c{n}" for n in range(1, 5))
    assert shown_batch(after, [])["status"] == "completed"


@pytest.mark.parametrize(("ends", "status"), [((S, S), "completed"), ((S, E), "expired"), ((S, F), "completed")])
async def test_a_batch_that_expired_is_what_is_left_of_it(
    ledger: Ledger, ends: tuple[State, ...], status: str
) -> None:
    batch = await ended(ledger, S, E, E)
    assert shown_batch(await state(ledger, batch), [])["status"] == "expired"

    await give(ledger, batch)
    await run(ledger, *ends)

    view = shown_batch(await state(ledger, batch), [])
    assert view["status"] == status
    assert view["request_counts"]["completed"] == 1 + ends.count(S)


async def test_the_end_of_a_retry_is_told_to_whom_the_end_of_the_first_was(ledger: Ledger) -> None:
    webhook = an_id()
    batch = await ended(ledger, F, webhook=webhook)

    retry = await give(ledger, batch)

    found = await state(ledger, retry.id)
    assert found.batch.webhook == webhook


async def test_a_retry_keeps_no_file(ledger: Ledger) -> None:
    batch = await ended(ledger, F)
    await ledger.files.delete((await state(ledger, batch)).file, "default", now())

    await give(ledger, batch)

    assert await ledger.files.to_drop(now()) == {POSTGRES: [(await state(ledger, batch)).file]}
