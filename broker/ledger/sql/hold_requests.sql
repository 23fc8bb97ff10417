-- Two groups with attempts of one interactive request: the second waits here, and then sees what the first recorded.
select pg_advisory_xact_lock(hashtext('infermq.requests'), place) from unnest($1::int[]) as place
