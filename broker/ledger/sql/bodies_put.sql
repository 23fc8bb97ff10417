select count(*) from infermq.instruction_bodies where instruction = $1
