insert into infermq.replays (job, source, root) select * from unnest($1::uuid[], $2::uuid[], $3::uuid[])
