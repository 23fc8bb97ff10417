-- The jobs that have come to the ledger since they were cancelled.
select e.tenant, e.job from infermq.early_cancels e
 where exists (select from infermq.jobs j where j.id = e.job and j.tenant = e.tenant)
 order by e.tenant, e.job
 limit $1
