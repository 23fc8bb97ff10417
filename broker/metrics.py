"""The metrics of a broker process: every name in one table, with its unit."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, TypeVar

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from broker.core.pools import Pool
from broker.core.records import Settled, Verdict
from broker.core.relay import Answered, Erred
from schemas.api import LaneBacklog, State
from schemas.health import TIME_BUCKETS_S
from schemas.job import Lane
from schemas.outcome import Report, Succeeded
from schemas.units import Ms

K = TypeVar("K")
V = TypeVar("V")


class _Children(dict[K, V]):
    """The series of a set of labels, made when they are first needed: to look them up by labels is slow."""

    def __init__(self, make: Callable[[K], V]) -> None:
        super().__init__()
        self._make = make

    def __missing__(self, key: K) -> V:
        made = self[key] = self._make(key)
        return made


class _Times(NamedTuple):
    queue: Histogram
    run: Histogram
    first: Histogram


class _Used(NamedTuple):
    input: Counter
    output: Counter
    cost: Counter


class BrokerMetrics:
    """The registry of a process, and the methods by which its roles update it."""

    def __init__(self, version: str = "") -> None:
        """`version` is that of infermq, for `infermq_build_info`."""
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._gauge("build_info", "1, with the version that runs.", "version").labels(version).set(1)
        self._admitted = self._counter("jobs_admitted_total", "Jobs taken into the ledger to wait.", "lane")
        self._refused = self._counter("jobs_refused_total", "Jobs recorded as failed at intake.", "lane", "code")
        self.dead_letters = self._counter("dead_letters_total", "Messages that were no job or no outcome.")
        self._connections = self._counter(
            "connections_answered_total", "Connections to NATS that servers asked about.", "answer"
        )
        self.ignored = self._counter(
            "messages_ignored_total", "Beats, catalogs, notices and replies that nobody can read.", "kind"
        )
        self.false_seals = self._counter(
            "false_seals_total", "Reports, and messages of rulings, that no broker of this system sealed."
        )
        self._dispatched = self._counter("attempts_dispatched_total", "Attempts given to a pool.", "deployment")
        self._settled = self._counter("jobs_settled_total", "Jobs that ended.", "model", "lane", "state")
        self._requeued = self._counter("jobs_requeued_total", "Jobs put back to wait, for a retry or by a release.")
        self.outcomes_dropped = self._counter(
            "outcomes_dropped_total", "Outcomes of days that the ledger has dropped."
        )
        self._tokens = self._counter("tokens_total", "Tokens of reported executions.", "deployment", "direction")
        self._failed = self._counter("attempts_failed_total", "Attempts that failed.", "deployment", "kind")
        self._requests = self._counter(
            "requests_total", "Interactive requests that ended: `answered`, or the code of the error.", "result"
        )
        self._cost = self._counter("cost_nano_usd_total", "What recorded executions cost.", "deployment")
        self.strays = self._counter("strays_total", "Attempts that no stream held, published again.")
        self.deaths = self._counter("worker_deaths_total", "Workers whose beats ended without a goodbye.")
        self.lost = self._counter("executions_lost_total", "Executions that died workers held by their last beats.")
        self.released = self._counter(
            "leases_released_total", "Leases ended early, since no worker that lives held the attempt."
        )
        self.suspects = self._gauge("suspects", "Jobs whose worker died, and that wait for a run apart or run apart.")
        self.suspected = self._counter("jobs_suspected_total", "Times that a job's worker died while it ran.")
        self.convicted = self._counter("jobs_convicted_total", "Jobs that ended because they end their workers.")
        self.expired = self._counter("jobs_expired_waiting_total", "Jobs whose deadline passed while they waited.")
        self.instruction_pages = self._counter(
            "instruction_pages_total", "Pages of orders over many jobs that were carried out."
        )
        self.catalogs_put_right = self._counter(
            "catalogs_put_right_total", "Catalogs in NATS that were not the ledger's."
        )
        self.advisories = self._counter("advisories_total", "Messages that JetStream gave up on.", "kind")
        self._mended = self._counter(
            "streams_mended_total", "Streams, buckets and consumers that were missing or had other settings."
        )
        self._measures()
        self._of_series()

    def _measures(self) -> None:
        """Add what goes up and down, and what is a duration or a size."""
        self._webhooks = self._counter(
            "webhooks_sent_total", "Messages sent to webhooks: `delivered` or `not_delivered`.", "result"
        )
        self._wrong = self._gauge("streams_wrong", "Streams, buckets and consumers that cannot be put right now.")
        self._lag = self._gauge("settle_lag_seconds", "Age of the oldest outcome of the last settled group.")
        self._outstanding = self._gauge("attempts_outstanding", "Dispatched and not settled.", "deployment")
        self._credits = self._gauge("credits", "Slots of the pool's workers, plus look-ahead.", "deployment")
        self._held = self._gauge(
            "deployment_held", "1 for the reason why no waiting job would start on it.", "deployment", "reason"
        )
        self._waiting = self._gauge("jobs_waiting", "Jobs that wait in the ledger.", "model", "lane")
        self._requests_waiting = self._gauge(
            "requests_waiting", "Interactive requests that wait at this broker for a slot.", "model"
        )
        self._request_wait = self._histogram(
            "request_wait_seconds", "How long a request waited until it had a slot.", TIME_BUCKETS_S, "model"
        )
        self._oldest = self._gauge(
            "oldest_waiting_seconds", "How long the first of them has waited.", "model", "lane"
        )
        self.leading = self._gauge("leading", "1 while this broker is the dispatch leader.")
        self._group = self._histogram("group_jobs", "Jobs in one commit.", (1, 10, 100, 1000, 2000), "role")
        self._queue = self._histogram("queue_seconds", "Admitted to leased.", TIME_BUCKETS_S, "deployment", "lane")
        self._first = self._histogram("ttft_seconds", "Leased to first token.", TIME_BUCKETS_S, "deployment", "lane")
        self._run = self._histogram("run_seconds", "Leased to outcome.", TIME_BUCKETS_S, "deployment", "lane")

    def _of_series(self) -> None:
        """Look series up by their labels once."""
        self._times = _Children[tuple[str, Lane], _Times](
            lambda key: _Times(self._queue.labels(*key), self._run.labels(*key), self._first.labels(*key))
        )
        self._used = _Children[str, _Used](
            lambda name: _Used(
                self._tokens.labels(name, "input"), self._tokens.labels(name, "output"), self._cost.labels(name)
            )
        )
        self._ended = _Children[tuple[str, Lane, State], Counter](lambda key: self._settled.labels(*key))
        self._requests_ended = _Children[str, Counter](self._requests.labels)
        http = self._counter("http_answers_total", "Answers over HTTP, by path and status.", "path", "status")
        self._http_cuts = self._counter(
            "http_cut_total", "Connections of HTTP clients that kept to no limit, by what they did.", "reason"
        )
        self._http_answers = _Children[tuple[str, int], Counter](lambda key: http.labels(*key))

    def connection_answered(self, answer: str) -> None:
        """Count an answer: `allowed`, or the code of a refusal."""
        self._connections.labels(answer).inc()

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"infermq_{name}", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"infermq_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(f"infermq_{name}", text, labels, buckets=buckets, registry=self.registry)

    def admitted(self, lane: Lane, *, waiting: int, refused: Mapping[str, int]) -> None:
        """`refused` has how many were refused, by code."""
        self._admitted.labels(lane).inc(waiting)
        for code, count in refused.items():
            self._refused.labels(lane, code).inc(count)
        self._group.labels("intake").observe(waiting + sum(refused.values()))

    def dispatched(self, deployment: str, attempts: int) -> None:
        self._dispatched.labels(deployment).inc(attempts)

    def settled(self, settled: Settled) -> None:
        counts: dict[tuple[str, Lane, State], int] = {}
        for final in settled.final:
            key = final.model, final.lane, final.state
            counts[key] = counts.get(key, 0) + 1
        for labels, count in counts.items():
            self._ended[labels].inc(count)
        self._requeued.inc(len(settled.requeued))

    def kept(self, *, mended: int, wrong: int) -> None:
        self._mended.inc(mended)
        self._wrong.set(wrong)

    def decided(self, verdicts: int, *, lag_ms: Ms) -> None:
        """Note how many reports and rulings a group had, and how long its oldest had waited."""
        self._lag.set(max(0, lag_ms) / 1000)
        self._group.labels("settle").observe(verdicts)

    def reported(self, reports: Sequence[Report], verdicts: Sequence[Verdict], lanes: Mapping[int, Lane]) -> None:
        """Count the tokens and the cost of a group of executions, and observe the latencies of a sample of its successes.

        `lanes` are those of the jobs that have ended, by the numbers of their ids. A group that comes again counts again.
        """
        ran = [one.executed for one in verdicts if one.executed is not None]
        for name in {one.deployment for one in ran}:
            theirs = [one for one in ran if one.deployment == name]
            used = self._used[name]
            used.input.inc(sum([one.usage.input_tokens for one in theirs]))
            used.output.inc(sum([one.usage.output_tokens for one in theirs]))
            used.cost.inc(sum([one.cost_nano_usd for one in theirs]))
        for one in ran:
            if one.failure is not None:
                self._failed.labels(one.deployment, one.failure).inc()
        for report in reports[:: max(1, len(reports) // _SAMPLE)]:
            if isinstance(report.outcome, Succeeded) and (lane := lanes.get(report.job.int)) is not None:
                times = self._times[report.deployment, lane]
                times.queue.observe(report.timings.queue_ms / 1000)
                times.run.observe(report.timings.run_ms / 1000)
                if report.timings.ttft_ms is not None:
                    times.first.observe(report.timings.ttft_ms / 1000)

    def request_ended(self, end: Answered | Erred) -> None:
        self._requests_ended[end.problem.code if isinstance(end, Erred) else "answered"].inc()

    def webhook_sent(self, *, is_delivered: bool) -> None:
        self._webhooks.labels("delivered" if is_delivered else "not_delivered").inc()

    def http_answered(self, path: str, status: int) -> None:
        """Count an answer; `path` is one of the API's own."""
        self._http_answers[path, status].inc()

    def http_cut(self, reason: str) -> None:
        self._http_cuts.labels(reason).inc()

    def request_waited(self, model: str, seconds: float) -> None:
        """Observe the wait of a request that found no free slot, and has one now."""
        self._request_wait.labels(model).observe(seconds)

    def requests_waiting(self, by_model: Mapping[str, int]) -> None:
        self._requests_waiting.clear()
        for model, count in by_model.items():
            self._requests_waiting.labels(model).set(count)

    def pools(self, pools: Mapping[str, Pool]) -> None:
        for deployment, pool in pools.items():
            self._outstanding.labels(deployment).set(pool.outstanding)
            self._credits.labels(deployment).set(pool.credit)

    def holds(self, pools: Mapping[str, Pool]) -> None:
        self._held.clear()
        for deployment, pool in pools.items():
            if pool.hold is not None:
                self._held.labels(deployment, pool.hold.code).set(1)

    def backlog(self, lanes: Sequence[LaneBacklog]) -> None:
        self._waiting.clear()
        self._oldest.clear()
        for lane in lanes:
            self._waiting.labels(lane.model, lane.lane).set(lane.waiting)
            self._oldest.labels(lane.model, lane.lane).set(lane.oldest_ms / 1000)


_SAMPLE = 50
"""About how many latencies of a group are observed."""
