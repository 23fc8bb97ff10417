-- Take or renew the lease of shard $3, by the database's clock. No row: someone else holds it.
insert into infermq.leader as l (shard, holder, term, until)
values ($3, $1, 1, clock_timestamp() + $2 * interval '1 millisecond')
on conflict (shard) do update
   set term = case when l.holder = $1 and l.until > clock_timestamp() then l.term else l.term + 1 end,
       holder = $1,
       until = clock_timestamp() + $2 * interval '1 millisecond'
 where l.holder = $1 or l.until <= clock_timestamp()
returning term
