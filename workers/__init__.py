"""The data plane: a worker process serves one deployment with one engine.

cli          reads arguments and environment, and composes the process
config       holds what a worker is started with
worker       the life of a worker: it serves, drains, puts back, or ends with its engine; it has the one ticker
life         runs a worker with its beat and the catalog, until it is over
pool         the slots of the engine, and the attempts held in them
leased       takes dispatched attempts from RUN, and acks each once its outcome is durable
interactive  takes requests from NOW or turns them back, and completes each reply once its outcome is durable
offers       offers free slots to the relays at which requests wait, and keeps dispatched attempts out of these
orders       hears what brokers tell the workers of its deployment: what to end, and how many requests wait
ward         runs what a broker sends to this worker alone, apart from all others or in a slot that it offered
puller       pulls messages of one consumer, never more than can start
run          runs one attempt in the engine
report       publishes outcomes until they are durable
reply        sends the pieces, keep-alives and end of a reply to the relay
cancels      remembers which attempts are cancelled
leases       extends leases, and acks messages
catalog      follows the active catalog's entry for the deployment
beat         publishes the worker's state each second
health       says how the worker is, from its start to its end
metrics      counts; http serves /metrics, /livez and /readyz
ports        the Engine protocol, and what engines take and return
core/        decides, pure: what becomes of an attempt, when, and what bodies and answers mean
engines/     one file for each engine
bench        drives an engine directly, for `infermq bench`

The package meets the broker only on the wire: neither imports the other. `cli` passes in the clock, random message ids
and the process id; engines read the clock themselves. Nothing imports `bench`.
"""
