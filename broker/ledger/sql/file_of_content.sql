-- The file of a tenant with this content: one that is whole, else one whose upload began after $4.
select * from infermq.files
 where tenant = $1 and sha256 = $2 and deleted_ms is null and coalesce(expires_ms > $3, true)
   and (stored_ms is not null or created_ms >= $4)
 order by stored_ms is null, id desc
 limit 1
