update infermq.api_keys set expires_ms = least(expires_ms, $3) where tenant = $1 and id = $2
