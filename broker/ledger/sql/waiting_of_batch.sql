-- Up to $2 jobs of a batch that wait, now or for their time, in the order in which they are found.
(select job from infermq.waiting where batch = $1 limit $2)
union all
(select job from infermq.delayed where batch = $1 limit $2)
limit $2
