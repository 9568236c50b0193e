"""A real Prometheus scrapes a real installation: each outage fires its alert, and no other."""

import asyncio
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml  # type: ignore[import-untyped]

from dev.ports import free_port
from dev.tools import PROMETHEUS, require
from tests.support.services import Services
from tests.support.stack import Stack, running
from tests.support.waiting import eventually

RULES = Path(__file__).parents[2] / "infra/monitoring/alerts.yml"
DELAY = "3s"  # longer than one late check of a process
OF_THE_MACHINE = {"PosthasteEventLoopBlocked", "PosthasteAcceptanceSlow"}
ROUNDS = 3  # evaluations after an alert, in which no other may fire


@dataclass
class Prometheus:
    """A Prometheus server that scrapes and evaluates twice a second, with alerts that fire after three seconds."""

    stack: Stack
    port: int
    seen: set[str] = field(default_factory=set)

    async def call(self, path: str) -> Any:
        async with self.stack.session.get(f"http://127.0.0.1:{self.port}/api/v1/{path}") as response:
            return (await response.json())["data"] if response.status == 200 else None

    async def alerts(self, *states: str) -> set[str]:
        """The alerts in these states."""
        data = await self.call("alerts")
        if data is None:
            return {"Prometheus does not answer"}
        return {each["labels"]["alertname"] for each in data["alerts"] if each["state"] in states}

    async def firing(self) -> set[str]:
        found = await self.alerts("firing")
        self.seen |= found
        return found

    async def evaluations(self, count: int) -> None:
        """Wait for so many evaluations."""
        for _ in range(count):
            before = await self._evaluated()
            await eventually(self._evaluated, lambda instant, before=before: instant != before)  # type: ignore[misc]

    async def _evaluated(self) -> str:
        data = await self.call("rules")
        return str(data["groups"][0]["lastEvaluation"]) if data else ""

    async def until_quiet(self) -> None:
        """Wait until no alert fires, and none is about to. Prometheus discovers its targets some seconds after its start."""
        await eventually(lambda: self.alerts("firing", "pending"), lambda alerts: alerts == set())

    async def fires_alone(self, alert: str) -> None:
        """Wait for the alert, and for some evaluations more. No other may fire in all that time."""
        self.seen = set()
        await eventually(self.firing, lambda alerts: alert in alerts)
        for _ in range(ROUNDS):
            await self.evaluations(1)
            await self.firing()
        assert self.seen == {alert}


def _configure(folder: Path, targets: dict[str, int]) -> Path:
    """Write the configuration, and the rules with a short delay, without those that a busy machine fires."""
    rules = yaml.safe_load(RULES.read_text())
    group = rules["groups"][0]
    group["rules"] = [{**rule, "for": DELAY} for rule in group["rules"] if rule["alert"] not in OF_THE_MACHINE]
    (folder / "alerts.yml").write_text(yaml.safe_dump(rules))
    jobs = [
        {"job_name": f"posthaste-{role}", "static_configs": [{"targets": [f"127.0.0.1:{port}"]}]}
        for role, port in targets.items()
    ]
    intervals = {"scrape_interval": "500ms", "scrape_timeout": "450ms", "evaluation_interval": "500ms"}
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump({"global": intervals, "rule_files": ["alerts.yml"], "scrape_configs": jobs}))
    return file


@asynccontextmanager
async def _serving(stack: Stack, folder: Path, targets: dict[str, int]) -> AsyncIterator[Prometheus]:
    prometheus = Prometheus(stack, free_port())
    options = [f"--config.file={_configure(folder, targets)}", f"--storage.tsdb.path={folder / 'data'}", "--log.level=error"]
    options.append(f"--web.listen-address=127.0.0.1:{prometheus.port}")
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([require(PROMETHEUS), *options], stdout=log, stderr=log)
    try:
        await eventually(lambda: _is_ready(prometheus), bool)
        yield prometheus
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)


async def _is_ready(prometheus: Prometheus) -> bool:
    try:
        return bool(await prometheus.call("rules"))
    except OSError:
        return False


@pytest.fixture
async def watched(services: Services, database: str, broker_namespace: str, tmp_path: Path) -> AsyncIterator[Prometheus]:
    ports = {"worker": free_port(), "relay": free_port()}
    own = {role: {"metrics_port": str(port)} for role, port in ports.items()}
    breaker = {"breaker": {"failures": 3, "open_seconds": 1, "cap_seconds": 1}}
    async with (
        running(services, database, broker_namespace, tmp_path, processes=own, provider=breaker) as stack,
        _serving(stack, tmp_path, {"api": stack.port, **ports}) as prometheus,
    ):
        await prometheus.evaluations(2)
        await prometheus.until_quiet()
        yield prometheus


async def test_each_outage_fires_its_alert_and_no_other(watched: Prometheus) -> None:
    stack = watched.stack
    await stack.becomes(await stack.submit(), "sent")
    for service, alert in {
        "redis": "PosthasteRedisDown",
        "rabbitmq": "PosthasteRabbitMQDown",
        "postgres": "PosthastePostgresDown",
    }.items():
        await stack.proxies[service].refuse()
        await watched.fires_alone(alert)
        await stack.proxies[service].accept()
        await watched.until_quiet()
    await _restarted(watched, "relay", "PosthasteRelayLost", lambda: stack.processes["relay"].kill())
    await _restarted(watched, "worker", "PosthasteWorkerDown", lambda: stack.processes["worker"].kill())
    await stack.becomes(await stack.submit(), "sent")


async def test_a_provider_that_cannot_be_reached_fires_its_alert(watched: Prometheus) -> None:
    stack = watched.stack
    await stack.faults(refuse_seconds=12)
    ids = [await stack.submit() for _ in range(5)]
    await watched.fires_alone("PosthasteProviderUnreachable")
    for id_ in ids:
        await stack.becomes(id_, "sent")
    await watched.until_quiet()


async def _restarted(watched: Prometheus, role: str, alert: str, kill: Callable[[], Awaitable[None]]) -> None:
    """Kill a process, wait for the alert, and start the process again."""
    await kill()
    await watched.fires_alone(alert)
    watched.stack.processes[role].start()
    await watched.until_quiet()
