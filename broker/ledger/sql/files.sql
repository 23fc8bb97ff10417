-- $5: the newest first if false.
select * from infermq.files
 where tenant = $1 and stored_ms is not null and deleted_ms is null and coalesce(expires_ms > $2, true)
   and ($3::text is null or purpose = $3)
   and ($4::uuid is null or case when $5 then id > $4 else id < $4 end)
 order by case when $5 then id end, case when not $5 then id end desc
 limit $6
