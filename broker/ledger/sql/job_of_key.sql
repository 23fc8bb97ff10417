-- The job that an idempotency key stands for. No row: none does, or it was dropped with its day.
select j.id, j.model, j.body_hash
  from infermq.idempotency i
  join infermq.jobs j on j.id = i.job
 where i.tenant = $1 and i.key = $2
