"""What runs by itself in a broker process.

intake     takes jobs from SUBMIT into the ledger
leader     has one broker dispatch at a time
dispatch   gives each free slot the job that the policy chooses     backlog  reads ahead what waits, for dispatch
sweep      compares what runs by the ledger with what the streams and the workers hold
settle     records what came through OUTCOME, and announces it      late_acks  lets go of what dead workers held
relay      stays in the middle of every interactive request
reserves   what this broker's relay has out of the reserves for interactive requests
limits     knows what each deployment has cost today
consumers  declares the consumers of every deployment
catalog_refresh  reads the active catalog from the ledger, in case its announcement was missed
advisories counts what JetStream gives up on
gauges     measures the backlog and what holds deployments, for the metrics
restarting starts a role again when NATS or Postgres failed under it
tasks      what runs beside a role
"""
