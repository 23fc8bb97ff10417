-- A page in the order of commits, as far as no older transaction can still add to it: $4 rows or $5 bytes, at least one.
-- What a row carries beside its body counts as 1 KiB.
select r.xid::text as xid, r.body, j.id, j.custom_id, j.line, j.state, j.model, j.failure, j.input_tokens,
       j.output_tokens, j.cached_tokens, j.cost_nano_usd, j.attempts, j.admitted_ms, j.settled_ms
  from (select job, xid, body, row_number() over page as number,
               sum(coalesce(octet_length(body), 0) + 1024) over page as bytes
          from (select job, xid, body from infermq.results
                 where batch = $1 and (xid, job) > ($2::text::xid8, $3) and xid < pg_snapshot_xmin(pg_current_snapshot())
                 order by xid, job limit $4) f
        window page as (order by xid, job rows unbounded preceding)) r
  join infermq.jobs j on j.id = r.job
 where r.number = 1 or r.bytes <= $5
 order by r.xid, r.job
