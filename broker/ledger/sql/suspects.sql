select job, model, tried, suspicion from infermq.delayed
 where suspicion is not null
 order by job
 limit $1
