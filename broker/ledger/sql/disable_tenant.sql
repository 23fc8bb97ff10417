-- $2: since when; null: not any more.
update infermq.tenants set disabled_ms = $2
 where name = $1 and (disabled_ms is null) = ($2::bigint is not null)
returning name
