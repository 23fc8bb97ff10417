-- The jobs of a batch, wherever they stand: those that ended by its results, and those that wait. Those that run are found by
-- what runs at all, a table of what runs at one time.
select job from infermq.results where batch = $1
union all
select job from infermq.waiting where batch = $1
union all
select job from infermq.delayed where batch = $1
union all
select r.job from infermq.running r cross join lateral (
       select from infermq.jobs j where j.id = r.job and j.batch = $1 offset 0) j
