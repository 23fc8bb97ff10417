-- The key of the brokers' seals: $1, unless there is one.
insert into infermq.seal_key (key) values ($1) on conflict (is_only) do update set key = seal_key.key returning key
