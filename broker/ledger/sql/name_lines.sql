-- Which of the lines have a custom id that no line before has.
insert into infermq.line_names (batch, name, line)
select $1, n.name, n.line from unnest($2::bytea[], $3::int[]) as n (name, line)
on conflict do nothing
returning line
