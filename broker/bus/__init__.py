"""The broker's side of NATS: what it declares, pulls, publishes and subscribes to.

streams       declares every stream, bucket and consumer
connect       opens a connection as the broker needs it
groups        pulls from a consumer and hands over all that has arrived, as one group
beats         knows the workers that are alive
catalogs      knows and publishes the active revision of the catalog
notices       what brokers tell each other: jobs wait, a delayed job is due, attempts are settled
runs          publishes attempts into RUN and rulings into OUTCOME, and reads what both still hold
outcomes      decodes what came through OUTCOME: workers' reports and brokers' rulings
results       publishes the live feed of results
dead_letters  makes the record of a message that cannot be read

Over the connection of schemas.jetstream; only `streams`, which declares, knows nats-py. Only services, roles,
the composition root, `infermq doctor` and benchmarks import from here.
"""
