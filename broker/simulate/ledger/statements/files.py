"""Files, and batches whose jobs are the lines of one."""

from collections.abc import Sequence
from uuid import UUID

import msgspec

from broker.simulate.ledger.statements.named import Rows, statement
from broker.simulate.ledger.statements.reading import Columns, columns_of, least
from broker.simulate.ledger.statements.results import ended
from broker.simulate.ledger.stored import BadLineRow, FileBatchRow, FileRow, JobRow, LineNameRow, ResultRow
from broker.simulate.ledger.tables import Tables

_NULL_BYTES = 4
"""The length of `null`."""
_ANY = 1 << 128


def _is_there(row: FileRow, now: int) -> bool:
    return row.stored_ms is not None and row.deleted_ms is None and (row.expires_ms is None or row.expires_ms > now)


@statement
def begin_file(
    t: Tables,
    file: UUID,
    store: str,
    tenant: str,
    key: str,
    purpose: str,
    name: str,
    created_ms: int,
    expires_ms: int | None,
    sha256: bytes | None,
) -> Rows:
    row = FileRow(
        id=file,
        store=store,
        tenant=tenant,
        key=key,
        purpose=purpose,
        name=name,
        created_ms=created_ms,
        expires_ms=expires_ms,
        sha256=sha256,
    )
    t.files.insert(row)
    return [row]


@statement
def file_of_content(t: Tables, tenant: str, sha256: bytes, now: int, unfinished_after: int) -> Rows:
    rows = [row for row in map(t.files.__getitem__, t.files_by_tenant.newest(tenant)) if row.sha256 == sha256]
    rows = [row for row in rows if row.deleted_ms is None and (row.expires_ms is None or row.expires_ms > now)]
    begun = [row for row in rows if row.stored_ms is None and row.created_ms >= unfinished_after]
    return [*(row for row in rows if row.stored_ms is not None), *begun][:1]


@statement
def file_grew(t: Tables, file: UUID, size: int) -> Rows:
    row = t.files.get(file)
    if row is not None and row.stored_ms is None and row.deleted_ms is None:
        t.files.change(file, bytes=max(row.bytes, size))
    return []


@statement
def discard_file(t: Tables, file: UUID, now: int) -> Rows:
    row = t.files.get(file)
    if row is not None and row.stored_ms is None and row.deleted_ms is None:
        t.files.change(file, deleted_ms=now)
    return []


@statement
def finish_file(t: Tables, file: UUID, size: int, now: int, kept_ms: int | None) -> Rows:
    row = t.files.get(file)
    if row is None or row.stored_ms is not None or row.deleted_ms is not None:
        return []
    expires_ms = row.expires_ms if kept_ms is None else row.created_ms + kept_ms
    return [t.files.change(file, bytes=size, stored_ms=now, expires_ms=expires_ms)]


@statement
def file(t: Tables, file: UUID, tenant: str, now: int) -> Rows:
    row = t.files.get(file)
    return [row] if row is not None and row.tenant == tenant and _is_there(row, now) else []


@statement
def files(
    t: Tables,
    tenant: str,
    now: int,
    purpose: str | None,
    after: UUID | None,
    oldest_first: bool,
    limit: int,
) -> Rows:
    if after is None:
        ids = t.files_by_tenant.keys(tenant) if oldest_first else t.files_by_tenant.newest(tenant)
    elif oldest_first:
        ids = t.files_by_tenant.after(tenant, (after.int,))
    else:
        ids = t.files_by_tenant.before(tenant, (after.int,))
    rows = [row for row in map(t.files.__getitem__, ids) if _is_there(row, now)]
    return [row for row in rows if purpose is None or row.purpose == purpose][:limit]


@statement
def expire_file(t: Tables, file: UUID, tenant: str, in_ms: int) -> Rows:
    row = t.files.get(file)
    if row is None or row.tenant != tenant or row.stored_ms is None or row.deleted_ms is not None:
        return []
    return [t.files.change(file, expires_ms=row.created_ms + in_ms)]


