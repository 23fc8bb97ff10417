-- An open job → its end, wherever it stands: by a success of any attempt, by what is said of no attempt, else by a late
-- report of the last one.
with verdict as (
    select * from unnest($1::uuid[], $2::int[], $3::text[], $4::jsonb[], $5::bigint[], $6::bigint[], $7::bigint[],
        $8::bigint[]) as v(job, attempt, state, failure, input_tokens, output_tokens, cached_tokens, cost_nano_usd)
), was_running as (
    delete from infermq.running r using verdict v
     where r.job = v.job and (v.attempt is null or v.state = 'succeeded' or r.attempt = v.attempt)
    returning v.*, coalesce(v.attempt, r.attempt) as ended_by, r.tokens
), was_waiting as (
    delete from infermq.waiting w using verdict v, infermq.jobs j
     where j.id = v.job and w.model = j.model and w.lane = j.lane and w.tenant = j.tenant
       and w.deadline_ms = j.deadline_ms and w.job = j.id
       and (v.attempt is null or v.state = 'succeeded' or w.attempt = v.attempt)
    returning v.*, coalesce(v.attempt, w.attempt) as ended_by, w.tokens
), was_delayed as (
    delete from infermq.delayed d using verdict v
     where d.job = v.job and (v.attempt is null or v.state = 'succeeded' or d.attempt = v.attempt)
    returning v.*, coalesce(v.attempt, d.attempt) as ended_by, d.tokens
), gone as (
    select * from was_running union all select * from was_waiting union all select * from was_delayed
)
update infermq.jobs j
   set state = g.state, attempts = g.ended_by, settled_ms = $9, failure = g.failure,
       input_tokens = j.input_tokens + g.input_tokens, output_tokens = j.output_tokens + g.output_tokens,
       cached_tokens = j.cached_tokens + g.cached_tokens, cost_nano_usd = j.cost_nano_usd + g.cost_nano_usd
  from gone g
 where j.id = g.job and j.state = 'open'
returning j.id, j.model, j.lane, j.tenant, j.batch, j.custom_id, j.state, j.attempts, g.tokens
