-- A page of the jobs that run, with ids from $1 to below $2, the newest first if $3: up to $4.
select job from infermq.running
 where job >= $1 and job < $2
 order by case when $3 then job end desc, case when not $3 then job end
 limit $4
