-- The bytes of the lines of a batch that succeeded, of which each has $2 beside its custom id and its body. Those with a line
-- break are written otherwise: they are among the others.
select coalesce(sum($2::bigint + coalesce(octet_length(to_json(j.custom_id)::text), 4) + octet_length(r.body)), 0)::bigint
  from infermq.results r join infermq.jobs j on j.id = r.job
 where r.batch = $1 and j.state = 'succeeded' and position('\x0a'::bytea in r.body) = 0 and position('\x0d'::bytea in r.body) = 0
