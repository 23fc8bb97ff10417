"""What the broker decides: pure functions of plain values. No I/O, no clock, no randomness, no logging.

Each question has one place:

principal    who calls
authorise    who may do what
admit        may this job run: its entry, waiting or refused
body         what admission reads of a request
route        which deployments may run a job
pools        what each deployment can take now, and what holds it
backlog      what waits, read ahead, flow by flow
fairness     which waiting job runs next, and where
outstanding  which attempts are dispatched and not settled
relay        what follows each event of an interactive request
reserve      where an interactive request goes
settle       what becomes of a job on a worker's report
ruling       what becomes of a job on a broker's own decision
retry        when a job is tried again
price        what an execution cost
limits       what may still be spent in a day
explain      why things wait, in words
records      the values that decisions are made of and the ledger stores
"""
