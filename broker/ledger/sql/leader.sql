select holder, term from infermq.leader where until > clock_timestamp()
