"""`--json`: each command's output is one JSON document, whose fields a script may read."""

import json
from typing import Any

import pytest

from tests.support.receiver import CALLBACKS_ON, receiving
from tests.support.stack import Stack


async def _json(stack: Stack, *arguments: str, code: int = 0) -> Any:
    done = await stack.command(*arguments, "--json")
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


async def test_messages_and_reports(stack: Stack) -> None:
    sent = await _json(stack, "send", "+1", "hello")
    assert set(sent) >= {"id", "status", "created_at"} and sent["status"] == "queued"
    ended = await _json(stack, "wait", sent["id"], "--timeout", "60")
    assert (ended["id"], ended["status"]) == (sent["id"], "sent")
    await stack.becomes(sent["id"], "sent")  # a write to the cache that Redis did not answer in time delays it
    assert await _json(stack, "status", sent["id"]) == {"id": sent["id"], "status": "sent"}
    stack.start("reports", "consumers", "reports")
    assert await _json(stack, "report", "--timeout", "60") == {"data": []}
    nothing = {"posts": 0, "users": 0, "oldest": None, "newest": None, "analyzed_at": None}
    assert await _json(stack, "posts", "stats") == nothing | {"is_estimate": False}
    assert (await _json(stack, "posts", "stats", "--estimate")).items() >= {"posts": 0, "users": 0, "is_estimate": True}.items()


async def test_providers_and_callbacks(stack: Stack) -> None:
    (provider,) = await _json(stack, "providers", "list")
    assert set(provider) == {"name", "url", "waiting", "processing", "paused_at"}
    assert (provider["name"], provider["paused_at"]) == ("sandbox", None)
    async with receiving(answer=410) as receiver:
        settings = {f"POSTHASTE_{name.upper()}": value for name, value in CALLBACKS_ON.items()}
        stack.environment.update(settings)
        result = await _json(stack, "callbacks", "test", receiver.url, code=1)
        assert result == {"url": receiver.url, "verdict": "rejected", "reason": "http_410", "http_status": 410}


@pytest.mark.reuses_stack
async def test_clients_and_keys(stack: Stack) -> None:
    await stack.command("clients", "create", "shop")
    made = await _json(stack, "keys", "create", "shop", "--scope", "reports")
    assert made["key"].startswith(made["prefix"])
    renewed = await _json(stack, "keys", "rotate", made["prefix"])
    (client,) = await _json(stack, "clients", "list")
    assert (client["id"], client["usable"], client["keys"]) == ("shop", 2, 2)
    keys = await _json(stack, "keys", "list", "shop")
    assert {key["prefix"] for key in keys} == {made["prefix"], renewed["prefix"]}
    assert {key["state"] for key in keys} == {"usable"} and [key["scopes"] for key in keys] == [["reports"]] * 2
    assert "hash" not in keys[0]
