-- They leave the dead letters, and stay in the ledger.
update infermq.failures set dropped_ms = $2
 where job = any($1::uuid[]) and state = 'dead' and dropped_ms is null
returning job
