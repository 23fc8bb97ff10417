select term from infermq.leader
