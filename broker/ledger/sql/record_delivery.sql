-- What came of an attempt. When it is sent next is for the last one to say: if another broker took it over meanwhile, or
-- somebody asked for it again, this one says so only if it was delivered.
update infermq.deliveries
   set tries = case when jsonb_array_length(tries) < 30 then tries else tries - 0 end || $3::jsonb,
       delivered_ms = coalesce(delivered_ms, $4),
       next_ms = case when attempts = $2 or $4 is not null and attempts > $2 then $5 else next_ms end
 where id = $1
