"""Everything on one machine: `infermq up`.

up          starts the servers, one broker and the workers of a catalog, watches them and stops them in order
supervised  a child process that is started again when it ends
first_key   makes the first operator key of a system, in the ledger itself
servers     runs NATS and Postgres from wheels
certificates  makes the certificate of its NATS
secrets     makes the brokers' secret and the first keys

Only the commands, benchmarks and tests import from here.
"""
