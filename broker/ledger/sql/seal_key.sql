-- The key of the brokers' seals. No row: there is none yet.
select key from infermq.seal_key
