-- Those of these jobs of a tenant that have ended, in the order of their ids, which are between $2 and $3.
select id, state, lane, model, batch, line, custom_id, attempts, admitted_ms, deadline_ms, settled_ms, failure, input_tokens,
       output_tokens, cached_tokens, cost_nano_usd, metadata
  from infermq.jobs
 where id = any($1::uuid[]) and id between $2 and $3 and tenant = $4 and state = any($5::text[])
 order by id
