-- Jobs that match a filter, of those with ids from $1 to below $2, the newest first if $3, else the oldest first: at most $4.
-- If ids are given ($5), only those are looked at. Each `is null` and `cardinality` of a parameter is known when the statement
-- is planned, and so is the direction: what is not asked for costs nothing (connection.SETTINGS).
select j.id, j.lane, j.model, j.batch, j.line, j.custom_id, j.attempts, j.admitted_ms, j.deadline_ms, j.settled_ms, j.failure,
       j.input_tokens, j.output_tokens, j.cached_tokens, j.cost_nano_usd, j.metadata,
       case when j.state <> 'open' then j.state
            when exists (select from infermq.running r where r.job = j.id) then 'running' else 'queued' end as state
  from infermq.jobs j
 where j.id >= $1 and j.id < $2
   and ($5::uuid[] is null or j.id = any($5))
   and ($6::text is null or j.tenant = $6)
   and (cardinality($7::text[]) = 0
        or j.state = any($7)
        or (j.state = 'open' and case when exists (select from infermq.running r where r.job = j.id)
                                      then 'running' = any($7) else 'queued' = any($7) end))
   and (cardinality($8::text[]) = 0
        or (j.state not in ('open', 'succeeded') and infermq.failure_kind(j.state, j.failure) = any($8)))
   and ($9::text is null or j.model = $9)
   and ($10::text is null or j.lane = $10)
   and ($11::uuid is null or j.batch = $11)
   and ($12::text is null or j.custom_id = $12)
   and ($13::jsonb is null or j.metadata @> $13)
 order by case when $3 then j.id end desc, case when not $3 then j.id end
 limit $4
