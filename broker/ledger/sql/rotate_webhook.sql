update infermq.webhooks set old_secret = secret, old_until_ms = $3, secret = $2 where id = $1
