select term from infermq.leader where shard = $1
