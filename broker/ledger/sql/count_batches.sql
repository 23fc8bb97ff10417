-- One delta a batch; the batch is complete when it is sealed and all its jobs have ended: as many as it was sealed with, and
-- all that were admitted. Answers how many of its jobs had ended before: the results that follow are numbered from there,
-- under the lock that is held here until the commit. Rows are locked in the order of their ids, so that intake and
-- settlement of the same batches never wait for each other.
with held as materialized (
    select id from infermq.batches where id = any($1::uuid[]) order by id for no key update
)
update infermq.batches b
   set admitted = b.admitted + d.admitted,
       succeeded = b.succeeded + d.succeeded,
       failed = b.failed + d.failed,
       expired = b.expired + d.expired,
       cancelled = b.cancelled + d.cancelled,
       dead = b.dead + d.dead,
       refused = b.refused + d.refused,
       input_tokens = b.input_tokens + d.input_tokens,
       output_tokens = b.output_tokens + d.output_tokens,
       cached_tokens = b.cached_tokens + d.cached_tokens,
       cost_nano_usd = b.cost_nano_usd + d.cost_nano_usd,
       completed_ms = coalesce(b.completed_ms, case when greatest(b.jobs, b.admitted + d.admitted) <=
           b.succeeded + b.failed + b.expired + b.cancelled + b.dead
           + d.succeeded + d.failed + d.expired + d.cancelled + d.dead and b.jobs is not null then $13::bigint end)
  from unnest($1::uuid[], $2::int[], $3::int[], $4::int[], $5::int[], $6::int[], $7::int[], $8::int[], $9::bigint[],
           $10::bigint[], $11::bigint[], $12::bigint[])
       as d(id, admitted, succeeded, failed, expired, cancelled, dead, refused, input_tokens, output_tokens,
           cached_tokens, cost_nano_usd)
 where b.id = d.id and d.id in (select id from held)
returning b.id, b.succeeded + b.failed + b.expired + b.cancelled + b.dead
              - (d.succeeded + d.failed + d.expired + d.cancelled + d.dead) as ended_before,
       b.cancel_ms is not null as is_cancelled
