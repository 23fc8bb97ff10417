-- The retries of some batches, the oldest first.
select * from infermq.batches where root = any($1::uuid[]) order by root, id
