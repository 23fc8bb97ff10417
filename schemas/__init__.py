"""Defines the wire: the messages of producers, broker and workers, and all names in it.

It imports only the standard library and msgspec, and nats-py in `jetstream`. Any package may import it.

units      milliseconds and nano-dollars
clock      reads the time of this machine
ids        makes, derives and checks job ids
api_keys   the text of an API key
accounts   tenants, keys and roles: what is asked and answered about them
subjects   builds and parses the names of subjects, streams, consumers and buckets
jetstream  the connection to NATS, raw pulls, and publishing into streams
codec      encodes and decodes messages; names headers and content types
lenient    reads and mends JSON that is not quite JSON
job        Job (what a producer submits) and Attempt (what a worker gets)
outcome    Outcome and Report (what a worker reports), with Usage, Timings and Failure
ruling     Ruling (what a broker decides by itself): Expire, PutBack, EndRequest
worker     WorkerBeat (what a worker publishes each second)
endpoints  lists the endpoints that a model can serve
health     Liveness and Readiness (what /livez and /readyz of every process show)
catalog    Catalog: models, routes, deployments, prices
cancel     cancels of many jobs, as they are asked for
repeats    retries and replays, as they are asked for
changes    what can be changed of jobs that wait
instructions  orders over many jobs: how far they are
asks         single jobs as they are submitted over HTTP
files        stored files, as they are shown
engine_options  the engines, and the options that a catalog may set for each
api        the requests, answers and errors of the broker's API
listing    JobFilter (which jobs are meant when many are), and lists of jobs
control    the requests and answers about what was submitted already: pause, resume, who changed what
logs       has a process log to its standard error, as text or JSON
dead       dead letters: what is listed, requeued and dropped
webhooks   where tenants are told what has ended, and what they were told
urls       shows URLs without their passwords
export     exports all of it as JSON Schema
"""
