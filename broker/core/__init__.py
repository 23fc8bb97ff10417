"""What the broker decides: pure functions of plain values. No I/O, no clock, no randomness, no logging.

records      the values that decisions are made of and the ledger stores
principal    who calls                                                authorise    who may do what
admit        may this job run: its entry, waiting or refused          body         what admission reads of a request
route        which deployments may run a job                          pools        what each can take, and what holds it
policy       which waiting job runs next, and where                   heads        the fronts of the flows
outstanding  attempts that are dispatched and not settled             caps         what may still be spent in a day
settle       what becomes of a job on a worker's report               ruling       … on a broker's own decision
retry        when a job is tried again                                price        what an execution cost
relay        what follows each event of an interactive request     reserve      where such a request goes
explain      why things wait, in words
"""
