-- The rows that are not known yet; answers their ids.
insert into infermq.jobs (id, tenant, key, lane, model, endpoint, state, max_attempts, attempts, batch, line, custom_id,
    admitted_ms, deadline_ms, settled_ms, input_tokens, output_tokens, cached_tokens, cost_nano_usd, failure, metadata,
    traceparent, body_hash, priority)
select * from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::int[],
    $9::int[], $10::uuid[], $11::int[], $12::text[], $13::bigint[], $14::bigint[], $15::bigint[], $16::bigint[],
    $17::bigint[], $18::bigint[], $19::bigint[], $20::jsonb[], $21::jsonb[], $22::text[], $23::bytea[],
    $24::smallint[])
on conflict (id) do nothing
returning id
