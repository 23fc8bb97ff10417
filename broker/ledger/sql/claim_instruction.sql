-- Holds the instruction whose next page has waited longest. One that another broker holds is left to it; a broker that
-- stops in the middle of a page (and is not killed, which would end its transaction) loses it after half a minute.
select *, set_config('idle_in_transaction_session_timeout', '30s', true)
  from infermq.instructions
 where ended_ms is null and next_ms <= $1 and kind = any($2::text[])
 order by next_ms, id limit 1
   for update skip locked
