-- A page of the results of a batch in the order of commits, each with what it repeats: $3 rows or $4 bytes, at least one. The
-- last execution of a job that was not waste, else its last, says where and how long it ran.
select ordinal, n_id, n_state, n_model, n_failure, n_custom_id, n_line, n_input, n_output, n_cached, n_cost, n_deployment,
       n_run_ms, n_body, o_id, o_state, o_model, o_failure, o_input, o_output, o_cached, o_cost, o_deployment, o_run_ms, o_body
  from (select f.ordinal, f.body as n_body, n.id as n_id, n.state as n_state, n.model as n_model, case when n.state <> 'succeeded' then infermq.failure_kind(n.state, n.failure) end as n_failure,
               n.custom_id as n_custom_id, n.line as n_line, n.input_tokens as n_input, n.output_tokens as n_output,
               n.cached_tokens as n_cached, n.cost_nano_usd as n_cost, ne.deployment as n_deployment,
               ne.run_ms as n_run_ms, o.id as o_id, o.state as o_state, o.model as o_model, case when o.state <> 'succeeded' then infermq.failure_kind(o.state, o.failure) end as o_failure,
               o.input_tokens as o_input, o.output_tokens as o_output, o.cached_tokens as o_cached,
               o.cost_nano_usd as o_cost, oe.deployment as o_deployment, oe.run_ms as o_run_ms, ob.body as o_body,
               row_number() over page as number,
               sum(coalesce(octet_length(f.body), 0) + coalesce(octet_length(ob.body), 0) + 1024) over page as bytes
          from (select job, ordinal, body from infermq.results
                 where batch = $1 and ordinal > $2
                 order by ordinal limit $3) f
          cross join lateral (
               select * from infermq.jobs j where j.id = f.job offset 0) n
          cross join lateral (
               select p.source from infermq.replays p where p.job = f.job) p
          left join lateral (
               select e.deployment, e.run_ms from infermq.executions e
                where e.job = f.job order by e.waste, e.attempt desc, e.id desc limit 1) ne on true
          left join lateral (
               select * from infermq.jobs j where j.id = p.source offset 0) o on true
          left join lateral (
               select e.deployment, e.run_ms from infermq.executions e
                where e.job = p.source order by e.waste, e.attempt desc, e.id desc limit 1) oe on true
          left join lateral (
               select r.body from infermq.results r where r.job = p.source) ob on true
        window page as (order by f.ordinal rows unbounded preceding)) pairs
 where number = 1 or bytes <= $4
 order by ordinal
