select * from infermq.executions where job = $1 order by attempt, id
