"""Batches out of stored files: what is checked, what becomes a job, and what a kill in the middle leaves."""

import itertools
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest

from broker.core.file_lines import PAGE_LINES
from broker.core.file_stores import POSTGRES
from broker.core.files import PIECE_BYTES, Pieces
from broker.core.openai_batch import ERRORS, OUTPUT
from broker.core.principal import open_principal
from broker.core.records import Audited, FileBatch, FileBatchState, Final, Pick
from broker.errors import Conflict
from broker.ports import Clock, Ledger
from broker.roles.files import FileDrop
from broker.service.files import FileService
from broker.service.refusal import Refusal
from schemas.api import BatchStatus, State
from schemas.endpoints import CHAT
from schemas.files import File, FileList, Purpose
from schemas.job import Lane
from schemas.listing import JobFilter
from schemas.outcome import BadRequest, EngineFault, Failed, Outcome
from schemas.units import Ms
from tests.builders import a_success, an_entropy, an_id, now
from tests.contract.ledger.test_retries import carry_out, somebody
from tests.settling import a_verdict
from tests.system import CATALOG

HOUR = 3_600_000


@pytest.fixture(autouse=True)
async def _catalog(ledger: Ledger) -> None:
    await ledger.catalogs.apply(CATALOG.format(slots=4, options=""), "default", now())


async def stored(ledger: Ledger, content: bytes, *, expires_ms: int | None = None) -> File:
    file = File(
        id=an_id(), purpose=Purpose.BATCH, name="in.jsonl", bytes=0, created_ms=now(),
        expires_ms=None if expires_ms is None else Ms(expires_ms),
    )  # fmt: skip
    store = await ledger.stores.current()
    await ledger.files.begin(file, store, "default", "k")
    pieces, blobs = Pieces(), await ledger.stores.of(store)
    for number, piece in enumerate([*pieces.add(content), *pieces.rest()]):
        await blobs.put(file.id, number, piece)
    finished = await ledger.files.finish(file.id, pieces.bytes, now())
    assert finished is not None
    return finished


async def given(ledger: Ledger, file: UUID, **changes: Any) -> UUID:
    batch = FileBatch(
        **{
            "id": an_id(), "file": file, "lane": Lane.BULK, "endpoint": CHAT.path, "window": "24h",
            "deadline_ms": Ms(now() + 24 * HOUR), "skips_bad": False, **changes,
        }
    )  # fmt: skip
    assert await ledger.file_batches.create(batch, {}, "default", somebody()) is not None
    return batch.id


def a_line(number: int, **more: Any) -> bytes:
    body = {"model": "m", "messages": [{"role": "user", "content": f"{number}"}], **more.pop("body", {})}
    return json.dumps({"custom_id": f"c{number}", "method": "POST", "url": CHAT.path, "body": body, **more}).encode()


async def faults(ledger: Ledger, batch: UUID) -> dict[int, str]:
    return {bad.number: bad.code for bad in await ledger.file_batches.bad_lines(batch, after=-1, limit=100)}


async def names(ledger: Ledger, batch: UUID) -> list[str | None]:
    """The custom ids of its jobs, in the order of its lines."""
    wanted = JobFilter(batch=batch)
    page = await ledger.jobs.page("default", wanted, limit=1000, before=None)
    found = list(page.jobs)
    while page.next is not None:
        page = await ledger.jobs.page("default", wanted, limit=1000, before=page.next)
        found += page.jobs
    return [job.custom_id for job in sorted(found, key=lambda job: job.line or 0)]


async def state(ledger: Ledger, batch: UUID) -> FileBatchState:
    found = await ledger.file_batches.find(batch, "default")
    assert found is not None
    return found


async def test_every_line_becomes_one_job(ledger: Ledger) -> None:
    lines = 2 * PAGE_LINES + 500
    file = await stored(ledger, b"\n".join(map(a_line, range(lines))))
    batch = await given(ledger, file.id)

    await carry_out(ledger)

    found = await state(ledger, batch)
    assert (found.lines, found.bad, found.batch.jobs, found.batch.counts.admitted) == (lines, 0, lines, lines)
    assert found.expanded_ms is not None
    assert found.failed_ms is None
    assert await names(ledger, batch) == [f"c{n}" for n in range(lines)]
    assert await carry_out(ledger) == []


BAD = {
    2: (b"{", "not_json"),
    3: (b'{"custom_id": "x"}', "bad_line"),
    5: (a_line(1), "duplicate_custom_id"),
    7: (a_line(7, body={"model": "none"}), "unknown_model"),
    8: (a_line(8, body={"max_tokens": 10**7}), "max_tokens_out_of_range"),
    9: (a_line(9, url="/v1/embeddings", body={"input": "x"}), "mismatched_url"),
    PAGE_LINES + 1: (a_line(4), "duplicate_custom_id"),
    PAGE_LINES + 2: (a_line(0, body={"user": "x" * 3_000_000}), "line_too_large"),
}
"""Bad lines by their numbers. The others are called after theirs."""


