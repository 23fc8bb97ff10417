"""The broker's side of NATS: what it declares, pulls, publishes and subscribes to.

desired       says which streams, buckets and consumers there should be, and compares that with what there is
streams       keeps them so
connect       opens a connection as the broker needs it
callout       reads what a server asks about a connection, and writes the answer
connections   ends connections of keys
groups        pulls from a consumer and hands over all that has arrived, as one group
beats         knows the workers that are alive
catalogs      knows and publishes the active revision of the catalog
notices       what brokers tell each other and workers: jobs wait, are due, settled or cancelled
submissions   stores messages of jobs in SUBMIT
submitted     finds jobs that intake has still to take from SUBMIT
runs          publishes attempts into RUN and rulings into OUTCOME, and reads what both still hold
outcomes      decodes what came through OUTCOME: workers' reports and brokers' rulings
stored        reads what a stream holds, by direct get
directories   reads and writes the copy of the directory of keys
seal_keys     reads and writes the copy of the key of the brokers' seals
results       publishes and hears the live feed of results
request_cancels  has relays end interactive requests by their ids
request_suspects  shares between brokers which interactive requests may end their workers
dead_letters  makes the record of a message that cannot be read

Over the connection of schemas.jetstream. Only services, roles, the composition root, `infermq doctor` and benchmarks
import from here.
"""
