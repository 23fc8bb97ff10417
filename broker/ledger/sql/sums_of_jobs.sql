-- Where the jobs with ids from $1 to below $2 disagree with what else is recorded of them: what a job cost is the sum of its
-- executions, an ended one has a result of its batch's numbering and, unless it succeeded, a failure, and an open one has
-- one place. A failure that is older than all jobs is of a day that is gone: upkeep drops it soon.
--
-- Executions may stand without a job while a request goes on with another deployment. If its broker dies then, they stay so:
-- they count for their deployments, and for no tenant.
with jobs as (
    select id, tenant, model, lane, priority, deadline_ms, state, batch, failure, settled_ms, input_tokens, output_tokens,
           cached_tokens, cost_nano_usd
      from infermq.jobs where id >= $1 and id < $2
), ran as (
    select job, count(*) filter (where not waste) as useful,
           count(*) filter (where not waste and outcome = 'succeeded') as answers, sum(input_tokens) as input_tokens,
           sum(output_tokens) as output_tokens, sum(cached_tokens) as cached_tokens, sum(cost_nano_usd) as cost_nano_usd
      from infermq.executions where job >= $1 and job < $2 group by job
), waits as (
    select job, batch, model, lane, tenant, rank, deadline_ms, false as is_delayed from infermq.waiting where job >= $1 and job < $2
    union all
    select job, batch, model, lane, tenant, rank, deadline_ms, true from infermq.delayed where job >= $1 and job < $2
), numbered as (
    select job, batch, ordinal from infermq.results where job >= $1 and job < $2
), places as (
    select job, count(*) filter (where place = 'waiting') as waiting, count(*) filter (where place = 'delayed') as delayed,
           count(*) filter (where place = 'running') as running, count(*) filter (where place = 'results') as results
      from (select job, case when is_delayed then 'delayed' else 'waiting' end as place from waits
            union all
            select job, 'running' from infermq.running where job >= $1 and job < $2
            union all
            select job, 'results' from numbered) p
     group by job
)
select format('job %s has %s, its executions %s', coalesce(j.id, r.job),
              (j.input_tokens, j.output_tokens, j.cached_tokens, j.cost_nano_usd),
              (r.input_tokens, r.output_tokens, r.cached_tokens, r.cost_nano_usd)) as disagreement
  from jobs j full join ran r on r.job = j.id
 where case when j.id is null then r.useful <> 0
            else (j.input_tokens, j.output_tokens, j.cached_tokens, j.cost_nano_usd) is distinct from
                 (coalesce(r.input_tokens, 0), coalesce(r.output_tokens, 0), coalesce(r.cached_tokens, 0),
                  coalesce(r.cost_nano_usd, 0)) end
union all
select format('job %s is %s and stands in %s of waiting, %s of delayed, %s of running, %s of results',
              coalesce(j.id, p.job), coalesce(j.state, 'not recorded'), coalesce(p.waiting, 0), coalesce(p.delayed, 0),
              coalesce(p.running, 0), coalesce(p.results, 0))
  from jobs j full join places p on p.job = j.id
 where case j.state when 'open' then p is null or p.waiting + p.delayed + p.running <> 1 or p.results <> 0
                    else j is null or p is null or p.waiting + p.delayed + p.running <> 0 or p.results <> 1 end
union all
select format('job %s is %s, and %s of its executions are not waste', j.id, j.state, coalesce(r.useful, 0))
  from jobs j left join ran r on r.job = j.id
 where case j.state when 'open' then coalesce(r.useful, 0) <> 0
                    when 'succeeded' then (r.useful, r.answers) is distinct from (1::bigint, 1::bigint)
                    else coalesce(r.useful, 0) > 1 end
union all
select format('the result of job %s is number %s of batch %s, its job of %s', r.job, r.ordinal, r.batch, j.batch)
  from numbered r join jobs j on j.id = r.job
 where r.batch is distinct from j.batch or (r.batch is null) <> (r.ordinal is null)
union all
select format('job %s waits at %s, and its place is %s', w.job, w.place, j.place)
  from (select job, (model, lane, tenant, rank, deadline_ms, batch) as place from waits) w
  join (select id, (model, lane, tenant, -priority, deadline_ms, batch) as place from jobs) j on j.id = w.job
 where w.place::text is distinct from j.place::text
union all
select format('job %s is %s, its failure %s', coalesce(j.id, f.job),
              (j.state, j.tenant, j.model, j.batch, infermq.failure_kind(j.state, j.failure), j.settled_ms),
              (f.state, f.tenant, f.model, f.batch, f.kind, f.ended_ms))
  from (select * from jobs where state not in ('open', 'succeeded')) j
  full join (select * from infermq.failures
              where job >= $1 and job < $2 and job >= (select id from infermq.jobs order by id limit 1)) f on f.job = j.id
 where (j.id, j.state, j.tenant, j.model, j.batch, infermq.failure_kind(j.state, j.failure), j.settled_ms)
       is distinct from (f.job, f.state, f.tenant, f.model, f.batch, f.kind, f.ended_ms)
