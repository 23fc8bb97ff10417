select k.*, u.used_ms
  from infermq.api_keys k left join infermq.key_uses u on u.id = k.id
 where k.tenant = $1 and k.id = $2
