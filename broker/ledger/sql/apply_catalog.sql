insert into infermq.catalog (number, applied_ms, applied_by, toml)
select coalesce(max(number), 0) + 1, $1, $2, $3 from infermq.catalog
returning number
