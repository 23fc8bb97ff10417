"""Everything on one machine: `infermq up`.

up       starts the servers, one broker and the workers of a catalog as child processes, and looks after them
servers  NATS and Postgres from wheels

Only the commands, benchmarks and tests import from here.
"""
