-- The attempts that run and are to be cancelled.
select job, attempt, deployment, cancel_ms from infermq.running where cancel_ms is not null order by job
