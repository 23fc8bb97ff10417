-- The executions that are not recorded yet, as long as their attempt has fewer than $20; one that ends
-- its job always has room. Answers which.
insert into infermq.executions (job, id, attempt, delivery, deployment, worker, outcome, failure, waste,
    mended, input_tokens, output_tokens, cached_tokens, cost_nano_usd, cost_source, started_ms, queue_ms, ttft_ms, run_ms)
select job, id, attempt, delivery, deployment, worker, outcome, failure, waste,
       mended, input_tokens, output_tokens, cached_tokens, cost_nano_usd, cost_source, started_ms, queue_ms, ttft_ms, run_ms
  from (select u.*, row_number() over (partition by u.job, u.attempt order by u.id) as nth
          from unnest($1::uuid[], $2::uuid[], $3::int[], $4::int[], $5::text[], $6::text[], $7::text[], $8::text[],
                      $9::boolean[], $10::boolean[], $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[],
                      $15::text[], $16::bigint[], $17::bigint[], $18::bigint[], $19::bigint[])
            as u(job, id, attempt, delivery, deployment, worker, outcome, failure, waste, mended, input_tokens,
                 output_tokens, cached_tokens, cost_nano_usd, cost_source, started_ms, queue_ms, ttft_ms, run_ms)) u
 where not u.waste or nth <= $20 - (select count(*) from infermq.executions e where e.job = u.job and e.attempt = u.attempt)
 order by job, id
on conflict do nothing
returning job, id
