insert into infermq.files (id, store, tenant, key, purpose, name, created_ms, expires_ms, sha256)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
