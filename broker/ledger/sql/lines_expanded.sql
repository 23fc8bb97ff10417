-- A batch that was cancelled while its lines were checked counts those that were, and names no bad line that it does not count.
update infermq.file_batches
   set expanded_ms = $2,
       lines = case when checked_ms is null then $3 else lines end,
       bad = case when checked_ms is null then $4 else bad end
 where batch = $1 and expanded_ms is null
