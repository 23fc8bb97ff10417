-- A piece of the body of a job's request, from the offset $2 on.
select substring(body from $2 + 1 for $3) as piece from infermq.bodies where job = $1
