-- The version is read by the same statement, so that it is that of the rest.
select c.number,
       (select jsonb_agg(to_jsonb(p) order by p.kind, p.name) from infermq.pauses p) as pauses,
       (select array_agg(id) from infermq.batches where cancel_ms is not null and completed_ms is null) as cancelling,
       (select jsonb_agg(what::jsonb order by id) from infermq.instructions where kind = 'cancel' and ended_ms is null) as orders
  from infermq.control_version c
