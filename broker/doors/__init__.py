"""How callers come in. A door makes a principal out of what the caller shows, and has no rule of its own.

nats_api    the API over NATS: request → use-case → answer
nats_infer  interactive requests over NATS: request → admission → relay
health      /metrics and /healthz
server      runs an HTTP application inside the broker's event loop

Doors import services, the relay and the core, never the ledger or the bus. Only `broker.serve` imports doors.
"""
