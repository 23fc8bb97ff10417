-- Messages that are dead letters and match, by cause and model.
select cause, model, count(*) as count, min(received_ms) as first_ms, max(received_ms) as last_ms,
       max(id::text)::uuid as newest
  from infermq.dead_letters
 where requeued_ms is null
   and ($1::text is null or tenant = $1)
   and (cardinality($2::text[]) = 0 or cause = any($2))
   and ($3::text is null or model = $3)
   and ($4::bigint is null or received_ms >= $4)
   and ($5::bigint is null or received_ms < $5)
 group by cause, model
