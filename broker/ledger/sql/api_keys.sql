-- Those that have ended at $3 only if $2 says so.
select k.*, u.used_ms
  from infermq.api_keys k left join infermq.key_uses u on u.id = k.id
 where k.tenant = $1
   and ($2::boolean or k.revoked_ms is null and (k.expires_ms is null or k.expires_ms > $3))
   and ($4::text is null or k.id > $4)
 order by k.id limit $5
