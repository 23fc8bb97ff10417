-- As other_results.sql, of a batch whose retries $4 are complete: each that did not succeed is replaced by what they came to, as
-- in merged_results.sql.
select f.ordinal, b.body, n.id, n.custom_id, n.line, n.state, n.model, n.failure, n.input_tokens, n.output_tokens,
       n.cached_tokens, n.cost_nano_usd, n.attempts, n.admitted_ms, n.settled_ms
  from (select r.job, r.ordinal, r.body, j.state
          from infermq.results r join infermq.jobs j on j.id = r.job
         where r.batch = $1 and r.ordinal > $2
           and (j.state <> 'succeeded' or position('\x0a'::bytea in r.body) > 0 or position('\x0d'::bytea in r.body) > 0)
         order by r.ordinal
         limit $3) f
  left join lateral (
       select n.id from infermq.replays p
        cross join lateral (
              select * from infermq.jobs n where n.id = p.job offset 0) n
        where p.root = f.job and f.state <> 'succeeded' and n.state <> 'open' and n.batch = any($4::uuid[])
        order by n.state = 'succeeded' desc, n.settled_ms desc, n.id desc limit 1) retried on true
  cross join lateral (
       select * from infermq.jobs n where n.id = coalesce(retried.id, f.job) offset 0) n
  cross join lateral (
       select case when retried.id is null then f.body
                   else (select r.body from infermq.results r where r.job = retried.id) end as body) b
 order by f.ordinal
