-- The results of a batch whose lines are not simply their bodies: a page in the order of commits. Each job is looked up by its
-- key, and no more than the page needs: a join of all that follows would be sorted again for each page.
select r.ordinal, r.body, j.id, j.custom_id, j.line, j.state, j.model, j.failure, j.input_tokens, j.output_tokens,
       j.cached_tokens, j.cost_nano_usd, j.attempts, j.admitted_ms, j.settled_ms
  from (select job, ordinal, body from infermq.results where batch = $1 and ordinal > $2 order by ordinal offset 0) r
  cross join lateral (select * from infermq.jobs j where j.id = r.job offset 0) j
 where j.state <> 'succeeded' or position('\x0a'::bytea in r.body) > 0 or position('\x0d'::bytea in r.body) > 0
 order by r.ordinal
 limit $3