def a_file_with_bad_lines() -> bytes:
    return b"\n".join(BAD[n][0] if n in BAD else a_line(n) for n in range(1, PAGE_LINES + 10))


async def test_one_bad_line_fails_the_batch_before_anything_runs(ledger: Ledger) -> None:
    file = await stored(ledger, a_file_with_bad_lines())
    batch = await given(ledger, file.id)

    await carry_out(ledger)

    found = await state(ledger, batch)
    assert found.failed_ms is not None
    assert (found.bad, found.batch.jobs, found.batch.status) == (len(BAD), 0, BatchStatus.COMPLETED)
    assert await faults(ledger, batch) == {number: code for number, (_, code) in BAD.items()}
    assert await names(ledger, batch) == []


async def test_bad_lines_are_left_out_if_that_is_asked(ledger: Ledger) -> None:
    file = await stored(ledger, a_file_with_bad_lines())
    batch = await given(ledger, file.id, skips_bad=True)

    await carry_out(ledger)

    found = await state(ledger, batch)
    good = [n for n in range(1, PAGE_LINES + 10) if n not in BAD]
    assert (found.failed_ms, found.batch.jobs) == (None, len(good))
    assert await names(ledger, batch) == [f"c{n}" for n in good]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"", "empty_file"),
        (b"\n \n", "empty_file"),
        ("{}".encode("utf-16"), "not_utf8"),
        (b"x" * 9_000_000, "line_too_large"),
    ],
    ids=["empty", "blank", "utf16", "one_line"],
)
async def test_a_file_without_a_line_that_runs_fails(ledger: Ledger, content: bytes, code: str) -> None:
    file = await stored(ledger, content)
    batch = await given(ledger, file.id, skips_bad=True)

    await carry_out(ledger)

    assert (await state(ledger, batch)).failed_ms is not None
    assert list((await faults(ledger, batch)).values()) == [code]


async def test_a_batch_that_is_cancelled_before_it_is_checked_makes_no_jobs(ledger: Ledger) -> None:
    file = await stored(ledger, a_line(1))
    batch = await given(ledger, file.id)
    await ledger.cancels.cancel_batch(batch, "default", somebody())

    await carry_out(ledger)

    assert (await state(ledger, batch)).batch.status is BatchStatus.CANCELLED
    assert await names(ledger, batch) == []


async def test_a_batch_that_is_cancelled_while_it_is_checked_counts_the_bad_lines_that_it_names(
    ledger: Ledger,
) -> None:
    file = await stored(ledger, a_file_with_bad_lines())
    batch = await given(ledger, file.id, skips_bad=True)
    assert await ledger.instructions.carry_on(now()) is not None

    await ledger.cancels.cancel_batch(batch, "default", somebody())
    await carry_out(ledger)

    found, named = await state(ledger, batch), await faults(ledger, batch)
    assert (found.bad, found.lines > found.bad) == (len(named), True)
    assert sum(await ledger.file_batches.sizes(found)) > 0


async def test_another_tenants_file_is_not_there(ledger: Ledger) -> None:
    file = await stored(ledger, a_line(1))
    by = Audited(an_id(), now(), "other", "k")
    batch = FileBatch(
        id=an_id(), file=file.id, lane=Lane.BULK, endpoint=CHAT.path, window="24h",
        deadline_ms=Ms(now() + HOUR), skips_bad=False,
    )  # fmt: skip

    assert await ledger.file_batches.create(batch, {}, "other", by) is None
    assert await ledger.files.find(file.id, "other", now()) is None
    assert (await ledger.files.page("other", FileList(), now())).files == ()
    assert not await ledger.files.delete(file.id, "other", now())
    assert await ledger.files.expire(file.id, "other", HOUR) is None


async def test_another_tenants_output_is_not_there(ledger: Ledger) -> None:
    batch = await given(ledger, (await stored(ledger, a_line(1))).id, deadline_ms=Ms(now() - 1))
    await carry_out(ledger)

    assert await ledger.file_batches.find(batch, "other") is None
    assert not await ledger.file_batches.delete_file(batch, "other", OUTPUT, now())
    assert await ledger.file_batches.delete_file(batch, "default", OUTPUT, now())


