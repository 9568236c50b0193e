"""Dead letters are requeued by the command, over HTTP and by hand, each once, even after interruptions."""

import asyncio
import base64
import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.services import Services, management, sql
from tests.support.stack import Stack, running
from tests.support.stacks import Stacks
from tests.support.waiting import eventually

NOTHING: dict[str, Any] = {"requeued": [], "unconfigured_provider": [], "expired": []}
QUICK_RETRIES = {"retry": {"attempts": 2, "base_seconds": 0.05, "cap_seconds": 0.1}}


@pytest.fixture
async def stack(stacks: Stacks) -> AsyncIterator[Stack]:
    async with stacks.lent(provider=QUICK_RETRIES, sweep_after_seconds="1") as lent:
        yield lent


@pytest.fixture
async def proxied_stack(services: Services, database: str, broker_namespace: str, tmp_path: Path) -> AsyncIterator[Stack]:
    async with running(
        services, database, broker_namespace, tmp_path, provider=QUICK_RETRIES, sweep_after_seconds="1"
    ) as started:
        yield started


async def _dead(stack: Stack, status: int, count: int, **fields: Any) -> list[str]:
    """Create messages that the provider rejects with this status; it recovers afterwards."""
    await stack.faults(fail=1, fail_status=status)
    ids = list(await asyncio.gather(*(stack.submit(f"+{status}{n}", **fields) for n in range(count))))
    for id_ in ids:
        await stack.becomes(id_, "failed", "unknown")
    await stack.faults(fail=0)
    return ids


async def _in_dead_queue(stack: Stack) -> int:
    return await stack.ready("messages.dead")


async def _requests(stack: Stack) -> Counter[str]:
    """Raw requests at the provider, by destination."""
    return Counter(each["destination"] for each in await stack.provider("/messages"))


async def _listed(stack: Stack) -> dict[str, int]:
    ran = await stack.command("dead-letters", "list", "--json")
    assert ran.returncode == 0, ran.stderr
    return {group["reason"]: group["count"] for group in json.loads(ran.stdout)["groups"]}


async def test_one_reason_is_requeued_through_a_kill_and_each_is_sent_once_more(stack: Stack) -> None:
    await _dead(stack, 400, 150)
    await _dead(stack, 404, 40)
    assert await _listed(stack) == {"http_400": 150, "http_404": 40}
    command = [
        sys.executable,
        "-m",
        "cli",
        "dead-letters",
        "requeue",
        "--reason",
        "http_400",
        "--canary",
        "10",
        "--rate",
        "20",
        "--yes",
    ]
    first = subprocess.Popen(command, env=stack.environment, cwd=stack.folder, stdout=subprocess.DEVNULL)
    await eventually(lambda: _requests(stack), lambda counts: sum(counts.values()) > 190 + 20, 30)
    first.send_signal(signal.SIGKILL)
    first.wait()
    half = await _listed(stack)
    assert 0 < half["http_400"] < 150
    again = await stack.command("dead-letters", "requeue", "--reason", "http_400", "--yes")
    assert again.returncode == 0, again.stderr
    await stack.all_or(sent=150, failed=40)
    requests = await _requests(stack)
    assert {requests[f"+400{n}"] for n in range(150)} == {2}
    assert {requests[f"+404{n}"] for n in range(40)} == {1}
    await eventually(lambda: _in_dead_queue(stack), lambda count: count == 40)
    assert await _listed(stack) == {"http_404": 40}


async def test_canaries_that_fail_stop_the_rest(stack: Stack) -> None:
    await _dead(stack, 400, 30)
    await stack.faults(fail=1, fail_status=500)
    ran = await stack.command("dead-letters", "requeue", "--canary", "5", "--yes")
    assert ran.returncode == 4
    assert "0 of 5 canaries" in ran.stderr
    await stack.all_or(failed=30)
    assert Counter((await _requests(stack)).values()) == {1: 25, 3: 5}


async def test_a_dry_run_shows_exactly_what_would_go_and_changes_nothing(stack: Stack) -> None:
    ids = await _dead(stack, 400, 25)
    other = await _dead(stack, 404, 3, tags=["vip"], reference="r1")
    result = await stack.command("dead-letters", "requeue", "--reason", "http_400", "--dry-run", "--json")
    assert sorted(json.loads(result.stdout)["would_requeue"]) == sorted(ids)
    people = await stack.command("dead-letters", "requeue", "--tag", "vip", "--reference", "r1", "--dry-run")
    assert all(id_ in people.stdout for id_ in other) and ids[0] not in people.stdout
    assert await _listed(stack) == {"http_400": 25, "http_404": 3}
    for nothing in (["--older-than", "1h"], ["--destination", "+1"], ["--kind", "report"], ["--status", "unknown"]):
        assert json.loads((await stack.command("dead-letters", "requeue", "--dry-run", "--json", *nothing)).stdout) == {
            "would_requeue": []
        }
    refused = await stack.command("dead-letters", "requeue", "--older-than", "soon")
    assert refused.returncode == 2
    unasked = await stack.command("dead-letters", "requeue")
    assert unasked.returncode == 1 and await _listed(stack) == {"http_400": 25, "http_404": 3}


