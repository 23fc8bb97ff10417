-- How many jobs of others come before a batch, counted up to a limit: before the first of up to a thousand of its jobs that wait.
-- No row: none waits.
select (select count(*) filter (where batch is distinct from $1)
          from (select batch from infermq.waiting
                 where model = first.model and lane = first.lane and tenant = first.tenant
                   and (rank, deadline_ms, job) < (first.rank, first.deadline_ms, first.job)
                 limit $2) before)
  from (select * from (select * from infermq.waiting where batch = $1 limit 1000) sample
         order by rank, deadline_ms, job
         limit 1) first
