"""The roles: what runs by itself in a broker process.

intake           takes jobs from SUBMIT into the ledger
leader           lets one broker dispatch at a time
dispatch         gives each free slot the job that fairness chooses
caps             holds dispatch to the daily caps, and reserves for what starts
backlog          reads waiting jobs ahead, for dispatch
controls_watch   knows what people have paused or cancelled
parking          keeps the jobs of paused batches out of the backlog
sweep            compares the ledger's running attempts with the streams, and repairs the difference
batch_cancels    ends what waits of cancelled batches
cancels          has workers end what is cancelled, and rules where none reports
releases         delivers again what dead workers held, and records what they ran as lost
wards            keeps what may have ended a worker apart from others, and tells who did
key_watch        knows all tenants and keys, and says who calls
callout          says who may connect to NATS
seal_key         knows the key that brokers seal attempts and rulings with
settle           records what came through OUTCOME, and announces it
failure_log      sums up failures of attempts, and requests that move, by kind, to be logged
late_acks        acks the messages of workers that died before they could
relay            stays in the middle of every interactive request
waiting          keeps the requests that wait for a slot, and tells workers how many do
reserves         counts the slots that the relay uses, and chooses where the next request goes, or waits
daily_spend      knows what each deployment has cost today, and what the relay has reserved
reconcile        keeps streams, buckets and consumers as they should be
catalog_refresh  keeps the ledger's newest catalog in force, and its copy in NATS right
instructions     carries out orders over many jobs, a page at a time
advisories       counts what JetStream gives up on
upkeep           makes the partitions of the days to come, and forgets what is long over
webhooks         sends what endpoints of webhooks are told, until they have taken it
files            drops the content of files that nobody will read again
gauges           measures the backlog and what holds deployments, for the metrics
restarting       starts a role again when NATS or Postgres failed under it, and knows how each role is
tasks            holds the tasks that run beside a role

A role and a module of the core that share a name belong together: the core decides, the role acts.
`broker.process` composes and starts them; the door for interactive requests calls the relay.
"""
