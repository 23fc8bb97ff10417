-- Nothing of the batch starts any more, and it takes no more jobs that run. One that is open is sealed with what was admitted.
-- A batch that is complete or cancelled stays as it is.
update infermq.batches
   set cancel_ms = $3, sealed_ms = coalesce(sealed_ms, $3), jobs = coalesce(jobs, admitted),
       completed_ms = case when greatest(jobs, admitted) <= succeeded + failed + expired + cancelled + dead then $3::bigint end
 where id = $1 and tenant = $2 and completed_ms is null and cancel_ms is null
returning id
