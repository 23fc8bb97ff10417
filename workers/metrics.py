"""Counts what a worker does. Every metric's name stands here, with its unit."""

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from schemas.health import TIME_BUCKETS_S
from schemas.outcome import Failed, Report, Succeeded, failure_kind
from workers.ports import Capacity


class WorkerMetrics:
    """The metrics of one worker process, in a registry of its own."""

    def __init__(self, version: str = "") -> None:
        """`version` is that of infermq, for `infermq_build_info`."""
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        build = Gauge("infermq_build_info", "1, with the version that runs.", ["version"], registry=self.registry)
        build.labels(version).set(1)
        self._slots = Gauge("infermq_worker_slots", "Concurrent generations.", ["kind"], registry=self.registry)
        self._running = Gauge("infermq_worker_running", "Attempts in the engine.", ["kind"], registry=self.registry)
        self.skipped = self._counter("redeliveries_skipped_total", "Attempts delivered again after their outcome.")
        self.extended = self._counter("leases_extended_total", "Leases extended.")
        self.stored = self._histogram("outcome_publish_seconds", "Outcomes given to the stream until it had them.")
        self._attempts = self._counter("attempts_total", "Attempts reported.", "outcome")
        self._succeeded = self._attempts.labels("succeeded")
        self._failures = self._counter("failures_total", "Attempts that failed, by the kind of failure.", "kind")
        tokens = self._counter("tokens_total", "Tokens of the attempts reported.", "direction")
        self._input, self._output = tokens.labels("input"), tokens.labels("output")
        self._queue = self._histogram("queue_seconds", "Admitted to leased.")
        self._run = self._histogram("run_seconds", "Leased to outcome.")
        self._first = self._histogram("ttft_seconds", "Leased to first token.")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"infermq_worker_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str) -> Histogram:
        return Histogram(f"infermq_worker_{name}", text, buckets=TIME_BUCKETS_S, registry=self.registry)

    def at_work(self, capacity: Capacity, *, leased: int, interactive: int) -> None:
        """Set the gauges to the slots, and to how many of them are taken."""
        self._slots.labels("run").set(capacity.slots)
        self._slots.labels("now").set(capacity.reserve)
        self._running.labels("run").set(leased)
        self._running.labels("now").set(interactive)

    def reported(self, report: Report) -> None:
        """Count a report: its outcome, tokens and times."""
        outcome, timings = report.outcome, report.timings
        self._input.inc(outcome.usage.input_tokens)
        self._output.inc(outcome.usage.output_tokens)
        self._queue.observe(timings.queue_ms / 1000)
        if isinstance(outcome, Succeeded):
            self._succeeded.inc()
            self._run.observe(timings.run_ms / 1000)
            if timings.ttft_ms is not None:
                self._first.observe(timings.ttft_ms / 1000)
            return
        self._attempts.labels(str(outcome.__struct_config__.tag)).inc()
        if isinstance(outcome, Failed):
            self._failures.labels(failure_kind(outcome.failure)).inc()
