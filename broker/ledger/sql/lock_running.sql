-- The attempts of these jobs, in the order of the jobs.
select job, cancel_ms from infermq.running where job = any($1::uuid[]) order by job for update
