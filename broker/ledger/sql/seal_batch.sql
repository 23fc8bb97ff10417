-- Sealing again answers the batch as it is.
update infermq.batches
   set sealed_ms = $4, jobs = $3,
       completed_ms = case when greatest($3, admitted) <= succeeded + failed + expired + cancelled + dead then $4::bigint end
 where id = $1 and tenant = $2 and sealed_ms is null
