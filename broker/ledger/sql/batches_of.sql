-- A sealed batch is full when it is complete, or as many jobs were admitted as it was sealed with. One that was cancelled
-- takes what still comes, to end it.
select id, tenant, submit_lane, change, lane, deadline_ms, priority, jobs,
       cancel_ms is null and (completed_ms is not null or coalesce(admitted >= jobs, false)) as is_full
  from infermq.batches where id = any($1::uuid[])
