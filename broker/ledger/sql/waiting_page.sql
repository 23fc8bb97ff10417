select deadline_ms, job, attempt, tried, tokens, batch
  from infermq.waiting
 where model = $1 and lane = $2 and tenant = $3 and (deadline_ms, job) > ($4, $5)
 order by deadline_ms, job
 limit $6
