"""Recurring reports: the API, the command, and the way from the schedule to the callback, with a killed relay."""

import json
import signal
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from infra.postgres.posts import Post, Posts
from tests.support.keys import call, create_key, until_keys_required
from tests.support.receiver import CALLBACKS_ON, Receiver, receiving
from tests.support.services import Services
from tests.support.stack import Stack, running
from tests.support.waiting import eventually, until

SCHEDULES, JOBS = "/api/2.0/report/schedules", "/api/2.0/report/jobs"
NIGHTLY: dict[str, Any] = {"name": "nightly", "cron": "0 6 * * *", "timezone": "Europe/Berlin"}
NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as started:
        yield started


@pytest.fixture
async def scheduling(
    services: Services, database: str, broker_namespace: str, tmp_path: Path, receiver: Receiver
) -> AsyncIterator[Stack]:
    """A stack with processes for reports and callbacks, whose default callback URL is the receiver."""
    settings = {**CALLBACKS_ON, "callback_url": f"{receiver.url}/default"}
    async with running(services, database, broker_namespace, tmp_path, **settings) as stack:
        yield stack


def _start_workers(stack: Stack) -> None:
    for kind in ("reports", "callbacks"):
        stack.start(kind, "consumers", kind)


def _make_due(stack: Stack, ago: str = "3 days") -> None:
    stack.rows(f"UPDATE report_schedules SET next_at = now() - interval '{ago}'")


async def _created(stack: Stack, key: str | None = None, **fields: Any) -> dict[str, Any]:
    status, answer, _ = await call(stack, "POST", SCHEDULES, key, json=fields)
    assert status == 201, answer
    return dict(answer)


async def _schedule(stack: Stack, name: str = "nightly") -> dict[str, Any]:
    status, answer, _ = await call(stack, "GET", f"{SCHEDULES}/{name}")
    assert status == 200, answer
    return dict(answer)


async def test_the_callback_of_a_missed_run_leads_to_its_result(scheduling: Stack, receiver: Receiver) -> None:
    stack = scheduling
    Posts(stack.database).fill(Post(n % 3, "word " * (n % 3 + 1), NOW) for n in range(30))
    await _created(stack, **NIGHTLY)
    assert (await _schedule(stack))["last_job"] is None
    _make_due(stack)
    _start_workers(stack)
    await until(lambda: receiver.received, bool)
    (received,) = receiver.received
    event = received.verified()
    assert (received.path, event["type"], event["data"]["reference"]) == ("/default", "report.completed", "nightly")
    code, result = await stack.get(f"{JOBS}/{event['data']['id']}/result")
    assert (code, len(result["data"])) == (200, 3)
    schedule = await _schedule(stack)
    assert (schedule["last_job"], schedule["last_status"]) == (event["data"]["id"], "completed")
    assert schedule["links"]["last_job"] == f"{JOBS}/{event['data']['id']}"
    assert schedule["next_at"] > schedule["last_at"]
    assert stack.rows("SELECT count(*) FROM jobs WHERE kind = 'report'") == [(1,)], "three missed days are one report"
    log = stack.processes["relay"].output()
    assert f"id={event['data']['id']}" in next(line for line in log.splitlines() if "report.scheduled" in line)


async def test_a_killed_relay_loses_no_run_and_repeats_none(scheduling: Stack, receiver: Receiver) -> None:
    stack = scheduling
    stack.start("standby", "consumers", "relay")
    _start_workers(stack)
    for number in range(20):
        await _created(stack, **{**NIGHTLY, "name": f"s{number}"})
    stack.processes["relay"].signal(signal.SIGKILL)
    _make_due(stack, "1 minute")
    await until(lambda: {each.verified()["data"]["reference"] for each in receiver.received}, lambda names: len(names) == 20)
    assert stack.rows("SELECT count(*), count(DISTINCT reference) FROM jobs WHERE kind = 'report'") == [(20, 20)]


