"""The ways in for callers. A door makes a principal out of what the caller shows, and has no rule of its own.

nats_api    serves the API over NATS: request → use-case → answer
nats_calls  whose a call over NATS is, and where its answer may go
nats_infer  serves interactive requests over NATS: request → admission → relay
http        serves OpenAI's API over HTTP, on the same relay and use-cases
operations  the verbs of the API: what is asked, and the use-case that answers, the same for every door
requests    the way of a request to the relay, the same for every door
health      serves /metrics, /livez and /readyz
server      runs an HTTP application inside the broker's event loop, within limits
protocol    bounds what one connection may take: time, sizes, requests sent ahead
browsers    lets pages in browsers call the API over HTTP (CORS)
access_log  logs a line for each answer over HTTP
room        counts connections, in total and by address

A new door for requests calls `Requests` with a caller (ports.Caller); `broker.process` composes it.
Doors import services, the relay and the core, never the ledger or the bus. Only `broker.process` and `broker.serve` import
doors.
"""
