-- Jobs that are dead letters and match, by the kind of their failure and by model.
select kind as cause, model, count(*) as count, min(ended_ms) as first_ms, max(ended_ms) as last_ms,
       max(job::text)::uuid as newest
  from infermq.failures
 where state = 'dead' and dropped_ms is null
   and ($1::text is null or tenant = $1)
   and (cardinality($2::text[]) = 0 or kind = any($2))
   and ($3::text is null or model = $3)
   and ($4::bigint is null or ended_ms >= $4)
   and ($5::bigint is null or ended_ms < $5)
   and ($6::uuid is null or batch = $6)
 group by kind, model
