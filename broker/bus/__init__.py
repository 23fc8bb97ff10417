"""NATS: what the broker declares, pulls, publishes and hears.

streams       every stream, bucket and consumer, declared and changed in one place
connect       a connection as the broker needs it
groups        pulls from a consumer and hands over whatever came, as one group
beats         the workers that are alive
catalogs      the active revision of the catalog
notices       what brokers tell each other: jobs that wait, attempts that are settled
runs          attempts into RUN, rulings into OUTCOME, and what both still hold
outcomes      what came through OUTCOME: workers' reports and brokers' rulings
results       the live feed of results
dead_letters  messages that are not what they should be

Raw nats-py where every microsecond counts; FastStream (broker.doors.nats_api) for control. Only services, roles and the
composition root import from here.
"""
