-- running → its end, for those that run this very attempt; the usual way of a job. Run a day at a time: its ids are from
-- $10 to below $11, which leaves all other days out of the plan; planning over a year of them takes longer than the rest.
-- `lateral` and ctid as in dispatch.sql.
--
-- An attempt that is marked to be cancelled just now is locked here as it is then, but is not there to be deleted for a
-- statement that began before. So all of them were deleted, or no job ends here, and the group is recorded in another way.
--
-- The planner must not expect few rows of the day: it would read them first, and compare each with each of the group. So
-- the bounds are those of the whole day, and the upper one is in an array, since without statistics two bounds that are
-- seen together are taken for a narrow range. Nor is it asked again whether a job that runs is open.
with verdict as (
    select * from unnest($1::uuid[], $2::int[], $3::text[], $4::jsonb[], $5::bigint[], $6::bigint[], $7::bigint[],
        $8::bigint[]) as v(job, attempt, state, failure, input_tokens, output_tokens, cached_tokens, cost_nano_usd)
), gone as materialized (
    select v.*, r.at, r.tokens
      from verdict v
     cross join lateral (
           select r.ctid as at, r.tokens from infermq.running r
            where r.job = v.job and r.attempt = v.attempt
              for update) r
), ended as (
    delete from infermq.running where ctid = any(array(select at from gone)) returning job
)
update infermq.jobs j
   set state = g.state, attempts = g.attempt, settled_ms = $9, failure = g.failure,
       input_tokens = j.input_tokens + g.input_tokens, output_tokens = j.output_tokens + g.output_tokens,
       cached_tokens = j.cached_tokens + g.cached_tokens, cost_nano_usd = j.cost_nano_usd + g.cost_nano_usd
  from gone g
 where j.id = g.job and j.id >= $10 and j.id < any (array[$11::uuid])
   and (select count(*) from ended) = (select count(*) from gone)
returning j.id, j.model, j.lane, j.tenant, j.batch, j.custom_id, j.state, j.attempts, g.tokens
