-- The states of a tenant's jobs. Their ids are between $3 and $4.
select id, state from infermq.jobs where id = any($1::uuid[]) and tenant = $2 and id between $3 and $4
