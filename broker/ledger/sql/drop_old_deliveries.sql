-- Up to $2 that were made before $1, if they are not sent any more, or their endpoint is gone.
delete from infermq.deliveries
 where id = any(array(
       select id from infermq.deliveries d
        where made_ms < $1 and (next_ms is null or not exists (select from infermq.webhooks w where w.id = d.webhook))
        order by made_ms limit $2 for update skip locked))
returning id
