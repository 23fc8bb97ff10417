select id, at_ms, tenant, key, action, target, before, after from infermq.audit
 where ($1::text is null or tenant = $1) and ($2::uuid is null or id < $2)
 order by id desc limit $3
