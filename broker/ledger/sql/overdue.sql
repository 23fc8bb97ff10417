-- The jobs that run although their deadline passed before $1. A table of what runs at one time is read as a whole.
select job from infermq.running where deadline_ms < $1
