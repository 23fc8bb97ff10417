-- What the earlier executions of these jobs cost, for jobs that the ledger hears of only at their end.
select job, sum(input_tokens)::bigint as input_tokens, sum(output_tokens)::bigint as output_tokens,
       sum(cached_tokens)::bigint as cached_tokens, sum(cost_nano_usd)::bigint as cost_nano_usd
  from infermq.executions
 where job = any($1::uuid[])
 group by job
