-- Their time has come: `move_due` moves them into the backlog.
update infermq.delayed set suspicion = null, not_before_ms = 0
 where suspicion is not null and (suspicion->>'group')::uuid = any($1::uuid[])
