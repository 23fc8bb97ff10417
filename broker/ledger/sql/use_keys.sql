insert into infermq.key_uses (id, used_ms)
select * from unnest($1::text[], $2::bigint[]) as used(id, used_ms) order by id
on conflict (id) do update set used_ms = greatest(key_uses.used_ms, excluded.used_ms)
