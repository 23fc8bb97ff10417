-- Files that were deleted or have expired, and uploads that were cut off, a few at a time; without those whose lines a batch
-- still needs. Those that were dropped before $2 come once more.
select f.id, f.store from infermq.files f
 where ((f.dropped_ms is null and least(f.expires_ms, f.deleted_ms) <= $1)
        or (f.dropped_ms is null and f.stored_ms is null and f.created_ms < $2)
        or f.dropped_ms < $2)
   and not exists (select from infermq.file_batches b
                    where b.file = f.id and b.failed_ms is null and b.expanded_ms is null)
   and f.store <> all($4::text[])
 order by f.id limit $3
