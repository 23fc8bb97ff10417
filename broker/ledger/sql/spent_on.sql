-- What all recorded executions of these jobs cost. Their ids are between $2 and $3, which leaves all other days out of the
-- plan.
select job, sum(input_tokens)::bigint as input_tokens, sum(output_tokens)::bigint as output_tokens,
       sum(cached_tokens)::bigint as cached_tokens, sum(cost_nano_usd)::bigint as cost_nano_usd
  from infermq.executions
 where job = any($1::uuid[]) and job between $2 and $3
 group by job
