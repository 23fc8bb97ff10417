-- A page of failures of a tenant, of a batch, or of all, with ids from $1 to below $2, the newest first if $3: up to $4, each
-- with whether it is one of what is asked for.
select job, ($7::text[] is null or state = any($7)) and (cardinality($8::text[]) = 0 or kind = any($8))
            and ($9::text is null or model = $9) and ($5::text is null or tenant = $5) as fits
  from infermq.failures
 where job >= $1 and job < $2
   and ($6::uuid is null or batch = $6)
   and ($5::text is null or $6::uuid is not null or tenant = $5)
 order by case when $3 then job end desc, case when not $3 then job end
 limit $4