async def test_a_dead_letter_shows_its_history_and_is_exported_without_its_body(stack: Stack) -> None:
    (id_,) = await _dead(stack, 500, 1, body="secret words")
    await stack.faults(fail=1, fail_status=400)
    assert (await stack.command("dead-letters", "requeue", "--id", id_, "--yes")).returncode == 0
    await eventually(lambda: stack.record(id_), lambda record: record["reason"] == "http_400", 20)
    result = (await stack.command("dead-letters", "show", id_)).stdout
    assert all(word in result for word in ("http_500", "http_400", id_)) and "secret" not in result
    fields = dict(line.split(None, 1) for line in result.splitlines()[:18])
    assert (fields["tags"], fields["reference"], fields["status"]) == ("-", "-", "failed") and "None" not in result
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\dZ", fields["failed_at"]) and re.fullmatch(r"\d+s", fields["age"])
    as_json = json.loads((await stack.command("dead-letters", "show", id_, "--json")).stdout)
    assert (as_json["id"], as_json["tags"], [each["n"] for each in as_json["attempts"]]) == (id_, [], [1, 2, 1])
    (line,) = (await stack.command("dead-letters", "export")).stdout.splitlines()
    exported = json.loads(line)
    assert (exported["id"], exported["reason"], exported["revision"], exported["provider_code"]) == (id_, "http_400", 1, 400)
    assert "secret" not in line
    assert (await stack.command("dead-letters", "show", "01a1ff6c-bcef-7503-afba-6071d2a10df9")).returncode == 1
    keys = {each["idempotency_key"] for each in await stack.provider("/messages")}
    assert keys == {id_, f"{id_}-1"}


async def test_the_newest_letters_are_listed_with_their_ids_in_full_width(stack: Stack) -> None:
    await stack.faults(fail=1, fail_status=400)
    ids = []
    for n in range(3):
        ids.append(await stack.submit(f"+{n}" * 40))
        await stack.becomes(ids[-1], "failed")
    ran = await stack.command("dead-letters", "list", "--limit", "2")
    assert "the newest 2 of 3:" in ran.stdout
    rows = [line.split() for line in ran.stdout.splitlines() if "+" in line]
    assert [row[:5] for row in rows] == [[id_, "message", "sandbox", "failed", "http_400"] for id_ in reversed(ids[1:])]
    assert [row[6] for row in rows] == ["+2" * 40, "+1" * 40]
    listed = json.loads((await stack.command("dead-letters", "list", "--json")).stdout)
    assert [letter["id"] for letter in listed["letters"]] == ids[::-1]
    counts = await stack.command("dead-letters", "list", "--counts")
    assert ids[0] not in counts.stdout and "http_400" in counts.stdout


async def test_letters_that_may_have_been_sent_are_marked_and_keep_their_key(stack: Stack) -> None:
    (id_,) = await _dead(stack, 502, 1, delivery="at_most_once")
    ran = await stack.command("dead-letters", "requeue", "--yes")
    assert "1 of them are unknown" in ran.stdout
    await stack.becomes(id_, "sent")
    assert {each["idempotency_key"] for each in await stack.provider("/messages")} == {id_}


async def test_letters_of_a_removed_provider_need_another_one(stack: Stack) -> None:
    (id_,) = await _dead(stack, 400, 1)
    described = json.loads(stack.environment["POSTHASTE_PROVIDERS"])
    stack.environment["POSTHASTE_PROVIDERS"] = json.dumps({"other": described["sandbox"]})
    for name, command in (("worker", ["consumers", "messages"]), ("relay", ["consumers", "relay"])):
        await stack.processes[name].kill()
        stack.start(name, *command)
    leftover = await stack.command("dead-letters", "requeue", "--yes")
    assert leftover.returncode == 1 and "--provider" in leftover.stderr
    assert (await stack.command("dead-letters", "requeue", "--provider", "other", "--yes")).returncode == 0
    await stack.becomes(id_, "sent")
    assert (await stack.record(id_))["provider"] == "other"


