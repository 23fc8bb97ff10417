-- What deployments cost on the day $1 (UTC), and on it and the six days before.
select deployment, sum(executions)::bigint as executions, sum(cost_nano_usd)::bigint as cost_nano_usd,
       coalesce(sum(executions) filter (where day = $1), 0)::bigint as executions_today,
       coalesce(sum(cost_nano_usd) filter (where day = $1), 0)::bigint as cost_today
  from infermq.spend
 where day between $1::date - 6 and $1
 group by deployment
