-- Two retries of the same lines: the second waits here, and then sees what the first has made.
select pg_advisory_xact_lock(hashtext('infermq.retries'), hashtext($1::text))
