"""`posthaste doctor` names each problem and its fix; `make demo` accounts for every message."""

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aio_pika
import pytest

from cli import doctor
from dev.stack import as_variables, environment_without_settings
from service.settings import load
from tests.support.processes import run_command
from tests.support.services import Services
from tests.support.stack import Stack
from tests.support.waiting import eventually


async def _doctor(stack: Stack, **changed: str) -> tuple[int, dict[str, Any]]:
    """Run the command in this process: a new one each time would dominate the test."""
    environment = {**stack.environment, **{f"POSTHASTE_{name.upper()}": value for name, value in changed.items()}}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment.items():
            patch.setenv(name, value)
        settings = load()
    findings = await doctor.examine(settings)
    return int(not doctor.healthy(findings)), {"findings": [asdict(finding) for finding in findings]}


def _wrong(report: dict[str, Any]) -> dict[str, str]:
    return {finding["subject"]: finding["fix"] for finding in report["findings"] if finding["verdict"] == "wrong"}


async def test_a_healthy_system_is_called_healthy(stack: Stack) -> None:
    stack.start("reporter", "consumers", "reports")
    await stack.becomes(await stack.submit(), "sent")
    await eventually(lambda: asyncio.to_thread(stack.processes["reporter"].output), lambda text: "consumer" in text, 20)
    ran = await stack.command("doctor", "--json")
    code, report = ran.returncode, json.loads(ran.stdout)
    assert (code, report["healthy"], _wrong(report)) == (0, True, {})
    subjects = {finding["subject"] for finding in report["findings"]}
    assert subjects >= {
        "postgres",
        "schema",
        "clock",
        "relay",
        "rabbitmq",
        "topology",
        "workers",
        "redis",
        "api",
        "provider sandbox",
    }


async def test_each_problem_is_named_with_its_fix(stack: Stack) -> None:
    await stack.becomes(await stack.submit(), "sent")
    for service, variable in (("postgres", "DATABASE_URL"), ("rabbitmq", "AMQP_URL"), ("redis", "REDIS_URL")):
        await stack.proxies[service].refuse()
        code, report = await _doctor(stack)
        assert code == 1 and variable in _wrong(report)[service], report
        await stack.proxies[service].accept()
    for process, subject in (("worker", "workers"), ("relay", "relay"), ("api", "api")):
        await stack.processes[process].kill()
        # RabbitMQ and Postgres notice a moment later that a killed process is gone.
        code, report = await eventually(lambda: _doctor(stack), lambda result, subject=subject: subject in _wrong(result[1]))  # type: ignore[misc]
        assert code == 1 and "posthaste up" in _wrong(report)[subject], report
    code, report = await _doctor(stack, namespace="another")
    assert "POSTHASTE_NAMESPACE" in _wrong(report)["schema"]
    stack.services.sql("UPDATE alembic_version SET version_num = '0001'", stack.database.rpartition("/")[2])
    code, report = await _doctor(stack)
    assert _wrong(report)["schema"] == "`posthaste migrate`"


async def test_a_queue_with_other_arguments_is_explained(stack: Stack) -> None:
    name = f"{stack.namespace}.messages.sandbox.high"
    for process in ("api", "worker", "relay"):
        await stack.processes[process].kill()
    async with await aio_pika.connect(stack.services.amqp) as connection:
        channel = await connection.channel()
        await channel.queue_delete(name)
        _, report = await _doctor(stack)
        assert "declares all queues" in _wrong(report)["topology"]
        await channel.declare_queue(name, durable=True)
    _, report = await _doctor(stack)
    detail = next(finding["detail"] for finding in report["findings"] if finding["subject"] == "topology")
    assert name in detail and "406" in detail
    assert "rebuild" in _wrong(report)["topology"]


async def test_jobs_of_a_removed_provider_are_named(stack: Stack) -> None:
    await stack.processes["worker"].kill()
    await stack.submit()
    _, report = await _doctor(
        stack, providers='{"other": {"url": "http://127.0.0.1:1/", "timeout_seconds": 1}}', default_provider="other"
    )
    assert "'sandbox'" in _wrong(report)["providers"]
    warned = [finding["subject"] for finding in report["findings"] if finding["verdict"] == "warning"]
    assert "provider other" in warned


async def test_settings_that_do_not_fit_have_an_exit_code_of_their_own(stack: Stack) -> None:
    stack.environment["POSTHASTE_LEASE_SECONDS"] = "1.5"
    ran = await stack.command("doctor")
    assert ran.returncode == 2
    assert "POSTHASTE_LEASE_SECONDS" in ran.stderr and "timeout_seconds" in ran.stderr


async def test_the_demo_accounts_for_every_message(services: Services, tmp_path: Path) -> None:
    environment = {
        **environment_without_settings(),
        **as_variables({"database_url": services.database, "amqp_url": services.amqp, "redis_url": services.redis}),
        "COLUMNS": "100",
    }
    ran = await run_command(["--count", "60"], environment, tmp_path, module="dev.demo")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "Every message is accounted for" in ran.stdout
    cells = {
        row[0].strip(): row[1].strip()
        for row in (line.strip("│ ").split("│") for line in ran.stdout.splitlines())
        if len(row) == 2
    }
    assert (cells["accepted"], cells["lost"]) == ("60", "0")
    assert services.sql("SELECT count(*) FROM pg_database WHERE datname = 'posthaste_demo'") == [(0,)]
