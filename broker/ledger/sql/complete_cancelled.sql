-- The batches that were cancelled before $2 and still lack jobs, which were accepted and never came here, are complete with
-- those that did. The ledger itself makes the jobs of the others, so they come.
update infermq.batches
   set completed_ms = $1
 where cancel_ms < $2 and completed_ms is null and admitted <= succeeded + failed + expired + cancelled + dead
   and retry_of is null and not is_replay and not of_file
returning id
