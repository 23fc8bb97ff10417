-- The newest job with an id below $1.
select id from infermq.jobs where id < $1 order by id desc limit 1
