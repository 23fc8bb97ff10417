-- Messages that are dead letters and match, the newest first: of a tenant, or of all.
select id, cause, received_ms, reason, tenant, model, octet_length(payload) as size_bytes, stream, subject, sequence
  from infermq.dead_letters
 where requeued_ms is null
   and ($1::text is null or tenant = $1)
   and (cardinality($2::text[]) = 0 or cause = any($2))
   and ($3::text is null or model = $3)
   and ($4::bigint is null or received_ms >= $4)
   and ($5::bigint is null or received_ms < $5)
   and ($6::uuid is null or id < $6)
   and ($7::uuid[] is null or id = any($7))
 order by id desc limit $8