@statement
def delete_file(t: Tables, file: UUID, tenant: str, now: int) -> Rows:
    row = t.files.get(file)
    if row is None or row.tenant != tenant or not _is_there(row, now):
        return []
    return [t.files.change(file, deleted_ms=now)]


@statement
def stored_in(t: Tables, file: UUID) -> Rows:
    row = t.files.get(file)
    return [] if row is None or row.dropped_ms is not None else [row]


@statement
def files_to_drop(t: Tables, now: int, unfinished_before: int, limit: int, away: Sequence[str]) -> Rows:
    read = {row.file for row in t.file_batches if row.failed_ms is None and row.expanded_ms is None}
    over = [row for row in t.files if _is_over(row, now, unfinished_before) and row.id not in read]
    over = [row for row in over if row.store not in away]
    return sorted(over, key=lambda row: row.id.int)[:limit]


def _is_over(row: FileRow, now: int, unfinished_before: int) -> bool:
    if row.dropped_ms is not None:
        return row.dropped_ms < unfinished_before
    end_ms = least(row.expires_ms, row.deleted_ms)
    return (end_ms is not None and end_ms <= now) or (row.stored_ms is None and row.created_ms < unfinished_before)


@statement
def drop_files(t: Tables, files: Sequence[UUID], now: int, forgotten_before: int) -> Rows:
    for row in [t.files[id_] for id_ in files if id_ in t.files]:
        if row.dropped_ms is None:
            t.files.change(row.id, dropped_ms=now, deleted_ms=now if row.deleted_ms is None else row.deleted_ms)
        elif row.dropped_ms < forgotten_before:
            t.files.remove(row.id)
    return []


@statement
def create_file_batch(
    t: Tables, batch: UUID, file: UUID, endpoint: str, window: str, skips_bad: bool, files_last_ms: int | None
) -> Rows:
    row = FileBatchRow(
        batch=batch,
        file=file,
        endpoint=endpoint,
        window=window,
        skips_bad=skips_bad,
        files_last_ms=files_last_ms,
    )
    t.file_batches.insert(row)
    return [row]


@statement
def delete_batch_file(t: Tables, batch: UUID, tenant: str, is_output: bool, now: int) -> Rows:
    row = t.batches.get(batch)
    if row is None or row.tenant != tenant or row.completed_ms is None or batch not in t.file_batches:
        return []
    return [t.file_batches.change(batch, **{"output_deleted_ms" if is_output else "errors_deleted_ms": now})]


@statement
def file_batches(t: Tables, tenant: str, before: UUID | None, batch: UUID | None, limit: int) -> Rows:
    found: list[Columns] = []
    for id_ in t.batches_by_tenant.newest(tenant):
        of_file = t.file_batches.get(id_)
        if of_file is None or (before is not None and id_.int >= before.int) or (batch is not None and id_ != batch):
            continue
        found.append(columns_of(of_file) | columns_of(t.batches[id_]))
        if len(found) == limit:
            break
    return found


@statement
def bad_lines(t: Tables, batch: UUID, after: int, limit: int) -> Rows:
    return [t.bad_lines[key] for key in t.bad_lines_by_batch.after(batch, (after,), limit=limit)]


@statement
def bad_lines_of(t: Tables, batch: UUID, first: int, last: int) -> Rows:
    rows = [t.bad_lines[key] for key in t.bad_lines_by_batch.after(batch, (first - 1,))]
    return [row for row in rows if row.line <= last]


@statement
def record_bad_lines(t: Tables, batch: UUID, lines: Sequence[int], faults: Sequence[str]) -> Rows:
    for line, fault in zip(lines, faults, strict=True):
        t.bad_lines.add(BadLineRow(batch=batch, line=line, fault=fault))
    return []


@statement
def name_lines(t: Tables, batch: UUID, names: Sequence[bytes], lines: Sequence[int]) -> Rows:
    rows = [LineNameRow(batch=batch, name=name, line=line) for name, line in zip(names, lines, strict=True)]
    return [row for row in rows if t.line_names.add(row)]


@statement
def forget_line_names(t: Tables, batch: UUID) -> Rows:
    for key in t.line_names_by_batch.keys(batch):
        t.line_names.remove(key)
    return []


