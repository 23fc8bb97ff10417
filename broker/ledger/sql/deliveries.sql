-- Those of a tenant, the newest first: $2 is the last of the page before, $3 an endpoint, $4 a delivery, $5 a status.
select * from infermq.deliveries
 where tenant = $1 and ($2::uuid is null or id < $2) and ($3::uuid is null or webhook = $3) and ($4::uuid is null or id = $4)
   and ($5::text is null
        or $5 = case when delivered_ms is not null then 'delivered' when next_ms is null then 'failed' else 'pending' end)
 order by id desc
 limit $6
