insert into infermq.spend as s (day, deployment, executions, cost_nano_usd)
select $1, d.deployment, d.executions, d.cost
  from unnest($2::text[], $3::bigint[], $4::bigint[]) as d(deployment, executions, cost)
 order by d.deployment
on conflict (day, deployment) do update
   set executions = s.executions + excluded.executions, cost_nano_usd = s.cost_nano_usd + excluded.cost_nano_usd