async def test_letters_past_their_deadline_stay_unless_they_get_a_new_one(stack: Stack) -> None:
    old, young = await _dead(stack, 400, 2)
    sql(stack.database, f"UPDATE jobs SET queued_at = queued_at - interval '2 d' WHERE id = '{old}'")
    refused = await stack.command("dead-letters", "requeue", "--yes")
    assert refused.returncode == 0 and "1 left, their deadline has passed" in refused.stderr
    await stack.becomes(young, "sent")
    assert await stack.status(old) == "failed"
    assert await _post(stack, "/dead-letters/requeue", {}) == (200, {**NOTHING, "expired": [old]})
    assert (await _post(stack, "/dead-letters/discard", {"extend": True}))[0] == 422
    assert (await stack.command("dead-letters", "requeue", "--extend", "--yes")).returncode == 0
    await stack.becomes(old, "sent")


async def test_commands_say_that_no_dead_letter_matches(stack: Stack) -> None:
    for command in (["list"], ["requeue"], ["requeue", "--dry-run"], ["discard"]):
        ran = await stack.command("dead-letters", *command)
        assert (ran.returncode, ran.stdout.splitlines()[0]) == (0, "no dead letter matches"), ran.stderr
    id_ = await stack.submit()
    await stack.becomes(id_, "sent")
    ran = await stack.command("dead-letters", "show", id_)
    assert ran.returncode == 1 and f"GET /messages/{id_}/attempts" in ran.stderr


async def test_a_discarded_letter_is_gone_for_good(stack: Stack) -> None:
    (id_,) = await _dead(stack, 400, 1)
    assert (await stack.command("dead-letters", "discard", "--dry-run")).returncode == 0
    assert await stack.status(id_) == "failed"
    assert (await stack.command("dead-letters", "discard", "--yes")).returncode == 0
    await stack.becomes(id_, "discarded")
    await eventually(lambda: _in_dead_queue(stack), lambda count: count == 0)
    assert (await stack.command("dead-letters", "requeue", "--id", id_, "--yes")).returncode == 0
    assert await stack.status(id_) == "discarded"


async def test_undecodable_letters_are_listed_exported_and_discarded(stack: Stack) -> None:
    await _dead(stack, 400, 2)
    path = f"/api/exchanges/%2F/{stack.namespace}.jobs/publish"
    body = {"properties": {}, "routing_key": "messages.sandbox.normal", "payload": "not a job", "payload_encoding": "string"}
    await management(stack.services, "POST", path, body)
    await eventually(lambda: _in_dead_queue(stack), lambda count: count == 3)
    listed = json.loads((await stack.command("dead-letters", "list", "--json")).stdout)
    assert listed["undecodable"] == {"messages.dead": 1}
    lines = [json.loads(line) for line in (await stack.command("dead-letters", "export")).stdout.splitlines()]
    assert base64.b64decode(lines[-1]["base64"]) == b"not a job"
    assert (await stack.command("dead-letters", "discard", "--undecodable", "--yes")).returncode == 0
    await eventually(lambda: _in_dead_queue(stack), lambda count: count == 2)
    assert await _listed(stack) == {"http_400": 2}


async def test_a_copy_moved_to_its_work_queue_by_hand_is_sent_once(stack: Stack) -> None:
    (id_,) = await _dead(stack, 400, 1)
    queue = f"/api/queues/%2F/{stack.namespace}.messages.dead/get"

    async def take() -> Any:
        return await management(stack.services, "POST", queue, {"count": 1, "ackmode": "ack_requeue_false", "encoding": "auto"})

    (copy,) = await eventually(take, bool)
    path = f"/api/exchanges/%2F/{stack.namespace}.jobs/publish"
    body = {
        "properties": {},
        "routing_key": "messages.sandbox.normal",
        "payload_encoding": "string",
        "payload": copy["payload"],
    }
    for _ in range(3):
        await management(stack.services, "POST", path, body)
    await stack.becomes(id_, "sent")
    assert (await _requests(stack))["+4000"] == 2


async def test_dead_letters_moved_with_the_shovel_plugin_are_sent_once(stack: Stack) -> None:
    """Do as "Move messages" in the management UI: run a shovel until the queue is empty."""
    ids = await _dead(stack, 400, 20)
    await eventually(lambda: _in_dead_queue(stack), lambda count: count == 20)
    shovel = {
        "src-uri": "amqp://",
        "src-queue": f"{stack.namespace}.messages.dead",
        "src-delete-after": "queue-length",
        "dest-uri": "amqp://",
        "dest-queue": f"{stack.namespace}.messages.sandbox.normal",
    }
    path = f"/api/parameters/shovel/%2F/{stack.namespace}"
    await management(stack.services, "PUT", path, {"value": shovel})
    for id_ in ids:
        await stack.becomes(id_, "sent")
    assert Counter((await _requests(stack)).values()) == {2: 20}
    assert await _in_dead_queue(stack) == 0


