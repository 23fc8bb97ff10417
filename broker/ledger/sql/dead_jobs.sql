-- Jobs that are dead letters and match, the newest first: of a tenant, or of all.
select f.job as id, f.kind as cause, f.ended_ms, f.tenant, f.model, f.batch, j.failure, j.attempts, j.custom_id,
       (select octet_length(b.body) from infermq.bodies b where b.job = f.job) as size_bytes
  from (select * from infermq.failures
         where state = 'dead' and dropped_ms is null
           and ($1::text is null or tenant = $1)
           and (cardinality($2::text[]) = 0 or kind = any($2))
           and ($3::text is null or model = $3)
           and ($4::bigint is null or ended_ms >= $4)
           and ($5::bigint is null or ended_ms < $5)
           and ($6::uuid is null or job < $6)
           and ($7::uuid[] is null or job = any($7))
           and ($8::uuid is null or batch = $8)
         order by job desc limit $9) f
 cross join lateral (select * from infermq.jobs j where j.id = f.job offset 0) j
 order by f.job desc
