-- When the first page of those that are not carried out yet may run. Kinds of newer brokers are left to them.
select next_ms from infermq.instructions where ended_ms is null and kind = any($1::text[]) order by next_ms limit 1
