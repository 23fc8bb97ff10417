insert into infermq.tenants (name, created_ms, made_by, label) values ($1, $2, $3, $4)
on conflict do nothing
returning name
