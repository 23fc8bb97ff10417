-- The first job of each priority of each flow that has work, by skipping from one to the next in the primary key.
with recursive head as (
    (select model, lane, tenant, rank, deadline_ms from infermq.waiting
      order by model, lane, tenant, rank, deadline_ms limit 1)
    union all
    select next.*
      from head,
           lateral (select model, lane, tenant, rank, deadline_ms from infermq.waiting w
                     where (w.model, w.lane, w.tenant, w.rank) > (head.model, head.lane, head.tenant, head.rank)
                     order by model, lane, tenant, rank, deadline_ms limit 1) next
)
select model, lane, tenant, rank, deadline_ms from head
