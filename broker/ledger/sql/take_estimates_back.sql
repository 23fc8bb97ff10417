-- The lost executions among these, which are recorded at an estimate: they are reported after all. Their jobs are between
-- $3 and $4.
delete from infermq.executions e
 using unnest($1::uuid[], $2::uuid[]) as r(job, id)
 where e.job = r.job and e.id = r.id and e.outcome = 'lost' and e.job between $3 and $4
returning e.job, e.deployment, e.input_tokens, e.output_tokens, e.cached_tokens, e.cost_nano_usd
