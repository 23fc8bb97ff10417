-- A page of the failures of batch $1 behind the job $2, up to $3; each with what of its line can be retried: the failure that
-- ended last, if no job of the line is open or has succeeded, and it is of the states $4 and the kinds $5 (empty: of any).
-- With $6, only the lines of these custom ids are looked at.
with failed as materialized (
    select f.job, j.custom_id from infermq.failures f
     cross join lateral (
           select j.custom_id from infermq.jobs j where j.id = f.job offset 0) j
     where f.batch = $1 and f.job > $2 and ($6::text[] is null or j.custom_id = any($6))
     order by f.job limit $3
)
select f.job, f.custom_id, first.root, newest.job as source, newest.state
  from failed f
 cross join lateral (
       select coalesce((select p.root from infermq.replays p where p.job = f.job), f.job) as root) first
  left join lateral (
       select n.* from (
              select t.job, t.state, t.kind
                from (select first.root as job union all select p.job from infermq.replays p where p.root = first.root) line
               cross join lateral (
                     select t.job, t.state, t.kind, t.ended_ms from infermq.failures t where t.job = line.job offset 0) t
               where not exists (
                     select from infermq.replays p
                      cross join lateral (
                            select j.state from infermq.jobs j where j.id = p.job offset 0) j
                      where p.root = first.root and j.state in ('open', 'succeeded'))
               order by t.ended_ms desc, t.job desc limit 1) n
        where n.state = any($4::text[]) and (cardinality($5::text[]) = 0 or n.kind = any($5))) newest on true
 order by f.job
