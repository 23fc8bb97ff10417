select rank, deadline_ms, job, attempt, tried, tokens, batch
  from infermq.waiting
 where model = $1 and lane = $2 and tenant = $3 and (rank, deadline_ms, job) > ($4, $5, $6)
 order by rank, deadline_ms, job
 limit $7
