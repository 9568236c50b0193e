"""What a consumer process exposes and reports of itself: its breakers, its calls in progress, the services that it reaches."""

from collections.abc import Mapping
from functools import partial

from consumers.gate import Gate
from consumers.runner import Runner
from infra.monitoring import metrics
from infra.postgres.job_reads import JobReads
from infra.postgres.pool import DatabasePool
from infra.rabbitmq.publisher import Publisher
from infra.redis.figures import FiguresStore
from jobs.breaker import State
from service.activity import Activity, ActivityReports
from service.vitals import Vitals, connected, failure

CHECK_SECONDS = 0.8


def breaker_states(gates: Mapping[str, Gate]) -> dict[str, str]:
    """The state of each breaker, by provider. An operator's pause is no state of the breaker."""
    return {name: gate.breaker.state(gate.monotonic()).value for name, gate in gates.items()}


def expose(runner: Runner, gates: Mapping[str, Gate]) -> None:
    """Expose the calls in progress and the breakers. Both are read at each scrape."""
    metrics.IN_FLIGHT.set_function(lambda: runner.calls)
    for name, gate in gates.items():
        for state in State:
            metrics.BREAKER.labels(name, state).set_function(partial(_is_in, gate, state))


def _is_in(gate: Gate, state: State) -> float:
    return float(gate.breaker.state(gate.monotonic()) is state)


def vitals(reads: DatabasePool, publisher: Publisher, store: FiguresStore) -> Vitals:
    """The vital signs of a process with these connections."""
    jobs = JobReads(reads)
    return Vitals(
        {
            "postgres": lambda: failure(jobs.answers(CHECK_SECONDS)),
            "rabbitmq": connected(publisher.connected),
            "redis": lambda: failure(store.ping()),
        }
    )


def worker_reports(store: FiguresStore, activity: Activity, runner: Runner, gates: Mapping[str, Gate]) -> ActivityReports:
    """The reports of a worker."""
    return ActivityReports(store, activity, "worker", lambda: runner.calls, partial(breaker_states, gates))
