-- The id of the job that is $4 places before the newest below $2, if $3, else behind the oldest from $1: where a look at so
-- many jobs ends. None: there are not so many.
select id from infermq.jobs
 where id >= $1 and id < $2
 order by case when $3 then id end desc, case when not $3 then id end
offset $4 limit 1
