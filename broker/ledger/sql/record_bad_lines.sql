insert into infermq.bad_lines (batch, line, fault)
select $1, b.line, b.fault from unnest($2::int[], $3::text[]) as b (line, fault)
on conflict do nothing
