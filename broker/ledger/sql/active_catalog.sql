select number, applied_ms, toml from infermq.catalog order by number desc limit 1