async def test_while_the_broker_is_down_runs_wait_in_the_outbox(scheduling: Stack, receiver: Receiver) -> None:
    stack = scheduling
    _start_workers(stack)
    await _created(stack, **NIGHTLY)
    await until(stack.processes["relay"].output, lambda log: "relay.active" in log)
    await stack.proxies["rabbitmq"].refuse()
    _make_due(stack)

    async def accepted() -> list[tuple[object, ...]]:
        return stack.rows("SELECT status FROM jobs WHERE kind = 'report'")

    await eventually(accepted, lambda rows: rows == [("queued",)])
    await stack.proxies["rabbitmq"].accept()
    await until(lambda: receiver.received, bool)


async def test_the_api_names_each_invalid_field(scheduling: Stack) -> None:
    for fields, pointer, code in (
        ({}, "/cron", "required"),
        ({"cron": "0 0 30 2 *"}, "/cron", "unusable_cron"),
        ({"cron": "0 6 * *"}, "/cron", "unusable_cron"),
        ({"cron": "0 6 * * * " + " " * 100}, "/cron", "too_long"),
        ({"cron": 6}, "/cron", "wrong_type"),
        ({"cron": "0 6 * * *", "timezone": "Mars/Olympus"}, "/timezone", "unknown_value"),
        ({"cron": "0 6 * * *", "name": "Über"}, "/name", "string_pattern_mismatch"),
        ({"cron": "0 6 * * *", "every": "day"}, "/every", "unknown_field"),
        ({"cron": "0 6 * * *", "report": {"limit": 0}}, "/report/limit", "greater_than_equal"),
        ({"cron": "0 6 * * *", "report": {"callback_url": "http://10.1.2.3/"}}, "/report/callback_url", "refused_url"),
    ):
        status, problem, _ = await call(scheduling, "POST", SCHEDULES, json=fields)
        assert (status, [(each["pointer"], each["code"]) for each in problem["errors"]]) == (422, [(pointer, code)]), fields
    _, problem, _ = await call(scheduling, "POST", SCHEDULES, json={"cron": "0 0 30 2 *"})
    assert problem["errors"][0]["detail"] == "never matches a date"
    assert (await scheduling.get(SCHEDULES)) == (200, {"data": []})


async def test_a_repeated_request_creates_one_schedule(scheduling: Stack) -> None:
    sent = {**NIGHTLY, "report": {"order": "words", "limit": 3, "from": "2026-01-01T00:00:00+01:00", "callback_url": None}}
    status, created, response = await call(scheduling, "POST", SCHEDULES, json=sent)
    assert (status, response.headers["Location"]) == (201, f"{SCHEDULES}/nightly")
    assert created["report"] == {
        "from": "2025-12-31T23:00:00.000Z",
        "to": None,
        "user_ids": None,
        "histogram": None,
        "order": "words",
        "limit": 3,
        "callback_url": None,
    }
    assert (await call(scheduling, "POST", SCHEDULES, json=sent))[:2] == (200, created)
    status, problem, _ = await call(scheduling, "POST", SCHEDULES, json=NIGHTLY)
    assert (status, problem["code"]) == (409, "name_taken")
    unnamed = {"cron": "0 7 * * *"}
    first, second = [await call(scheduling, "POST", SCHEDULES, json=unnamed) for _ in range(2)]
    assert (first[0], second[0], first[1]) == (201, 200, second[1])
    assert "callback_url" not in first[1]["report"]
    _, listed = await scheduling.get(SCHEDULES)
    assert [row["name"] for row in listed["data"]] == ["nightly", first[1]["name"]]


async def test_a_client_may_have_a_hundred_schedules(scheduling: Stack) -> None:
    for number in range(100):
        await _created(scheduling, cron=f"{number % 60} {number // 60} * * *")
    status, problem, _ = await call(scheduling, "POST", SCHEDULES, json={"cron": "5 5 5 * *"})
    assert (status, problem["code"]) == (409, "too_many_schedules")


