-- The rows of these jobs, in their order. Their ids are between $2 and $3, which leaves all other days out of the plan.
select id, state from infermq.jobs where id = any($1::uuid[]) and id between $2 and $3 order by id for no key update
