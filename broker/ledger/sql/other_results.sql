-- The results of a batch whose lines are not simply their bodies: a page in the order of commits.
select r.ordinal, r.body, j.id, j.custom_id, j.line, j.state, j.model, j.failure, j.input_tokens, j.output_tokens,
       j.cached_tokens, j.cost_nano_usd, j.attempts, j.admitted_ms, j.settled_ms
  from infermq.results r join infermq.jobs j on j.id = r.job
 where r.batch = $1 and r.ordinal > $2
   and (j.state <> 'succeeded' or position('\x0a'::bytea in r.body) > 0 or position('\x0d'::bytea in r.body) > 0)
 order by r.ordinal
 limit $3
