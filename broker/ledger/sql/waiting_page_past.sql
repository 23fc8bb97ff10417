-- As waiting_page.sql, but past the jobs of batches $8, except those whose deadline has passed by $9: of the next $7 jobs all
-- others, how many jobs these were, and the last of them.
with next as materialized (
    select rank, deadline_ms, job, attempt, tried, tokens, batch
      from infermq.waiting
     where model = $1 and lane = $2 and tenant = $3 and (rank, deadline_ms, job) > ($4, $5, $6)
     order by rank, deadline_ms, job
     limit $7
), last as materialized (
    select rank, deadline_ms, job from next order by rank desc, deadline_ms desc, job desc limit 1
)
select n.rank, n.deadline_ms, n.job, n.attempt, n.tried, n.tokens, n.batch,
       n.batch is null or n.batch <> all($8::uuid[]) or n.deadline_ms <= $9 as is_kept,
       (select count(*) from next) as looked_at
  from next n
 where n.batch is null or n.batch <> all($8::uuid[]) or n.deadline_ms <= $9
    or (n.rank, n.deadline_ms, n.job) = (select rank, deadline_ms, job from last)
 order by n.rank, n.deadline_ms, n.job
