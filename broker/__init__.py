"""The control plane: takes jobs in, decides their order, records what they came to.

core/       decides, pure: admission, route, fairness, relay, settlement, prices, limits
ledger/     Postgres, one class an area           bus/     NATS: streams, consumers, notices
blobs/      the content of files in a directory or a bucket
roles/      what runs by itself in a broker       service/ use-cases of callers, without a transport
doors/      how callers come in: decode → use-case → encode
client/     what a Python producer imports        local/   everything on this machine: `infermq up`
cli/        the commands                          bench/   what `infermq bench` measures
simulate/   the real roles in a world of virtual time
process     composes one broker process           serve    runs it on this machine
config      its settings, checked once
errors      what adapters raise                   ports    what roles and use-cases need from outside
retrying    waits for Postgres or NATS, and bisects a group that one row spoils
batch_file  reads OpenAI Batch lines (JSONL)      metrics  what Prometheus reads
posting     sends messages to webhooks, where they may go

Each layer imports only those after it: cli, bench, simulate, local, serve, process, doors, roles, service, ledger and bus,
blobs, ports, core, schemas.
Broker and workers meet on the wire only: nothing here imports `workers`.
"""
