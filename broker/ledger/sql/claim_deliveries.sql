-- Takes the first message that is due to each endpoint, except to those in $3: they have as many on their way as they may.
-- If its broker is killed before it has recorded what came of it, it is due again at $2. Where nothing is due, no endpoint
-- is looked at.
with due as materialized (
    select d.id, w.url, w.secret, case when w.old_until_ms > $1 then w.old_secret end as old_secret
      from infermq.webhooks w
     cross join lateral (
           select id, next_ms from infermq.deliveries
            where webhook = w.id and next_ms <= $1
            order by next_ms limit 1
              for update skip locked) d
     where exists (select from infermq.deliveries where next_ms <= $1)
       and w.disabled_ms is null and not w.id = any ($3::uuid[])
     order by d.next_ms
     limit $4
)
update infermq.deliveries d
   set next_ms = $2, attempts = d.attempts + 1
  from due
 where d.id = due.id
returning d.id, d.webhook, d.event, d.type, d.data, d.made_ms, d.attempts, due.url, due.secret, due.old_secret
