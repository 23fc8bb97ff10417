select kind, name, paused_ms, tenant, key, reason from infermq.pauses where kind = $1 and name = $2
