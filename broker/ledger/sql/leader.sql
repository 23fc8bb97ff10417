select holder, term from infermq.leader where shard = $1 and until > clock_timestamp()
