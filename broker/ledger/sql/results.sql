-- A page in the order of commits, as far as no older transaction can still add to it.
select r.xid::text as xid, r.body, j.id, j.custom_id, j.line, j.state, j.model, j.failure, j.input_tokens,
       j.output_tokens, j.cached_tokens, j.cost_nano_usd, j.attempts, j.admitted_ms, j.settled_ms
  from (select job, xid, body from infermq.results
         where batch = $1 and (xid, job) > ($2::text::xid8, $3) and xid < pg_snapshot_xmin(pg_current_snapshot())
         order by xid, job limit $4) r
  join infermq.jobs j on j.id = r.job
 order by r.xid, r.job
