"""Every transition of a job in any order, against the real ledger, beside a model of what each step may change.

world         the ledger, its leaders and clock, what a step may change, and whether it did just that
standing      where each job stands, as read from the tables
interrupted   connections that are lost after a number of statements
jobs          steps: submit, dispatch, report, rule, expire
controls      steps: pause, resume, park, suspects
cancels       steps: cancel jobs and batches, and rule on those that nobody reports
changes       steps: change lane, deadline and priority
repeats       steps: retry, replay, requeue, pages of instructions, merged results
same_job      steps on one job, of which two come at once
broken        what must hold of retries and replays
machine       the steps as a state machine of Hypothesis: one after the other, cut off, or two at once

A step says how each job may stand afterwards; all others must stand as before. `make machine` runs many; a short round is
one of the tests.
"""
