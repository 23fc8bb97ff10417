-- $1 jobs of three days up to $2: of eleven tenants, in 200 batches of all sizes; every fiftieth failed, every
-- hundredth is dead, every
-- tenth waits, and 64 run.
with made as materialized (
    select n, $2::bigint - ($1 - n) * (3 * 86400000 / $1) as at,
           ('t' || n % 11) as tenant, ('m' || n % 5) as model,
           case when n % 50 = 0 then 'failed' when n % 100 = 1 then 'dead' when n % 10 = 3 then 'open' else 'succeeded' end as state
      from generate_series(1::bigint, $1) as n
), ids as materialized (
    select m.*, (lpad(to_hex(at), 12, '0') || '7' || lpad(to_hex(n % 4096), 3, '0') || '8' || lpad(to_hex(n), 15, '0'))::uuid as id,
           case when n % 3 = 0 then
                (lpad(to_hex($2::bigint - 3 * 86400000 + 1), 12, '0') || '70008' || lpad(to_hex(1 + floor(200 * sqrt(n::float / $1))::bigint), 15, '0'))::uuid
           end as batch
      from made m
), jobs as (
    insert into infermq.jobs (id, tenant, key, lane, model, endpoint, state, max_attempts, attempts, batch, line, custom_id,
        admitted_ms, deadline_ms, settled_ms, input_tokens, output_tokens, cost_nano_usd, failure, metadata, body_hash)
    select id, tenant, 'k', case when n % 4 = 0 then 'standard' else 'bulk' end, model, '/v1/chat/completions', state, 3, 1, batch,
           case when batch is null then null else n end, case when batch is null then null else 'line-' || n end, at,
           at + 86400000, case when state <> 'open' then at + 2000 end, 100, 50, 12345,
           case state when 'failed' then '{"type": "engine_fault", "message": "it broke"}'::jsonb
                      when 'dead' then '{"type": "timed_out", "after_ms": 1000, "stage": "attempt"}'::jsonb end,
           case when n % 7 = 0 then jsonb_build_object('team', 'search', 'run', (n % 1000)::text) end, 'hash'
      from ids
), results as (
    insert into infermq.results (job, batch, ordinal, body)
    select id, batch, case when batch is null then null else row_number() over (partition by batch order by n) end,
           case when state = 'succeeded' then '{"choices":[]}'::bytea end
      from ids where state <> 'open'
), failed as (
    insert into infermq.failures (job, tenant, model, batch, state, kind, ended_ms)
    select id, tenant, model, batch, state, case state when 'failed' then 'engine_fault' else 'timed_out' end, at + 2000
      from ids where state in ('failed', 'dead')
), running as (
    insert into infermq.running (job, attempt, uncounted, deployment, dispatched_ms, deadline_ms, model, lane, tenant, tokens)
    select id, 1, 0, 'd', at, at + 86400000, model, case when n % 4 = 0 then 'standard' else 'bulk' end, tenant, 1
      from ids where state = 'open' and n > $1 - 640
), waiting as (
    insert into infermq.waiting (model, lane, tenant, deadline_ms, job, batch)
    select model, case when n % 4 = 0 then 'standard' else 'bulk' end, tenant, at + 86400000, id, batch
      from ids where state = 'open' and n <= $1 - 640
)
insert into infermq.batches (id, tenant, lane, created_ms, sealed_ms, jobs, admitted, metadata)
select batch, 't0', 'bulk', $2::bigint - 3 * 86400000 + 1, $2, count(*), count(*),
       jsonb_build_object('name', 'batch-' || row_number() over (order by batch))
  from ids where batch is not null group by batch
