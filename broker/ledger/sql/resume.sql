delete from infermq.pauses where kind = $1 and name = $2
returning kind, name, paused_ms, tenant, key, reason
