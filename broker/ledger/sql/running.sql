select job, attempt, deployment from infermq.running