async def test_a_file_that_is_too_large_is_refused_while_it_comes(ledger: Ledger) -> None:
    came = 0

    async def content() -> AsyncIterator[bytes]:
        nonlocal came
        while True:
            came += 1
            yield b"x" * PIECE_BYTES

    service = replace(files_of(ledger), most_bytes=2 * PIECE_BYTES)
    with pytest.raises(Refusal) as refused:
        await service.store(open_principal("default", "k"), "in.jsonl", content())

    assert (refused.value.problem.code, came) == ("too_large", 3)
    assert (await ledger.files.page("default", FileList(), now())).files == ()


async def test_the_id_of_a_batch_is_taken_once(ledger: Ledger) -> None:
    file = await stored(ledger, a_line(1))
    batch = await given(ledger, file.id)

    with pytest.raises(Conflict):
        await given(ledger, file.id, id=batch)


async def test_files_are_listed_until_they_are_deleted_or_expire(ledger: Ledger) -> None:
    kept, gone, old = [
        await stored(ledger, b"x" * n, expires_ms=at) for n, at in ((1, None), (2, None), (3, now() + HOUR))
    ]
    await ledger.files.delete(gone.id, "default", now())

    later = Ms(now() + 2 * HOUR)
    assert [one.id for one in (await ledger.files.page("default", FileList(), now())).files] == [old.id, kept.id]
    assert [one.id for one in (await ledger.files.page("default", FileList(), later)).files] == [kept.id]
    assert await ledger.files.find(old.id, "default", later) is None
    assert not await ledger.files.delete(old.id, "default", later)
    assert await ledger.files.find(old.id, "default", now()) == old
    await FileDrop(ledger=ledger.files, stores=ledger.stores, clock=lambda: later).drop()
    blobs = await ledger.stores.of(POSTGRES)
    assert [await blobs.get(one.id, 0) for one in (kept, gone, old)] == [b"x", None, None]


async def test_an_upload_that_was_cut_off_is_dropped_after_a_day(ledger: Ledger) -> None:
    file = File(id=an_id(), purpose=Purpose.BATCH, name="in.jsonl", bytes=0, created_ms=now())
    await ledger.files.begin(file, POSTGRES, "default", "k")
    blobs = await ledger.stores.of(POSTGRES)
    await blobs.put(file.id, 0, b"x")

    for hours, left in ((23, b"x"), (25, None)):
        later = Ms(now() + hours * HOUR)
        await FileDrop(ledger=ledger.files, stores=ledger.stores, clock=lambda at=later: at).drop()  # type: ignore[misc]
        assert await blobs.get(file.id, 0) == left
    assert await ledger.files.finish(file.id, 1, now()) is None


async def test_a_file_that_was_dropped_is_dropped_again_a_day_later_and_forgotten(ledger: Ledger) -> None:
    await ledger.files.delete((file := await stored(ledger, b"x")).id, "default", now())
    blobs = await ledger.stores.of(POSTGRES)

    for hours, is_listed in ((1, True), (24, False), (26, True), (52, False)):
        await blobs.put(file.id, 0, b"late")
        at = Ms(now() + hours * HOUR)
        assert await ledger.files.to_drop(at) == ({POSTGRES: [file.id]} if is_listed else {})
        await FileDrop(ledger=ledger.files, stores=ledger.stores, clock=lambda at=at: at).drop()  # type: ignore[misc]
        await ledger.files.dropped([file.id], at)  # another broker has done so, too
        assert await ledger.files.store_of(file.id) is None
        assert await blobs.get(file.id, 0) == (None if is_listed else b"late")


async def test_a_file_expires_as_was_said_from_the_moment_that_it_is_whole(ledger: Ledger) -> None:
    begun = [File(id=an_id(), purpose=Purpose.BATCH, name="a", bytes=0, created_ms=now()) for _ in range(2)]
    for file in begun:
        await ledger.files.begin(file, POSTGRES, "default", "k")

    done = [
        await ledger.files.finish(file.id, 0, now(), kept_ms=kept)
        for file, kept in zip(begun, (None, HOUR), strict=True)
    ]

    assert [file and file.expires_ms for file in done] == [None, begun[1].created_ms + HOUR]


async def test_an_upload_is_found_by_its_content_until_it_expires_and_the_whole_one_first(ledger: Ledger) -> None:
    digest = bytes(32)

    async def begun(**more: Any) -> UUID:
        file = File(id=an_id(), purpose=Purpose.BATCH, name="a", bytes=0, created_ms=now(), **more)
        await ledger.files.begin(file, POSTGRES, "default", "k", sha256=digest)
        return file.id

    async def found(at: Ms) -> UUID | None:
        upload = await ledger.files.of_content(digest, "default", at)
        return None if upload is None else upload.file.id

    first, brief = await begun(), await begun(expires_ms=Ms(now() + HOUR))
    seen = [await found(now()), await found(Ms(now() + 2 * HOUR))]
    await ledger.files.finish(first, 0, now())
    seen.append(await found(now()))
    await ledger.files.delete(first, "default", now())
    seen.append(await found(now()))

    assert seen == [brief, first, first, brief]


