-- Which attempts of these jobs have an execution. The jobs' ids are between $2 and $3.
select job, attempt from infermq.executions where job = any($1::uuid[]) and job between $2 and $3
