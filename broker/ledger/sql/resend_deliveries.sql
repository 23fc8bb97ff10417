-- Those that are named, and those that failed of an endpoint; a thousand at most, the oldest first.
update infermq.deliveries
   set next_ms = $4, attempts = 0, delivered_ms = null
 where id in (
       select d.id from infermq.deliveries d join infermq.webhooks w on w.id = d.webhook and w.disabled_ms is null
        where d.tenant = $1 and w.tenant = $1
          and (d.id = any ($2::uuid[]) or d.webhook = $3 and d.next_ms is null and d.delivered_ms is null)
        order by d.id limit 1000)
returning id
