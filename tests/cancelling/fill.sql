-- A sealed batch of jobs of the tenant `large` that wait, with ids of the instant {now}.
with batch as (
    insert into infermq.batches (id, tenant, lane, created_ms, sealed_ms, jobs, admitted, metadata)
    values ('{batch}', 'large', 'bulk', {now}, {now}, {jobs}, {jobs}, '{{}}')
), admitted as (
    insert into infermq.jobs (id, tenant, key, lane, model, endpoint, state, max_attempts, batch, line, custom_id, admitted_ms,
        deadline_ms, body_hash)
    select (lpad(to_hex({now}), 12, '0') || '7' || lpad(to_hex(n % 4096), 3, '0') || '8' || lpad(to_hex(n), 15, '0'))::uuid,
           'large', 'k', 'bulk', 'm', '/v1/chat/completions', 'open', 3, '{batch}', n, 'line-' || n, {now}, {now} + 60000000, 'x'
      from generate_series(1, {jobs}) n
    returning id
)
insert into infermq.waiting (model, lane, tenant, deadline_ms, job, batch)
select 'm', 'bulk', 'large', {now} + 60000000, id, '{batch}' from admitted
