-- A page of a tenant's batches that match, the newest first. What says the status of a batch: rows.py.
select * from infermq.batches
 where tenant = $1 and ($2::uuid is null or id < $2)
   and (cardinality($4::text[]) = 0
        or case when cancel_ms is not null then case when completed_ms is null then 'cancelling' else 'cancelled' end
                when completed_ms is not null then 'completed' when sealed_ms is not null then 'in_progress' else 'open' end
           = any($4))
   and ($5::text is null or lane = $5)
   and ($6::bigint is null or created_ms >= $6)
   and ($7::bigint is null or created_ms < $7)
   and ($8::jsonb is null or metadata @> $8)
 order by id desc limit $3
