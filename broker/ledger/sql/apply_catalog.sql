-- No row: $4 is not the newest any more. Null: whichever that is.
insert into infermq.catalog (number, applied_ms, applied_by, toml)
select coalesce(max(number), 0) + 1, $1, $2, $3 from infermq.catalog
having $4::int is null or coalesce(max(number), 0) = $4
returning number
