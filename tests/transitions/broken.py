"""What must hold of retries and replays, whatever happened in between, asked of the tables."""

from broker.ledger.connection import Connection

_REPEATS = """
select format('%s was repeated %s times in batch %s', p.source, count(*), j.batch) as fault
  from infermq.replays p join infermq.jobs j on j.id = p.job
 group by p.source, j.batch having count(*) > 1
union all
select format('%s jobs of the line %s are open or have succeeded', count(*), line.root)
  from (select coalesce(p.root, j.id) as root
          from infermq.jobs j left join infermq.replays p on p.job = j.id
         where j.state in ('open', 'succeeded') and (p.job is null or p.root is not null)) line
 group by line.root having count(*) > 1
union all
select format('the dead job %s was requeued %s times', p.source, count(*))
  from infermq.replays p join infermq.jobs j on j.id = p.job join infermq.instructions i on i.id = j.batch
 where i.kind = 'requeue'
 group by p.source having count(*) > 1
union all
select format('job %s repeats %s, which is %s', p.job, p.source, s.state)
  from infermq.replays p join infermq.jobs s on s.id = p.source
 where s.state = 'open' or (p.root is not null and s.state = 'succeeded')
union all
select format('job %s repeats %s of %s with another custom id', p.job, p.source, s.tenant)
  from infermq.replays p join infermq.jobs s on s.id = p.source join infermq.jobs j on j.id = p.job
 where (s.tenant, s.custom_id, s.line) is distinct from (j.tenant, j.custom_id, j.line)
union all
select format('job %s failed in batch %s before the retry %s of it, which left it out', f.job, f.batch, i.id)
  from infermq.instructions i
  join infermq.failures f on f.batch = (i.what->>'batch')::uuid
 where i.kind = 'retry' and i.ended_ms is not null and i.failure is null
   and coalesce(i.what->'states', '["failed","expired","dead"]'::jsonb) ? f.state and f.ended_ms < i.made_ms
   and not exists (select from infermq.replays p where p.root = f.job or p.job = f.job)
union all
select format('instruction %s has ended, and its batch holds %s of %s jobs, sealed with %s', i.id, b.admitted, i.counts,
              b.jobs)
  from infermq.instructions i join infermq.batches b on b.id = i.id
 where i.kind in ('retry', 'replay', 'requeue') and i.ended_ms is not null and i.failure is null
   and b.cancel_ms is null and (b.jobs is null or b.admitted <> b.jobs
        or b.admitted <> coalesce((i.counts->>'retried')::int, (i.counts->>'replayed')::int,
                                  (i.counts->>'requeued')::int, 0))
union all
select format('job %s of batch %s had settled before the replay %s of it, which left it out', j.id, j.batch, i.id)
  from infermq.instructions i
  join infermq.jobs j on j.batch = (i.what->'filter'->>'batch')::uuid
 where i.kind = 'replay' and i.ended_ms is not null and i.failure is null and j.settled_ms < i.made_ms
   and uuid_extract_timestamp(j.id) < to_timestamp(i.made_ms / 1000.0)
   and not exists (select from infermq.replays p join infermq.jobs n on n.id = p.job
                    where p.source = j.id and n.batch = i.id)
"""


async def broken_repeats(connection: Connection) -> list[str]:
    """Say where jobs were repeated twice, never or wrongly."""
    return [row["fault"] for row in await connection.fetch(_REPEATS)]
