-- Ends the batch of an expansion that cannot go on, with the jobs that it has, and says why as the error of line 0.
with failed as (
    update infermq.file_batches
       set failed_ms = $2, checked_ms = coalesce(checked_ms, $2::bigint), expanded_ms = $2
     where batch = $1 and expanded_ms is null and failed_ms is null
    returning batch),
said as (
    insert into infermq.bad_lines (batch, line, fault) select batch, 0, $3 from failed on conflict do nothing)
update infermq.batches b
   set sealed_ms = $2, jobs = admitted,
       completed_ms = case when admitted <= succeeded + failed + expired + cancelled + dead then $2::bigint end
  from failed f
 where b.id = f.batch and b.sealed_ms is null
