"""API keys of a running stack: create them, call with them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from infra.keys import Scope, new_key
from infra.postgres.api_keys import ApiKeyStore
from infra.postgres.pool import DatabasePool
from tests.support.stack import Stack
from tests.support.waiting import eventually


@asynccontextmanager
async def key_store(stack: Stack) -> AsyncIterator[ApiKeyStore]:
    """The stack's API keys, on a connection of its own."""
    pool = DatabasePool(stack.database, name="test keys", threads=1)
    try:
        yield ApiKeyStore(pool)
    finally:
        pool.close()


async def create_key(stack: Stack, client: str, *options: str) -> str:
    """Create a client's key, and the client if necessary. Keys with options come from the command."""
    async with key_store(stack) as store:
        await store.create_client(client, 10)
        if not options:
            new = new_key()
            assert await store.create_key(client, new, [scope for scope in Scope if scope is not Scope.ADMIN], None, 10)
            return new.key
    done = await stack.command("keys", "create", client, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[0]


async def call(
    stack: Stack, method: str, path: str, key: str | None = None, base: str | None = None, **request: Any
) -> tuple[int, Any, "aiohttp.ClientResponse"]:
    """Send one request; return the status, the decoded body and the response."""
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with stack.session.request(method, (base or stack.base) + path, headers=headers, **request) as response:
        text = await response.text()
        return response.status, await response.json() if "json" in response.content_type else text, response


async def until_keys_required(stack: Stack) -> None:
    """Wait until the API rejects requests without a key."""

    async def status() -> int:
        return (await call(stack, "GET", "/api/2.0/report/jobs"))[0]

    await eventually(status, lambda code: code == 401, 5)
