-- A page of the results of a batch in the order of commits, $3 rows or $4 bytes, at least one; each that did not succeed is
-- replaced by what its retries $5 came to: a success, else the failure that ended last. What a row carries beside its body counts
-- as 1 KiB.
select ordinal, body, id, custom_id, line, state, model, failure, input_tokens, output_tokens, cached_tokens, cost_nano_usd,
       attempts, admitted_ms, settled_ms
  from (select f.ordinal, b.body, n.id, n.custom_id, n.line, n.state, n.model, n.failure, n.input_tokens, n.output_tokens,
               n.cached_tokens, n.cost_nano_usd, n.attempts, n.admitted_ms, n.settled_ms, row_number() over page as number,
               sum(coalesce(octet_length(b.body), 0) + 1024) over page as bytes
          from (select job, ordinal, body from infermq.results
                 where batch = $1 and ordinal > $2
                 order by ordinal limit $3) f
          cross join lateral (
               select * from infermq.jobs j where j.id = f.job offset 0) j
          left join lateral (
               select n.id from infermq.replays p
                cross join lateral (
                      select * from infermq.jobs n where n.id = p.job offset 0) n
                where p.root = f.job and j.state <> 'succeeded' and n.state <> 'open' and n.batch = any($5::uuid[])
                order by n.state = 'succeeded' desc, n.settled_ms desc, n.id desc limit 1) retried on true
          cross join lateral (
               select * from infermq.jobs n where n.id = coalesce(retried.id, f.job) offset 0) n
          cross join lateral (
               select case when retried.id is null then f.body
                           else (select r.body from infermq.results r where r.job = retried.id) end as body) b
        window page as (order by f.ordinal rows unbounded preceding)) merged
 where number = 1 or bytes <= $4
 order by ordinal
