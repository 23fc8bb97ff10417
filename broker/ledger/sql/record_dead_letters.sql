insert into infermq.dead_letters (id, stream, sequence, received_ms, subject, cause, reason, tenant, model, headers, payload)
select * from unnest($1::uuid[], $2::text[], $3::bigint[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[],
    $9::text[], $10::jsonb[], $11::bytea[])
on conflict do nothing
