select j.*, r.attempt as running_attempt, r.dispatched_ms, r.cancel_ms, coalesce(w.attempt, d.attempt) as waiting_attempt,
       d.not_before_ms, coalesce(w.tried, d.tried) as tried, d.suspicion, res.body, p.source as replay_of
  from infermq.jobs j
  left join infermq.running r on r.job = j.id
  left join infermq.waiting w on w.model = j.model and w.lane = j.lane and w.tenant = j.tenant
       and w.rank = -j.priority and w.deadline_ms = j.deadline_ms and w.job = j.id
  left join infermq.delayed d on d.job = j.id
  left join infermq.results res on res.job = j.id
  left join infermq.replays p on p.job = j.id
 where j.id = $1 and j.tenant = $2
