"""What to do about each reason why something waits or is refused: which command to type."""

from collections.abc import Mapping

from schemas.api import HoldCode

PASSES = "it passes"

OF_HOLDS: Mapping[HoldCode, str] = {
    HoldCode.BUSY: PASSES,
    HoldCode.THROTTLED: PASSES,
    HoldCode.DRAINING: PASSES,
    HoldCode.BACKING_OFF: PASSES,
    HoldCode.SUSPECTED: PASSES,
    HoldCode.CANCELLING: PASSES,
    HoldCode.UPSTREAM_DOWN: "look at the provider, and at the deployment's base_url",
    HoldCode.NO_SLOTS: "the workers' logs say why",
    HoldCode.PAUSED: "infermq resume, once the reason is gone",
    HoldCode.SPEND_UNKNOWN: "brokers cannot read the ledger: is Postgres running, and reachable for them?",
    HoldCode.DAILY_CAP: "raise its daily_cap_usd, or wait",
    HoldCode.DENIED: "mend the key or the account, and start its workers again if the key is another",
    HoldCode.NO_WORKER: "infermq worker --deployment NAME",
    HoldCode.UNKNOWN_DEPLOYMENT: "infermq worker --deployment NAME",
    HoldCode.UNKNOWN_MODEL: "infermq apply a catalog that has it, or its jobs expire",
}
"""What an operator does about what waits."""

_CATALOG = "`infermq catalog > infermq.toml`, edit it, `infermq apply infermq.toml`"
_LATER = "or submit it as a job, which waits for its turn: `infermq submit FILE`"
OF_REFUSALS: Mapping[str, str] = {
    HoldCode.BUSY: f"`infermq worker --deployment NAME` adds a worker; {_LATER}",
    HoldCode.THROTTLED: f"`infermq status` says until when; {_LATER}",
    HoldCode.DRAINING: f"start another worker: `infermq worker --deployment NAME`; {_LATER}",
    HoldCode.SUSPECTED: "send it again in a minute",
    HoldCode.UPSTREAM_DOWN: f"`infermq status` says until when; is the deployment's base_url right? {_LATER}",
    HoldCode.NO_SLOTS: f"`infermq status` and the workers' logs say why; {_LATER}",
    HoldCode.PAUSED: "`infermq pause` lists what is paused, `infermq resume KIND NAME` lets it go on",
    HoldCode.SPEND_UNKNOWN: "brokers cannot read the ledger: `infermq doctor` says whether Postgres answers",
    HoldCode.DAILY_CAP: f"wait, or raise its daily_cap_usd: {_CATALOG}",
    HoldCode.DENIED: "mend the key or the account, then start its worker again: `infermq worker --deployment NAME`",
    HoldCode.NO_WORKER: f"start one: `infermq worker --deployment NAME`; `infermq doctor` says what is wrong; {_LATER}",
    HoldCode.UNKNOWN_DEPLOYMENT: f"add it: {_CATALOG}",
    HoldCode.UNKNOWN_MODEL: f"`infermq catalog` shows what there is; to add one: {_CATALOG}",
    "unknown_batch": "`infermq batch list` shows the batches",
    "unknown_job": "`infermq job list` shows the jobs",
    "unknown_instruction": "`infermq instruction list` shows the instructions",
    "engine_fault": "`infermq job list --state failed` shows such jobs; the worker's log says more",
    "engine_lost": "send it again; the worker's log says why its engine was lost",
    "internal": "the broker's log says why: under `infermq up` it is logs/broker.log of the data folder",
}
"""What the caller of a command does about a refusal, by its code."""
OF_UNAVAILABLE = "`infermq doctor` looks for what is wrong"
"""What to do if NATS or Postgres cannot be reached."""
OF_NO_ANSWER = "`infermq status` shows how busy it is; `infermq infer` waits longer with --timeout-s"
OF_BACKLOG = "wait until the brokers have taken in what was sent, then run the same command again"
