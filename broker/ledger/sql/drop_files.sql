-- Files whose content was dropped. Those of which it was dropped before $3 are forgotten.
with forgotten as (
    delete from infermq.files where id = any($1::uuid[]) and dropped_ms < $3
)
update infermq.files set dropped_ms = $2, deleted_ms = coalesce(deleted_ms, $2)
 where id = any($1::uuid[]) and dropped_ms is null
