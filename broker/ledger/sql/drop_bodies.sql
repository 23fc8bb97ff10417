delete from infermq.instruction_bodies where instruction = $1
