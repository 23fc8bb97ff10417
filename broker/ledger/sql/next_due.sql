select min(least(not_before_ms, deadline_ms)) from infermq.delayed
