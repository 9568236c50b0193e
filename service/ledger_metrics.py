"""The ledger's metrics, from the sample of the active relay. A standby exposes none: one process answers for the ledger."""

from collections.abc import Callable, Iterator

from prometheus_client import REGISTRY
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from infra.postgres.figures import COUNT_LIMIT, LedgerFigures

LIMITED = f"The count stops at {COUNT_LIMIT:,}."


def families() -> dict[str, GaugeMetricFamily]:
    """Empty families, by their name without the prefix."""
    described = [
        ("relay_active", "1 on the active relay, 0 on a standby.", []),
        ("queue_waiting_jobs", f"Jobs that are due and wait, paused ones included. {LIMITED}", ["queue", "provider"]),
        ("queue_oldest_seconds", "Time since the oldest waiting job became due; 0 if none waits.", ["queue", "provider"]),
        ("jobs_processing", f"Claimed jobs. {LIMITED}", []),
        ("dead_letters", f"Failed and unknown jobs that no operator has handled. {LIMITED}", ["kind", "provider", "reason"]),
        ("outbox_due_rows", f"Outbox rows that are due and not yet published. {LIMITED}", []),
        ("outbox_oldest_seconds", "Time since the oldest due outbox row became due; 0 if none is due.", []),
        ("provider_paused", "1 while an operator has paused the provider.", ["provider"]),
        ("ledger_sample_timestamp_seconds", "The instant of this sample, by Postgres' clock.", []),
    ]
    return {name: GaugeMetricFamily(f"posthaste_{name}", text, labels=labels) for name, text, labels in described}


class LedgerMetrics(Collector):
    """Exposes the latest sample. `observe` replaces it; None removes it."""

    def __init__(self, is_leading: Callable[[], bool]):
        self._is_leading = is_leading
        self._sample: LedgerFigures | None = None

    def observe(self, sample: LedgerFigures | None) -> None:
        self._sample = sample

    def register(self) -> None:
        """Expose them with the metrics of this process."""
        REGISTRY.register(self)

    def describe(self) -> list[GaugeMetricFamily]:
        return list(families().values())

    def collect(self) -> Iterator[GaugeMetricFamily]:
        found, sample = families(), self._sample
        found["relay_active"].add_metric([], self._is_leading())
        if sample is not None:
            _fill(found, sample)
        yield from found.values()


def _fill(found: dict[str, GaugeMetricFamily], sample: LedgerFigures) -> None:
    for queue in sample.queues:
        kind, _, rest = queue.name.partition(".")
        labels = [queue.name, rest.rpartition(".")[0] if kind == "messages" else ""]
        found["queue_waiting_jobs"].add_metric(labels, queue.waiting)
        found["queue_oldest_seconds"].add_metric(labels, queue.oldest_seconds or 0.0)
    for group in sample.dead_letters:
        found["dead_letters"].add_metric([group.kind, group.provider or "", group.reason], group.count)
    for provider in sample.paused:
        found["provider_paused"].add_metric([provider], 1)
    found["jobs_processing"].add_metric([], sample.processing)
    found["outbox_due_rows"].add_metric([], sample.outbox_due)
    found["outbox_oldest_seconds"].add_metric([], sample.outbox_oldest_seconds or 0.0)
    found["ledger_sample_timestamp_seconds"].add_metric([], sample.at.timestamp())
