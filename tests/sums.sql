-- Where the ledger disagrees with itself: Σ executions = Σ jobs = Σ batches = spend, a result for each end,
-- numbered in its batch without a gap, and a place for each open job. One statement, so one snapshot: it may be asked at any moment.
with ran as (
    select job, sum(input_tokens) as input_tokens, sum(output_tokens) as output_tokens,
           sum(cached_tokens) as cached_tokens, sum(cost_nano_usd) as cost_nano_usd
      from infermq.executions group by job
), held as (
    select batch, count(*) as admitted, count(*) filter (where state = 'succeeded') as succeeded,
           count(*) filter (where state = 'failed') as failed, count(*) filter (where state = 'expired') as expired,
           count(*) filter (where state = 'cancelled') as cancelled, count(*) filter (where state = 'dead') as dead,
           sum(input_tokens) as input_tokens, sum(output_tokens) as output_tokens,
           sum(cached_tokens) as cached_tokens, sum(cost_nano_usd) as cost_nano_usd
      from infermq.jobs where batch is not null group by batch
), charged as (
    select deployment, sum(cost_nano_usd) as cost_nano_usd, count(*) as executions
      from infermq.executions where cost_nano_usd <> 0 group by deployment
), spent as (
    select deployment, sum(cost_nano_usd) as cost_nano_usd, sum(executions) as executions
      from infermq.spend group by deployment
)
select format('job %s has %s, its executions %s', j.id,
              (j.input_tokens, j.output_tokens, j.cached_tokens, j.cost_nano_usd),
              (r.input_tokens, r.output_tokens, r.cached_tokens, r.cost_nano_usd)) as disagreement
  from infermq.jobs j left join ran r on r.job = j.id
 where (j.input_tokens, j.output_tokens, j.cached_tokens, j.cost_nano_usd) is distinct from
       (coalesce(r.input_tokens, 0), coalesce(r.output_tokens, 0), coalesce(r.cached_tokens, 0),
        coalesce(r.cost_nano_usd, 0))
union all
select format('batch %s has %s, its jobs %s', b.id, to_jsonb(b) - 'metadata', to_jsonb(h))
  from infermq.batches b left join held h on h.batch = b.id
 where (b.admitted, b.succeeded, b.failed, b.expired, b.cancelled, b.dead, b.input_tokens, b.output_tokens,
        b.cached_tokens, b.cost_nano_usd) is distinct from
       (coalesce(h.admitted, 0), coalesce(h.succeeded, 0), coalesce(h.failed, 0), coalesce(h.expired, 0),
        coalesce(h.cancelled, 0), coalesce(h.dead, 0), coalesce(h.input_tokens, 0), coalesce(h.output_tokens, 0),
        coalesce(h.cached_tokens, 0), coalesce(h.cost_nano_usd, 0))
union all
select format('batch %s has the results %s, and %s ended', b.id, to_jsonb(r), e.ended)
  from infermq.batches b
 cross join lateral (select b.succeeded + b.failed + b.expired + b.cancelled + b.dead as ended) e
 cross join lateral (
       select count(*), count(distinct ordinal) as ordinals, coalesce(min(ordinal), 1) as first, coalesce(max(ordinal), 0) as last
         from infermq.results r where r.batch = b.id) r
 where (r.count, r.ordinals, r.first, r.last) is distinct from (e.ended::bigint, e.ended::bigint, 1, e.ended)
union all
select format('the result of job %s is number %s of batch %s, its job of %s', r.job, r.ordinal, r.batch, j.batch)
  from infermq.results r join infermq.jobs j on j.id = r.job
 where r.batch is distinct from j.batch or (r.batch is null) <> (r.ordinal is null)
union all
select format('job %s waits as one of batch %s, and is one of %s', w.job, w.batch, j.batch)
  from (select job, batch from infermq.waiting union all select job, batch from infermq.delayed) w
  join infermq.jobs j on j.id = w.job
 where w.batch is distinct from j.batch
union all
select format('deployment %s spent %s, its executions %s', coalesce(s.deployment, c.deployment), to_jsonb(s), to_jsonb(c))
  from spent s full join charged c on c.deployment = s.deployment
 where (s.cost_nano_usd, s.executions) is distinct from (c.cost_nano_usd, c.executions)
union all
select format('job %s is %s and stands in %s of waiting, %s of delayed, %s of running, %s of results', j.id, j.state,
              p.waiting, p.delayed, p.running, p.results)
  from infermq.jobs j
 cross join lateral (
       select (select count(*) from infermq.waiting w where w.job = j.id) as waiting,
              (select count(*) from infermq.delayed d where d.job = j.id) as delayed,
              (select count(*) from infermq.running r where r.job = j.id) as running,
              (select count(*) from infermq.results r where r.job = j.id) as results) p
 where case when j.state = 'open' then p.waiting + p.delayed + p.running <> 1 or p.results <> 0
            else p.waiting + p.delayed + p.running <> 0 or p.results <> 1 end
