select id, tenant, lane, deadline_ms, jobs, admitted, completed_ms is not null as is_complete
  from infermq.batches where id = any($1::uuid[])
