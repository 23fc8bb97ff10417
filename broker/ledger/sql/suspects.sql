-- Suspects that wait for a run apart, but for those that are paused or being cancelled.
select job, model, tried, suspicion from infermq.delayed d
 where suspicion is not null
   and not exists (select from infermq.pauses p
                    where (p.kind, p.name) in (('model', d.model), ('lane', d.lane), ('tenant', d.tenant), ('batch', d.batch::text)))
   and not exists (select from infermq.batches b where b.id = d.batch and b.cancel_ms is not null)
 order by job
 limit $1
