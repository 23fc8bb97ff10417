-- How many jobs of a batch ended otherwise than succeeded, by the kind of failure: of the first $2 of them.
select kind, count(*) as jobs
  from (select kind from infermq.failures where batch = $1 limit $2) f
 group by kind order by jobs desc, kind
