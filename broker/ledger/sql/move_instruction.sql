-- Counts that are null stay as they are.
update infermq.instructions
   set cursor = $2, counts = coalesce($3::jsonb, counts), next_ms = $4, ended_ms = $5, failure = $6
 where id = $1 and ended_ms is null
