-- What executions cost, or less what estimates were too much. The ids are from $6 to below $7, which leaves all other days
-- out of the plan (bounds as in finish.sql).
update infermq.jobs j
   set input_tokens = j.input_tokens + c.input_tokens, output_tokens = j.output_tokens + c.output_tokens,
       cached_tokens = j.cached_tokens + c.cached_tokens, cost_nano_usd = j.cost_nano_usd + c.cost_nano_usd
  from (select job, sum(a) as input_tokens, sum(b) as output_tokens, sum(c) as cached_tokens, sum(d) as cost_nano_usd
          from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[]) as v(job, a, b, c, d)
         group by job order by job) c
 where j.id = c.job and j.id >= $6 and j.id < any (array[$7::uuid])
returning j.id, j.batch
