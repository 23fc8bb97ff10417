-- Up to $3 jobs that died before $1 leave the dead letters.
update infermq.failures set dropped_ms = $2
 where job = any(array(
       select job from infermq.failures
        where state = 'dead' and dropped_ms is null and ended_ms < $1
        order by job limit $3 for update skip locked))
returning job