async def _post(stack: Stack, path: str, body: Any) -> tuple[int, dict[str, Any]]:
    async with stack.session.post(stack.base + path, json=body) as response:
        return response.status, await response.json()


async def test_the_same_over_http(stack: Stack) -> None:
    ids = await _dead(stack, 400, 5)
    await _dead(stack, 404, 2)
    code, page = await stack.get("/dead-letters?reason=http_400&limit=3")
    assert code == 200 and [each["id"] for each in page["data"]] == sorted(ids)[:3]
    assert page["data"][0]["provider_code"] == 400 and "body" not in page["data"][0]
    rest = (await stack.get(f"/dead-letters?reason=http_400&cursor={page['next_cursor']}"))[1]
    assert ([each["id"] for each in rest["data"]], rest["next_cursor"]) == (sorted(ids)[3:], None)
    one = {"filter": {"reason": "http_400"}, "limit": 1}
    assert await _post(stack, "/dead-letters/requeue", {**one, "dry_run": True}) == (200, {"would_requeue": [sorted(ids)[0]]})
    assert await _post(stack, "/dead-letters/discard", {**one, "dry_run": True}) == (200, {"would_discard": [sorted(ids)[0]]})
    code, answer = await _post(stack, "/dead-letters/requeue", {"ids": ids[:2]})
    assert (code, sorted(answer["requeued"]), answer["unconfigured_provider"]) == (200, sorted(ids[:2]), [])
    assert await _post(stack, "/dead-letters/requeue", {"ids": ids[:2]}) == (200, NOTHING)
    code, answer = await _post(stack, "/dead-letters/discard", {"filter": {"reason": "http_404"}})
    assert code == 200 and len(answer["discarded"]) == 2
    await stack.all_or(sent=2, failed=3, discarded=2)
    await eventually(lambda: _in_dead_queue(stack), lambda count: count == 3, 20)  # the relay tidies


async def test_wrong_requests_for_dead_letters_are_named(proxied_stack: Stack) -> None:
    stack = proxied_stack
    for body, pointer in (
        ({"filter": {"colour": "red"}}, "/filter/colour"),
        ({"ids": ["x"]}, "/ids/0"),
        ({"limit": 0}, "/limit"),
        ({"limit": "5"}, "/limit"),
        ({"filter": {"failed_before": "yesterday"}}, "/filter/failed_before"),
        ({"filter": {"tag": "a\0"}}, "/filter/tag"),
        ({"provider": "nobody"}, "/provider"),
    ):
        code, answer = await _post(stack, "/dead-letters/requeue", body)
        assert (code, answer["errors"][0]["pointer"]) == (422, pointer), answer
    assert (await _post(stack, "/dead-letters/discard", {"provider": "sandbox"}))[0] == 422
    for query, name in (("status=sent", "?status"), ("limit=9999", "?limit"), ("cursor=%25", "?cursor"), ("a=b", "?a")):
        code, answer = await stack.get(f"/dead-letters?{query}")
        assert (code, answer["errors"][0]["pointer"]) == (422, name)
    await stack.proxies["postgres"].refuse()
    assert (await stack.get("/dead-letters"))[0] == 503
    assert (await _post(stack, "/dead-letters/requeue", {}))[0] == 503


async def test_the_requeue_script_previews_asks_and_requeues(stack: Stack) -> None:
    (id_,) = await _dead(stack, 400, 1)
    script = Path(sys.executable).with_name("posthaste-requeue")
    assert os.access(script, os.X_OK)

    async def run(*options: str, answer: str = "") -> "subprocess.CompletedProcess[str]":
        command = [str(script), *options]
        return await asyncio.to_thread(
            subprocess.run,
            command,
            input=answer,
            env=stack.environment,
            cwd=stack.folder,
            text=True,
            capture_output=True,
            check=False,
        )

    dry = await run("--reason", "http_400", "--dry-run", "--json")
    assert (dry.returncode, json.loads(dry.stdout)) == (0, {"would_requeue": [id_]}), dry.stderr
    declined = await run(answer="n\n")
    assert declined.returncode == 0 and "http_400" in declined.stdout and "Requeue 1?" in declined.stdout
    assert await stack.status(id_) == "failed"
    requeued = await run(answer="y\n")
    assert requeued.returncode == 0 and "1 requeued" in requeued.stdout, requeued.stderr
    await stack.becomes(id_, "sent")
