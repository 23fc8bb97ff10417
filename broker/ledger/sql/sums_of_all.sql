-- Where the counters of batches and the spend of deployments disagree with the jobs and executions of all days. The results
-- of a batch are numbered from 1 without a gap.
with held as (
    select batch, count(*) as admitted, count(*) filter (where state = 'succeeded') as succeeded,
           count(*) filter (where state = 'failed') as failed, count(*) filter (where state = 'expired') as expired,
           count(*) filter (where state = 'cancelled') as cancelled, count(*) filter (where state = 'dead') as dead,
           sum(input_tokens) as input_tokens, sum(output_tokens) as output_tokens,
           sum(cached_tokens) as cached_tokens, sum(cost_nano_usd) as cost_nano_usd
      from infermq.jobs where batch is not null group by batch
), numbered as (
    select batch, count(*) as results, count(distinct ordinal) as ordinals, min(ordinal) as first, max(ordinal) as last
      from infermq.results where batch is not null group by batch
), charged as (
    select deployment, sum(cost_nano_usd) as cost_nano_usd, count(*) as executions
      from infermq.executions where cost_nano_usd <> 0 group by deployment
), spent as (
    select deployment, sum(cost_nano_usd) as cost_nano_usd, sum(executions) as executions
      from infermq.spend group by deployment
)
select format('batch %s has %s, its jobs %s', b.id, to_jsonb(b) - 'metadata', to_jsonb(h)) as disagreement
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
  left join numbered r on r.batch = b.id
 where (coalesce(r.results, 0), coalesce(r.ordinals, 0), coalesce(r.first, 1), coalesce(r.last, 0)) is distinct from
       (e.ended::bigint, e.ended::bigint, 1, e.ended)
union all
select format('deployment %s spent %s, its executions %s', coalesce(s.deployment, c.deployment), to_jsonb(s), to_jsonb(c))
  from spent s full join charged c on c.deployment = s.deployment
 where (s.cost_nano_usd, s.executions) is distinct from (c.cost_nano_usd, c.executions)
