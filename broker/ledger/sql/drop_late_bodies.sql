-- Up to $1 bodies that came for an instruction after it had ended.
delete from infermq.instruction_bodies
 where ctid = any(array(select b.ctid from infermq.instruction_bodies b
                         where not exists (
                               select from infermq.instructions i where i.id = b.instruction and i.ended_ms is null)
                         order by b.instruction, b.custom_id limit $1 for update skip locked))
returning custom_id
