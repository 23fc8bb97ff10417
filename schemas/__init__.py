"""The nouns and the wire: what producers, broker and workers say to each other.

Standard library and msgspec only, and nats-py in `jetstream`; imports nothing of ours; anyone may import it.

units      Ms, NanoUsd
clock      the time of this machine
ids        job ids: UUIDv7 made, derived, checked
subjects   every subject, stream, consumer and bucket name; build and parse
jetstream  NATS as both sides use it: the connection, raw pulls, publishing into streams
codec      headers, content types, encode and decode
job        Job (what a producer submits), Attempt (what a worker gets)
outcome    Usage, Timings, Failure, Outcome, Report (what a worker says)
ruling     Ruling (what a broker decides by itself): Expire, PutBack, EndRequest
worker     WorkerBeat
endpoints  the endpoints that a model can serve: one table
catalog    Catalog: models, routes, deployments, prices
api        the broker's API: requests, answers, errors
export     all of it as JSON Schema
"""
