-- As waiting_page.sql, but past the jobs of batches $8, except those whose deadline has passed by $9. It may scan long.
select rank, deadline_ms, job, attempt, tried, tokens, batch
  from infermq.waiting
 where model = $1 and lane = $2 and tenant = $3 and (rank, deadline_ms, job) > ($4, $5, $6)
   and (batch is null or batch <> all($8::uuid[]) or deadline_ms <= $9)
 order by rank, deadline_ms, job
 limit $7
