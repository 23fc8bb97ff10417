-- Says whether the good lines run: all are good, or there are some and the bad ones are left out.
update infermq.file_batches
   set lines = $2, bad = $3, checked_ms = $4, model = $5,
       failed_ms = case when $2::int > $3::int and ($3::int = 0 or skips_bad) then null else $4::bigint end
 where batch = $1
returning failed_ms is null
