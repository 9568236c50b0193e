"""The three services, wherever they come from: their variables, their ports, and when they count as ready."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dev.errors import AbandonedError, NotReadyError, ServiceError
from dev.probes import amqp_answers, management_answers, postgres_answers, redis_answers

Ports = Mapping[str, int]


@dataclass(frozen=True, eq=False)
class Service:
    """One of the three. `usual_ports` are those inside a container; `candidates` those published on loopback.

    The candidates lie below the kernel's range for outgoing connections, beside the ports that these services use by
    default, and no two services share one.
    """

    name: str
    title: str
    variable: str
    usual_ports: Ports
    candidates: range
    patience: float
    variables: Callable[[Ports, str], dict[str, str]]
    check: Callable[[Ports], None]


def _postgres_variables(ports: Ports, password: str) -> dict[str, str]:
    url = f"postgresql://posthaste:{password}@127.0.0.1:{ports['postgres']}/posthaste"
    return {"POSTHASTE_DATABASE_URL": url}


def _rabbitmq_variables(ports: Ports, _password: str) -> dict[str, str]:
    # guest may only come in over loopback, where everything here listens
    return {
        "POSTHASTE_AMQP_URL": f"amqp://guest:guest@127.0.0.1:{ports['amqp']}/",
        "POSTHASTE_MANAGEMENT_URL": f"http://guest:guest@127.0.0.1:{ports['management']}",
    }


def _redis_variables(ports: Ports, _password: str) -> dict[str, str]:
    return {"POSTHASTE_REDIS_URL": f"redis://127.0.0.1:{ports['redis']}/0"}


def _check_rabbitmq(ports: Ports) -> None:
    amqp_answers(ports["amqp"])
    management_answers(ports["management"], "guest", "guest")


POSTGRES = Service(
    name="postgres",
    title="PostgreSQL",
    variable="POSTHASTE_DATABASE_URL",
    usual_ports={"postgres": 5432},
    candidates=range(20000, 21500),
    patience=60,
    variables=_postgres_variables,
    check=lambda ports: postgres_answers(ports["postgres"], "posthaste", "posthaste"),
)
RABBITMQ = Service(
    name="rabbitmq",
    title="RabbitMQ",
    variable="POSTHASTE_AMQP_URL",
    usual_ports={"amqp": 5672, "management": 15672},
    candidates=range(21500, 24500),
    patience=150,
    variables=_rabbitmq_variables,
    check=_check_rabbitmq,
)
REDIS = Service(
    name="redis",
    title="Redis",
    variable="POSTHASTE_REDIS_URL",
    usual_ports={"redis": 6379},
    candidates=range(26000, 27000),
    patience=30,
    variables=_redis_variables,
    check=lambda ports: redis_answers(ports["redis"]),
)
SERVICES = {service.name: service for service in (POSTGRES, RABBITMQ, REDIS)}


def wait_until_ready(service: Service, ports: Ports, *, ended: Callable[[], bool], interrupted: threading.Event) -> None:
    """Probe until the service answers; ServiceError once it or its patience ended, AbandonedError when told to."""
    deadline = time.monotonic() + service.patience
    while True:
        trouble = _trouble(service, ports)
        if ended():  # whoever answers then, it is not ours
            raise ServiceError("ended while it was starting")
        if trouble is None:
            return
        if time.monotonic() > deadline:
            raise ServiceError(f"was not ready within {service.patience:.0f} s: {trouble}")
        if interrupted.wait(0.1):
            raise AbandonedError


def _trouble(service: Service, ports: Ports) -> str | None:
    try:
        service.check(ports)
    except NotReadyError as reason:
        return str(reason)
    return None
