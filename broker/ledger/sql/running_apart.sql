select job, attempt, ward, suspicion from infermq.running where ward is not null
