-- What waits for an endpoint is not sent any more.
update infermq.deliveries set next_ms = null where webhook = $1 and next_ms is not null returning id
