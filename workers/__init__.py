"""The data plane: a worker process serves one deployment with one engine.

cli       composition root: arguments, signals, exit codes     config    what a worker is started with
pool      leases, slots, the one ticker; drain                 puller    raw pulls of one consumer
run       one attempt through the engine                       report    outcomes, durable before anything is acked
beat      what the worker says of itself each second           metrics   what it counts
ports     the Engine protocol                                  http      /metrics and /healthz
connection   nats-py's client, with lost sockets seen          core/     decides: what becomes of a lease, and when
engines/     one file an engine

Meets the broker on the wire only: nothing here imports `broker`, and nothing there imports this.
"""
