"""The processes of a simulated world: the real broker and worker, and those who use them.

brokers       all roles of a broker                workers     the worker, with the engine `simulated`
callers       who asks over NATS                   told        kinds of jobs, and what those who ask were told of them
producing     what producers submit                meddling    what operators and tenants order meanwhile
reading       who reads what batches come to         acting      what these need
asking        requests for answers over NATS       sse         reads events
web           HTTP, from clients to brokers        web_callers who asks over HTTP
file_callers  who stores files and has batches made of them
contents      files of requests, as those make them
dialects      other APIs in which models are asked
session       an HTTP client's session for `broker.client`
keys          the keys that they show              key_makers  who makes and revokes them
catalogs      what they serve                      hooks       the endpoint of a webhook
gate          the way to the ledger                processes   what each process needs
"""
