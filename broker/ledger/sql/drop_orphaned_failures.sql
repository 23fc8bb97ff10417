-- Up to $1 failures of jobs that are gone with their days: those before the first job that there is.
delete from infermq.failures
 where job = any(array(
       select job from infermq.failures
        where job < (select id from infermq.jobs order by id limit 1)
        order by job limit $1 for update skip locked))
returning job
