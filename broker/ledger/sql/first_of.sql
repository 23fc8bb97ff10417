-- The job that was submitted again under this id.
select job from infermq.repeated where id = $1 and tenant = $2
