"""What a worker counts: every name in one table, with its unit."""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from schemas.outcome import Failed, Report, Succeeded, failure_kind

_BOUNDS_MS = (1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000, 300_000)


class Seconds(Collector):
    """A histogram that costs little to observe: every attempt goes into three."""

    def __init__(self, name: str, text: str) -> None:
        self._name = name
        self._text = text
        self._counts = [0] * (len(_BOUNDS_MS) + 1)
        self._sum_ms = 0

    def observe_ms(self, duration: int) -> None:
        self._counts[bisect_left(_BOUNDS_MS, duration)] += 1
        self._sum_ms += duration

    def collect(self) -> Iterator[HistogramMetricFamily]:
        bounds = [*(str(bound / 1000) for bound in _BOUNDS_MS), "+Inf"]
        buckets = list(zip(bounds, accumulate(self._counts), strict=True))
        yield HistogramMetricFamily(self._name, self._text, buckets=buckets, sum_value=self._sum_ms / 1000)


class Metrics:
    """One registry a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.slots = Gauge("infermq_worker_slots", "Concurrent generations.", ["kind"], registry=self.registry)
        self.running = Gauge("infermq_worker_running", "Attempts in the engine.", ["kind"], registry=self.registry)
        self.skipped = self._counter("redeliveries_skipped_total", "Attempts delivered again after their outcome.")
        self.extended = self._counter("leases_extended_total", "Leases extended.")
        self.stored = self._seconds("outcome_publish_seconds", "Outcomes given to the stream until it had them.")
        self._attempts = self._counter("attempts_total", "Attempts reported.", "outcome")
        self._succeeded = self._attempts.labels("succeeded")
        self._failures = self._counter("failures_total", "Attempts that failed, by the kind of failure.", "kind")
        tokens = self._counter("tokens_total", "Tokens of the attempts reported.", "direction")
        self._input, self._output = tokens.labels("input"), tokens.labels("output")
        self._queue = self._seconds("queue_seconds", "Admitted to leased.")
        self._run = self._seconds("run_seconds", "Leased to outcome.")
        self._first = self._seconds("ttft_seconds", "Leased to first token.")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"infermq_worker_{name}", text, labels, registry=self.registry)

    def _seconds(self, name: str, text: str) -> Seconds:
        made = Seconds(f"infermq_worker_{name}", text)
        self.registry.register(made)
        return made

    def reported(self, report: Report) -> None:
        outcome, timings = report.outcome, report.timings
        self._input.inc(outcome.usage.input_tokens)
        self._output.inc(outcome.usage.output_tokens)
        self._queue.observe_ms(timings.queue_ms)
        if not isinstance(outcome, Succeeded):
            self._attempts.labels(str(outcome.__struct_config__.tag)).inc()
            if isinstance(outcome, Failed):
                self._failures.labels(failure_kind(outcome.failure)).inc()
            return
        self._succeeded.inc()
        self._run.observe_ms(timings.run_ms)
        if timings.ttft_ms is not None:
            self._first.observe_ms(timings.ttft_ms)
