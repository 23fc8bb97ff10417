"""The data plane: a worker process serves one deployment with one engine.

cli         composition root: arguments, signals, clock, chance, exit codes
worker      its life: serve, drain, put back, die; the one ticker
leased      takes dispatched attempts from RUN; each runs, is stored, is acked
interactive takes requests from NOW; each runs, is stored, is answered
pool        what is held: the slots of the engine, and the attempts in them
run         one attempt through the engine            report      outcomes, until they are durable
leases      extends, acks                             reply       pieces, signs of life and the end, to the relay
puller      raw pulls of one consumer                 catalog     what the active catalog says of the deployment
beat        what the worker says of itself each second
metrics     what it counts                            http        /metrics and /healthz
config      what a worker is started with
ports       the Engine protocol                       core/       decides, pure: what becomes of an attempt, and when
engines/    one file an engine                        bench       an engine driven directly, for `infermq bench`

The package meets the broker on the wire only: nothing here imports `broker`, and nothing there imports this. Clock,
chance and the process's id come from `cli` (engines read the clock themselves). Nothing imports `bench`.
"""
