"""The systems that are compared: their commands, environments and settings."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.peers.servers import NAME, ROOT, Servers

PEERS_PYTHON = ROOT / ".venv-bench/bin/python"
_SERVICES = "benchmarks.peers.services"
Command = tuple[str, ...]


@dataclass(frozen=True)
class System:
    """One system: the commands that prepare it, its API, its workers and its other processes, by role."""

    name: str
    title: str
    api: Command
    worker: Command | None = None
    others: Mapping[str, Command] = field(default_factory=dict)
    prepare: tuple[Command, ...] = ()
    packages: tuple[str, ...] = ()
    queue: str = ""  # "RabbitMQ", "Postgres" or none
    settings: str = ""
    is_peer: bool = True
    has_batches: bool = False

    def environment(self, servers: Servers, provider: str, port: int, folder: Path) -> dict[str, str]:
        """The variables of every process of this system."""
        own = _posthaste(servers, provider, port) if self.name.startswith("posthaste") else _peer(servers, provider)
        path = os.pathsep.join((str(PEERS_PYTHON.parent), os.environ["PATH"]))
        return {"PYTHONPATH": str(ROOT), "PATH": path, "HOME": str(folder), **own}


def _posthaste(servers: Servers, provider: str, port: int) -> dict[str, str]:
    """Addresses only: everything else has its default."""
    return {
        "POSTHASTE_AMQP_URL": servers.amqp,
        "POSTHASTE_DATABASE_URL": servers.database,
        "POSTHASTE_REDIS_URL": servers.redis,
        "POSTHASTE_NAMESPACE": NAME,
        "POSTHASTE_PORT": str(port),
        "POSTHASTE_PROVIDERS": json.dumps({"sink": {"url": f"{provider}/message"}}),
    }


def _peer(servers: Servers, provider: str) -> dict[str, str]:
    return {
        "BENCH_AMQP_URL": servers.amqp,
        "BENCH_DATABASE_URL": servers.database,
        "BENCH_REDIS_URL": servers.redis,
        "BENCH_PROVIDER_URL": f"{provider}/message",
    }


def _uvicorn(module: str) -> Command:
    options = ("--host", "127.0.0.1", "--port", "{port}", "--no-access-log", "--log-level", "warning", "--backlog", "1024")
    return (str(PEERS_PYTHON), "-m", "uvicorn", f"{_SERVICES}.{module}:app", *options)


def _own(*words: str) -> Command:
    return (sys.executable, "-m", "cli", *words)


def _module(*words: str) -> Command:
    return (str(PEERS_PYTHON), "-m", *words)


_PROCRASTINATE = ("procrastinate", f"--app={_SERVICES}.procrastinate_service.jobs")

SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (
        System(
            "bare",
            "bare Starlette route",
            _uvicorn("bare"),
            packages=("starlette", "uvicorn", "uvloop", "httptools"),
            settings="No queue: the route parses the JSON, makes an id and answers.",
            is_peer=False,
        ),
        System(
            "posthaste",
            "Posthaste",
            _own("api"),
            _own("consume", "messages"),
            {"relay": _own("relay")},
            (_own("migrate"),),
            queue="RabbitMQ",
            settings="Default settings: quorum queues, confirms, a ledger in Postgres, 64 slots.",
            is_peer=False,
            has_batches=True,
        ),
        System(
            "posthaste2",
            "Posthaste, two API processes",
            _own("api", "--workers", "2"),
            others={"relay": _own("relay")},
            prepare=(_own("migrate"),),
            settings="As above, with `posthaste api --workers 2`. No worker: it accepts and answers statuses.",
            is_peer=False,
        ),
        System(
            "celery",
            "Celery",
            _uvicorn("celery_service"),
            _module(
                *("celery", "-A", f"{_SERVICES}.celery_service:tasks", "worker", "-P", "threads", "-c", "64"),
                *("--without-gossip", "--without-mingle", "--loglevel", "WARNING"),
            ),
            packages=("celery", "kombu", "amqp"),
            queue="RabbitMQ",
            settings="Quorum queue, `confirm_publish`, `task_acks_late`, prefetch 128, 64 threads. Status in Redis.",
        ),
        System(
            "dramatiq",
            "Dramatiq",
            _uvicorn("dramatiq_service"),
            _module("dramatiq", f"{_SERVICES}.dramatiq_service", "--processes", "1", "--threads", "64"),
            packages=("dramatiq", "pika"),
            queue="RabbitMQ",
            settings="Classic durable queue (it has no other), `confirm_delivery`, prefetch 128, 64 threads. Status in Redis.",
        ),
        System(
            "taskiq",
            "Taskiq",
            _uvicorn("taskiq_service"),
            _module(
                *("taskiq", "worker", f"{_SERVICES}.taskiq_service:broker", "--workers", "1"),
                *("--max-async-tasks", "64", "--max-prefetch", "64", "--log-level", "WARNING"),
            ),
            packages=("taskiq", "taskiq-aio-pika", "taskiq-redis", "aio-pika"),
            queue="RabbitMQ",
            settings="Quorum queue, confirms, acknowledged once saved, qos 128, 64 tasks. Status: its result in Redis.",
        ),
        System(
            "faststream",
            "FastStream",
            _uvicorn("faststream_service"),
            _module("faststream", "run", f"{_SERVICES}.faststream_service:worker", "--log-level", "warning"),
            packages=("faststream", "aio-pika"),
            queue="RabbitMQ",
            settings="Quorum queue, confirms, `persist`, `NACK_ON_ERROR`, prefetch 64. Status in Redis.",
        ),
        System(
            "procrastinate",
            "Procrastinate",
            _uvicorn("procrastinate_service"),
            _module(*_PROCRASTINATE, "worker", "--concurrency", "64"),
            prepare=(_module(*_PROCRASTINATE, "schema", "--apply"),),
            packages=("procrastinate", "psycopg"),
            queue="Postgres",
            settings="A table in Postgres, LISTEN/NOTIFY, 64 tasks, stalled jobs retried every 5 s. Status: its table.",
        ),
    )
}