@statement
def lines_checked(t: Tables, batch: UUID, lines: int, bad: int, now: int, model: str | None) -> Rows:
    row = t.file_batches.get(batch)
    if row is None:
        return []
    runs = lines > bad and (bad == 0 or row.skips_bad)
    failed_ms = None if runs else now
    t.file_batches.change(batch, lines=lines, bad=bad, checked_ms=now, failed_ms=failed_ms, model=model)
    return [{"runs": runs}]


@statement
def lines_expanded(t: Tables, batch: UUID, now: int, lines: int, bad: int) -> Rows:
    row = t.file_batches.get(batch)
    if row is None or row.expanded_ms is not None:
        return []
    counts = {"lines": lines, "bad": bad} if row.checked_ms is None else {}
    return [t.file_batches.change(batch, expanded_ms=now, **counts)]


@statement
def kept_sizes(t: Tables, batch: UUID, retries: int) -> Rows:
    row = t.file_batches.get(batch)
    return [] if row is None or row.sized_retries != retries else [row]


@statement
def keep_sizes(t: Tables, batch: UUID, output: int, errors: int, retries: int) -> Rows:
    row = t.batches.get(batch)
    if row is None or row.completed_ms is None or batch not in t.file_batches:
        return []
    return [t.file_batches.change(batch, output_bytes=output, error_bytes=errors, sized_retries=retries)]


@statement
def retries_of_all(t: Tables, batches: Sequence[UUID]) -> Rows:
    return [t.batches[key] for batch in sorted(batches) for key in t.batches_by_root.keys(batch)]


@statement
def create_file_retry(t: Tables, retry: UUID, batch: UUID, window: str | None, model: str | None, now: int) -> Rows:
    first = t.file_batches.get(batch)
    if first is None:
        return []
    row = FileBatchRow(
        batch=retry,
        file=first.file,
        endpoint=first.endpoint,
        window=window or first.window,
        skips_bad=first.skips_bad,
        checked_ms=now,
        expanded_ms=now,
        model=model or first.model,
        files_last_ms=first.files_last_ms,
    )
    t.file_batches.insert(row)
    return [row]


@statement
def lines_retried(t: Tables, batch: UUID, lines: int) -> Rows:
    row = t.file_batches.get(batch)
    return [] if row is None else [t.file_batches.change(batch, lines=row.lines + lines)]


@statement
def other_merged_results(t: Tables, batch: UUID, read_to: int, limit: int, retries: Sequence[UUID]) -> Rows:
    others = {
        result.ordinal
        for result, job in _results(t, batch, read_to)
        if job.state != "succeeded" or _has_line_break(result.body)
    }
    every = ended(t, batch, read_to, retries=retries)
    return [row for row in every if row["ordinal"] in others][:limit]


@statement
def success_bytes(t: Tables, batch: UUID, beside: int) -> Rows:
    return [
        {
            "bytes": sum(
                beside + _name_bytes(job.custom_id) + len(result.body or b"")
                for result, job in _results(t, batch)
                if job.state == "succeeded" and not _has_line_break(result.body)
            )
        }
    ]


@statement
def other_results(t: Tables, batch: UUID, read_to: int, limit: int) -> Rows:
    others = [
        columns_of(job) | {"ordinal": result.ordinal, "body": result.body}
        for result, job in _results(t, batch, read_to)
        if job.state != "succeeded" or _has_line_break(result.body)
    ]
    return others[:limit]


def _results(t: Tables, batch: UUID, read_to: int = 0) -> list[tuple[ResultRow, JobRow]]:
    ids = t.results_by_batch.after(batch, (read_to, _ANY))
    return [(t.results[id_], job) for id_ in ids if (job := t.jobs.get(id_)) is not None]


def _name_bytes(custom_id: str | None) -> int:
    return _NULL_BYTES if custom_id is None else len(msgspec.json.encode(custom_id))


def _has_line_break(body: bytes | None) -> bool:
    return body is not None and (b"\n" in body or b"\r" in body)
