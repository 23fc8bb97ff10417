"""What runs by itself in a broker process.

intake     takes jobs from SUBMIT into the ledger
leader     has one broker dispatch at a time
dispatch   gives each free slot the job that the policy chooses     backlog  reads ahead what waits, for dispatch
sweep      compares what runs by the ledger with what the streams and the workers hold
settle     records what came through OUTCOME, and announces it      late_acks  lets go of what dead workers held
relay      stays in the middle of every interactive request
reserves   what this broker's relay has out of the reserves for interactive requests
limits     knows what each deployment has cost today
tasks      what runs beside a role
"""
