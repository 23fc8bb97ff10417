-- A page in the order of commits: $3 rows or $4 bytes, at least one. What a row carries beside its body counts as 1 KiB.
select r.ordinal, r.body, j.id, j.custom_id, j.line, j.state, j.model, j.failure, j.input_tokens, j.output_tokens,
       j.cached_tokens, j.cost_nano_usd, j.attempts, j.admitted_ms, j.settled_ms
  from (select job, ordinal, body, row_number() over page as number,
               sum(coalesce(octet_length(body), 0) + 1024) over page as bytes
          from (select job, ordinal, body from infermq.results
                 where batch = $1 and ordinal > $2
                 order by ordinal limit $3) f
        window page as (order by ordinal rows unbounded preceding)) r
  join infermq.jobs j on j.id = r.job
 where r.number = 1 or r.bytes <= $4
 order by r.ordinal
