insert into infermq.dead_letters (stream, sequence, received_ms, subject, reason, headers, payload)
select * from unnest($1::text[], $2::bigint[], $3::bigint[], $4::text[], $5::text[], $6::jsonb[], $7::bytea[])
on conflict do nothing
