-- The retries of a batch, the oldest first.
select * from infermq.batches where root = $1 order by id
