-- Those that were carried out, and those made before $3, which nobody waits for any more.
delete from infermq.early_cancels
 where made_ms < $3 or (tenant, job) in (select * from unnest($1::text[], $2::uuid[]))
