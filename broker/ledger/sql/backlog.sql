-- Job ids begin with their time, so the least of them is about the oldest.
select model, lane, count(*) as waiting, min(job::text)::uuid as oldest from infermq.waiting group by model, lane
