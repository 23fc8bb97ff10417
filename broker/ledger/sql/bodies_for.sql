select * from infermq.instruction_bodies where instruction = $1 and custom_id = any($2::text[])
