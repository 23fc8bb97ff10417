update infermq.api_keys set revoked_ms = $3 where tenant = $1 and id = $2 and revoked_ms is null
returning id
