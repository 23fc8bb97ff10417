-- The executions that are not recorded yet; answers which.
insert into infermq.executions (job, id, attempt, delivery, deployment, worker, outcome, failure, waste,
    mended, input_tokens, output_tokens, cached_tokens, cost_nano_usd, cost_source, started_ms, queue_ms, ttft_ms, run_ms)
select * from unnest($1::uuid[], $2::uuid[], $3::int[], $4::int[], $5::text[], $6::text[], $7::text[], $8::text[],
    $9::boolean[], $10::boolean[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::text[], $16::bigint[],
    $17::bigint[], $18::bigint[], $19::bigint[])
on conflict do nothing
returning job, id
