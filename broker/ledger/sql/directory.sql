-- All that brokers must know, in one statement, so that it is of one moment. Keys that ended before $1 are left out.
select v.number,
       (select jsonb_agg(jsonb_strip_nulls(jsonb_build_object('name', t.name, 'disabled_ms', t.disabled_ms)))
          from infermq.tenants t) as tenants,
       (select jsonb_agg(jsonb_strip_nulls(to_jsonb(k) - '{hash,made_by,replaces}'::text[]
                                           || jsonb_build_object('hash', encode(k.hash, 'base64'))))
          from infermq.api_keys k
         where coalesce(least(k.revoked_ms, k.expires_ms), $1) >= $1) as keys
  from infermq.key_version v
