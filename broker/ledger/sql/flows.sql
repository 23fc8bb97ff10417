-- The flows that have work, by skipping from one to the next in the primary key.
with recursive flow as (
    (select model, lane, tenant from infermq.waiting order by model, lane, tenant limit 1)
    union all
    select next.model, next.lane, next.tenant
      from flow,
           lateral (select model, lane, tenant from infermq.waiting w
                     where (w.model, w.lane, w.tenant) > (flow.model, flow.lane, flow.tenant)
                     order by model, lane, tenant limit 1) next
)
select model, lane, tenant from flow
