"""Everything is killed, stopped and cut off under load, and the record must come out right: `make chaos`.

test_killed, test_servers   a few faults each, as tests
test_poison                 jobs and requests that end their workers; poison_trials tries many
test_round                  of the parts of a round, and of the bugs

round       rounds of faults under load, each followed by a comparison of all that was promised with the ledger
faults      what can go wrong, drawn from a seed          machine    NATS, Postgres, brokers and workers as processes
load        producers of all kinds, and what they were told
control     people who cancel, pause, retry and replay meanwhile, and what they were told
check       compares what they were told, and what really ran, with the ledger
lossy       a way to NATS on which acknowledgements are lost
cluster     three NATS nodes, of which one is killed every so often: `make chaos-cluster`
planted     bugs planted on purpose in a copy of the source, which a round must notice: `python -m tests.chaos planted`
"""
