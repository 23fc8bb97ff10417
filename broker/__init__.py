"""The control plane: takes jobs in, decides their order, records what they came to.

core/      decides: admission, order, prices, retries, verdicts; pure
bus/       NATS                 ledger/    Postgres            http/   /metrics, /healthz
service/   what callers can ask doors/     how callers come in
intake     SUBMIT → ledger      dispatch   ledger → RUN        settle  OUTCOME → ledger
leases     of dead workers      caps       what deployments may cost a day
backlog    what waits, read ahead      sweep      what runs by the ledger against what the streams hold
roles/     what runs by itself  lead       who dispatches
serve      one broker process   up         everything on this machine
embedded   NATS and Postgres from wheels   client/ what a producer imports
batch_file  reads OpenAI Batch lines (JSONL)
cli/       the commands         bench/     what `infermq bench` measures

Meets the workers on the wire only: nothing here imports `workers`.
"""