async def test_what_a_batch_still_reads_is_not_dropped(ledger: Ledger) -> None:
    file = await stored(ledger, a_line(1))
    batch = await given(ledger, file.id)
    await ledger.files.delete(file.id, "default", now())

    assert await ledger.files.to_drop(now()) == {}
    await carry_out(ledger)
    assert await ledger.files.to_drop(now()) == {POSTGRES: [file.id]}
    assert await names(ledger, batch) == ["c1"]


async def test_the_sizes_of_a_batchs_files_are_those_of_their_lines(ledger: Ledger) -> None:
    """Names with what JSON escapes, answers with line breaks, and every way to end."""
    names = ["plain", 'quoted " \\', "tab\t\n\r\b\f", "\x01\x1f\x7f", "é 💡 \u2028", "/"]
    lines = [json.loads(a_line(n)) | {"custom_id": f"{name}{n}"} for n, name in enumerate(names * 3)]
    content = b"\n".join([*(json.dumps(line, ensure_ascii=False).encode() for line in lines), b"{"])
    batch = await given(ledger, (await stored(ledger, content)).id, skips_bad=True)
    places = [place for page in await carry_out(ledger) for place in page.waiting]
    failures = (BadRequest("no"), EngineFault("no"))
    outcomes = [a_success(body=body) for body in (b'{"a": "\xc3\xa9"}', b'{\n  "a": 1\r\n}')]
    ends: list[tuple[Outcome, Final | None]] = [
        *((one, None) for one in outcomes),
        *((Failed(one), Final(State.FAILED, None, one)) for one in failures),
    ]
    ends.append((Failed(failures[1]), Final(State.EXPIRED, None, failures[1])))
    term = await ledger.leadership.lead("me", lease_ms=60_000)
    assert term is not None
    picks = [Pick(flow, place, "d") for flow, place in places]
    attempts = await ledger.attempts.dispatch(picks, term=term, controls=1, now=now())
    verdicts = [
        a_verdict(attempt, outcome, transition=transition)
        for attempt, (outcome, transition) in zip(attempts, itertools.cycle(ends), strict=False)
    ]
    await ledger.settlement.settle(verdicts, now=now())

    service = files_of(ledger)
    found = await state(ledger, batch)
    read = {which: [part async for part in service.lines(found, which)] for which in (OUTPUT, ERRORS)}

    assert {which: await service.size(found, which) for which in read} == {
        which: len(b"".join(parts)) for which, parts in read.items()
    }
    written = [json.loads(line) for parts in read.values() for line in b"".join(parts).splitlines()]
    assert sorted(line["custom_id"] or "" for line in written) == sorted(["", *(line["custom_id"] for line in lines)])


def files_of(ledger: Ledger, clock: Clock = now) -> FileService:
    return FileService(
        ledger=ledger.files, stores=ledger.stores, file_batches=ledger.file_batches,
        clock=clock, entropy=an_entropy,
    )  # fmt: skip


async def test_a_batchs_files_are_read_until_they_expire(ledger: Ledger) -> None:
    file = await stored(ledger, a_line(1))
    batch = await given(ledger, file.id, deadline_ms=Ms(now() - 1), files_last_ms=HOUR)
    await carry_out(ledger)
    completed_ms = (await state(ledger, batch)).batch.completed_ms
    assert completed_ms is not None

    principal = open_principal("default", "k")
    for which in (OUTPUT, ERRORS):
        before = files_of(ledger, lambda: Ms(completed_ms + HOUR - 1))
        assert (await before.batch(principal, batch, which)).batch.id == batch
        with pytest.raises(Refusal):
            await files_of(ledger, lambda: Ms(completed_ms + HOUR)).batch(principal, batch, which)


async def test_the_model_of_a_batch_is_that_of_all_its_lines(ledger: Ledger) -> None:
    lines = list(map(a_line, range(PAGE_LINES + 1)))
    one = await given(ledger, (await stored(ledger, b"\n".join(lines))).id)
    lines[-1] = a_line(len(lines), body={"model": "m@d"})
    several = await given(ledger, (await stored(ledger, b"\n".join(lines))).id)

    await carry_out(ledger)

    assert [(await state(ledger, batch)).model for batch in (one, several)] == ["m", None]


async def test_a_line_with_a_nul_is_said_like_any_other(ledger: Ledger) -> None:
    line = json.dumps({"custom_id": "a\0b", "method": "POST", "url": CHAT.path, "body": {"model": "m"}}).encode()
    batch = await given(ledger, (await stored(ledger, line)).id)

    await carry_out(ledger)

    assert await faults(ledger, batch) == {1: "nul_character"}
