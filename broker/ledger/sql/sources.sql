-- The jobs to repeat, in the order given: as many as have $4 bytes of bodies, at least one. The ids are between $2 and $3. One
-- that is gone, since its day was dropped, has a null for everything.
select id, model, lane, endpoint, max_attempts, priority, line, custom_id, metadata, body
  from (select j.*, b.body, s.place,
               sum(coalesce(octet_length(b.body), 0) + 1024) over (order by s.place rows unbounded preceding) as bytes
          from unnest($1::uuid[]) with ordinality as s(job, place)
          left join lateral (
               select * from infermq.jobs j where j.id = s.job and j.id between $2 and $3 offset 0) j on true
          left join lateral (
               select b.body from infermq.bodies b where b.job = s.job and b.job between $2 and $3 offset 0) b on true) found
 where place = 1 or bytes <= $4
 order by place
