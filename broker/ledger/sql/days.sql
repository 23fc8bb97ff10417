-- The days that stand, as the names of their partitions end. Only what is done to whole days goes by names.
select right(c.relname, 8) as day
  from pg_inherits i join pg_class c on c.oid = i.inhrelid
 where i.inhparent = 'infermq.jobs'::regclass and c.relname ~ '^jobs_\d{8}$'
