-- How many jobs of a flow come before a place in it, counted up to a limit: never the whole backlog.
select count(*)
  from (select from infermq.waiting
         where model = $1 and lane = $2 and tenant = $3 and (rank, deadline_ms, job) < ($4, $5, $6)
         limit $7) ahead
