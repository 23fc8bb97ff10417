-- running → its end, for those that run this very attempt; the usual way of a job. Their ids are between $10 and $11: said
-- apart, it leaves all other days out of the plan.
with verdict as (
    select * from unnest($1::uuid[], $2::int[], $3::text[], $4::jsonb[], $5::bigint[], $6::bigint[], $7::bigint[],
        $8::bigint[]) as v(job, attempt, state, failure, input_tokens, output_tokens, cached_tokens, cost_nano_usd)
), gone as (
    delete from infermq.running r using verdict v where r.job = v.job and r.attempt = v.attempt returning v.*
)
update infermq.jobs j
   set state = g.state, attempts = g.attempt, settled_ms = $9, failure = g.failure,
       input_tokens = j.input_tokens + g.input_tokens, output_tokens = j.output_tokens + g.output_tokens,
       cached_tokens = j.cached_tokens + g.cached_tokens, cost_nano_usd = j.cost_nano_usd + g.cost_nano_usd
  from gone g
 where j.id = g.job and j.id between $10 and $11 and j.state = 'open'
returning j.id, j.tenant, j.batch, j.custom_id, j.state, j.admitted_ms, j.settled_ms, j.attempts
