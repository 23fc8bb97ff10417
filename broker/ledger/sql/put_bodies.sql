insert into infermq.instruction_bodies (instruction, custom_id, body, model, endpoint)
select $1, * from unnest($2::text[], $3::bytea[], $4::text[], $5::text[])
on conflict (instruction, custom_id) do update
   set body = excluded.body, model = excluded.model, endpoint = excluded.endpoint
