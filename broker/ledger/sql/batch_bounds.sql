-- How many jobs a batch of the tenant (null: of any) has, and between which instants they were admitted; `to_ms` is the end of time while it is open.
select greatest(admitted, coalesce(jobs, 0)) as jobs, created_ms as from_ms,
       coalesce(completed_ms, 253402300799999) as to_ms
  from infermq.batches where id = $1 and ($2::text is null or tenant = $2)