async def test_clients_see_their_own_schedules_and_admins_all(scheduling: Stack) -> None:
    stack = scheduling
    shop, bank = await create_key(stack, "shop"), await create_key(stack, "bank")
    admin = await create_key(stack, "ops", "--scope", "admin")
    writer = await create_key(stack, "shop", "--scope", "messages:write")
    await until_keys_required(stack)
    assert (await call(stack, "POST", SCHEDULES, writer, json=NIGHTLY))[:1] == (403,)
    await _created(stack, shop, **NIGHTLY)
    await _created(stack, bank, **NIGHTLY)
    other = f"{SCHEDULES}/nightly?client=shop"
    for method, path in (("GET", other), ("DELETE", other), ("GET", f"{SCHEDULES}?client=shop")):
        assert (await call(stack, method, path, bank))[0] == 403, (method, path)
    for name in ("daily", "Nightly", "a%00b", "x" * 64):
        assert (await call(stack, "DELETE", f"{SCHEDULES}/{name}", shop))[0] == 404, name
    assert (await call(stack, "GET", f"{SCHEDULES}?client=", shop))[0] == 422
    _, listed, _ = await call(stack, "GET", f"{SCHEDULES}?client=shop", admin)
    assert [(row["client"], row["active"]) for row in listed["data"]] == [("shop", True)]
    done = await stack.command("clients", "revoke", "shop")
    assert done.returncode == 0, done.stderr
    _, listed, _ = await call(stack, "GET", f"{SCHEDULES}?client=shop", admin)
    assert [row["active"] for row in listed["data"]] == [False]
    _make_due(stack)

    async def clients() -> list[tuple[object, ...]]:
        return stack.rows("SELECT client_id FROM jobs WHERE kind = 'report' ORDER BY client_id")

    assert await eventually(clients, bool) == [("bank",)]
    assert (await call(stack, "DELETE", other, admin))[0] == 204
    assert (await call(stack, "DELETE", other, admin))[0] == 404
    assert await clients() == [("bank",)]


async def test_the_command_schedules_lists_and_deletes(scheduling: Stack) -> None:
    stack = scheduling
    assert "no schedules" in (await stack.command("reports", "schedules")).stdout
    options = [
        "--name",
        "nightly",
        "--timezone",
        "Europe/Berlin",
        "--order",
        "words",
        "--limit",
        "5",
        "--user",
        "1",
        "--user",
        "2",
    ]
    done = await stack.command(
        "reports", "schedule", "0 6 * * *", *options,
        "--from", "2026-01-01T00:00:00Z", "--to", "2026-02-01T00:00:00Z", "--histogram", "--callback-url", "",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("nightly: the next report starts at 2")
    (row,) = json.loads((await stack.command("reports", "schedules", "--json")).stdout)
    assert (row["name"], row["cron"], row["timezone"]) == ("nightly", "0 6 * * *", "Europe/Berlin")
    assert row["report"] == {
        "from": "2026-01-01T00:00:00.000Z",
        "to": "2026-02-01T00:00:00.000Z",
        "user_ids": [1, 2],
        "order": "words",
        "limit": 5,
        "histogram": "words",
        "callback_url": None,
    }
    made = json.loads((await stack.command("reports", "schedule", "5 4 * * SUN", "--json")).stdout)
    listed = (await stack.command("reports", "schedules")).stdout
    assert "order=words" in listed and "2 users" in listed and made["name"] in listed and "never" in listed
    refused = await stack.command("reports", "schedule", "0 0 30 2 *")
    assert refused.returncode == 1 and "/cron: never matches a date" in refused.stderr
    assert (await stack.command("reports", "unschedule", "nightly")).stdout == "nightly: deleted\n"
    missing = await stack.command("reports", "unschedule", "nightly")
    assert missing.returncode == 1 and "404 not_found" in missing.stderr


async def test_without_postgres_a_schedule_gets_503(scheduling: Stack) -> None:
    await scheduling.proxies["postgres"].refuse()
    status, problem, response = await call(scheduling, "POST", SCHEDULES, json=NIGHTLY)
    assert (status, problem["code"]) == (503, "unavailable") and response.headers["Retry-After"]
    await scheduling.proxies["postgres"].accept()
    await scheduling.until_ready()
    await _created(scheduling, **NIGHTLY)
