"""All metrics, by Prometheus' conventions for names and units. docs/monitoring.md lists them.

Labels are bounded: route templates, providers of the configuration, statuses, and reason codes. No label has an id, an
address or a path of a request.
"""

import sys
from collections.abc import Sequence
from typing import Generic, TypeVar

from prometheus_client import Counter, Gauge, Histogram, disable_created_metrics
from prometheus_client.metrics import MetricWrapperBase

disable_created_metrics()  # type: ignore[no-untyped-call]  # they double the series

M = TypeVar("M", bound=MetricWrapperBase)

QUICK = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
CALLS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
WAITS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 86_400)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 500)


class Bound(dict[tuple[str, ...], M], Generic[M]):
    """A metric whose children are bound once: `metric["message", "sandbox"].inc()` looks a dictionary up."""

    def __init__(self, metric: M):
        super().__init__()
        self.metric = metric

    def __missing__(self, labels: tuple[str, ...]) -> M:
        child = self[labels] = self.metric.labels(*labels)
        return child


def _counter(name: str, text: str, *labels: str) -> Bound[Counter]:
    return Bound(Counter(f"posthaste_{name}", text, labels))


def _histogram(name: str, text: str, buckets: Sequence[float], *labels: str) -> Bound[Histogram]:
    return Bound(Histogram(f"posthaste_{name}", text, labels, buckets=buckets))


HTTP_SECONDS = _histogram(
    "http_request_duration_seconds",
    "Time from the request's arrival to the start of its answer. Routes are templates; long polls wait.",
    QUICK,
    "method",
    "route",
    "status",
)
ACCEPTED = _counter("jobs_accepted_total", "Jobs that were committed. Replayed requests do not count.", "kind", "provider")
TRANSITIONS = _counter(
    "job_transitions_total", "Recorded outcomes and lost leases, by the new status.", "kind", "provider", "status", "reason"
)
TIME_TO_SENT = _histogram(
    "job_time_to_sent_seconds",
    "Time from the acceptance or the last requeue to `sent` or `completed`.",
    WAITS,
    "kind",
    "provider",
)
LEASES_LOST = _counter("leases_lost_total", "Jobs that were taken back from lost workers.", "kind", "provider")
PROVIDER_SECONDS = _histogram(
    "provider_call_duration_seconds", "Duration of a provider's call, by its verdict.", CALLS, "provider", "verdict"
)
CALLBACK_SECONDS = _histogram(
    "callback_duration_seconds", "Duration of a callback's request, by its verdict.", CALLS, "verdict"
)
BREAKER = Gauge(
    "posthaste_breaker_state",
    "1 for the present state of a provider's breaker, 0 for others.",
    ["provider", "state"],
    multiprocess_mode="livemax",
)
IN_FLIGHT = Gauge(
    "posthaste_jobs_in_flight",
    "Calls of providers, receivers and reports in progress in this process.",
    multiprocess_mode="livesum",
)
REPORT_ROWS = Counter("posthaste_report_rows_total", "Posts that report jobs have read.")
BATCH_SIZE = _histogram("batch_size_items", "Items in one flush of a batcher.", SIZES, "batcher")
PUBLISHED = _counter(
    "published_messages_total",
    "Messages published, by the broker's answer: `confirmed`, or `unconfirmed` (rejected, returned or unanswered).",
    "publisher",
    "result",
)
CACHE_READS = _counter("cache_reads_total", "Reads of the status cache: `hit`, `miss`, or `error`.", "result")
LOOP_LAG = Histogram("posthaste_event_loop_lag_seconds", "Delay of a timer of the event loop.", buckets=QUICK)
DEPENDENCY_UP = Gauge(
    "posthaste_dependency_up",
    "1 if this process reaches the service: `postgres`, `rabbitmq` or `redis`.",
    ["dependency"],
    multiprocess_mode="livemin",
)
BUILD = Gauge(
    "posthaste_build_info", "1; the labels are the release.", ["version", "schema", "python"], multiprocess_mode="livemax"
)

OBJECTS: tuple[MetricWrapperBase, ...] = tuple(
    value.metric if isinstance(value, Bound) else value
    for value in list(globals().values())
    if isinstance(value, Bound | MetricWrapperBase)
)


def set_build(version: str, schema: str) -> None:
    """State the release of this process."""
    BUILD.labels(version, schema, ".".join(map(str, sys.version_info[:3]))).set(1)
