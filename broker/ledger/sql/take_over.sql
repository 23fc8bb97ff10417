-- Counts by state how many jobs a retry took over.
update infermq.batches b
   set took = (select jsonb_object_agg(state, number) from (
                      select state, sum(number) as number from (
                             select key as state, value::bigint as number from jsonb_each_text(b.took)
                             union all
                             select * from unnest($2::text[], $3::bigint[])) both_of_them
                       group by state) summed)
 where id = $1
