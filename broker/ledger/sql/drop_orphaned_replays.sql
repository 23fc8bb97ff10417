-- Up to $2 links of jobs that are gone with their day, which was before the id $1.
delete from infermq.replays
 where ctid = any(array(select ctid from infermq.replays
                         where job < $1 order by job limit $2 for update skip locked))
returning job
