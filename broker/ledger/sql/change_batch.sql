-- How a batch's jobs are to be from now on; the change $3 is kept for those that come later.
update infermq.batches
   set submit_lane = coalesce(submit_lane, lane), change = $3, lane = coalesce($4, lane),
       deadline_ms = coalesce($5, deadline_ms), priority = coalesce($6, priority)
 where id = $1 and tenant = $2
