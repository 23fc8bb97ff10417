"""NATS: what the broker declares, pulls, publishes and hears.

streams    every stream, bucket and consumer, declared and changed in one place
connect    a connection as the broker needs it
groups     a raw pull consumer that hands over whatever came, as one group
heard      what is announced to everyone: workers' beats, the catalog, what waits, what is settled
letters    messages that are not what they should be
results    the live feed
outcomes   what came through OUTCOME: workers' reports and brokers' rulings
runs       attempts into RUN, rulings into OUTCOME, and what both still hold

Raw nats-py where every microsecond counts; FastStream (broker.doors.nats_api) for control. Only services, roles and the
composition root import from here.
"""
