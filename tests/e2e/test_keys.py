"""API keys: authentication, scopes, revocation, and the isolation of clients."""

import asyncio
import re
import time
from pathlib import Path

import aiohttp
import pytest
from redis import Redis

from api.callers import REFRESH_SECONDS
from dev.ports import free_port
from infra.keys import matches, new_key, prefix_of
from tests.support.keys import call, create_key, key_store, until_keys_required
from tests.support.services import Services, sql
from tests.support.stack import MESSAGE, Stack, running
from tests.support.waiting import eventually


@pytest.mark.reuses_stack
async def test_a_key_is_needed_from_the_first_one_on(stack: Stack) -> None:
    assert (await call(stack, "POST", "/messages", json=MESSAGE))[0] == 202
    key = await create_key(stack, "shop")
    await until_keys_required(stack)
    status, problem, response = await call(stack, "POST", "/messages", json=MESSAGE)
    assert (status, problem["code"]) == (401, "unauthorized")
    assert response.headers["WWW-Authenticate"].startswith("Bearer")
    other = new_key().key
    for wrong in ("", "x", key[:-1], key + "a", key[:12] + other[12:], other, key.upper(), f"{key} {key}"):
        assert (await call(stack, "POST", "/messages", wrong, json=MESSAGE))[0] == 401, wrong
    async with stack.session.post(stack.base + "/messages", json=MESSAGE, headers={"Authorization": f"Basic {key}"}) as refused:
        assert refused.status == 401
    status, accepted, _ = await call(stack, "POST", "/messages", key, json=MESSAGE)
    assert status == 202
    assert (await call(stack, "GET", f"/messages/{accepted['id']}", key))[0] == 200
    for path in ("/health/live", "/health/ready", "/version"):
        assert (await call(stack, "GET", path))[0] == 200
    assert stack.rows("SELECT client_id, count(*) FROM jobs GROUP BY client_id ORDER BY 1") == [("default", 1), ("shop", 1)]


async def test_the_key_itself_is_kept_nowhere(stack: Stack) -> None:
    key = await create_key(stack, "shop")
    ((prefix, hash_),) = stack.rows("SELECT prefix, hash FROM api_keys")
    assert prefix == prefix_of(key) and matches(key, str(hash_)) and key not in str(hash_)
    listed = (await stack.command("keys", "list")).stdout
    assert str(prefix) in listed and key not in listed
    await until_keys_required(stack)
    await call(stack, "POST", "/messages", key, json=MESSAGE)
    assert all(key not in process.output() for process in stack.processes.values())


@pytest.mark.reuses_stack
async def test_a_key_may_do_what_its_scopes_say(stack: Stack) -> None:
    reader = await create_key(stack, "shop", "--scope", "messages:read")
    writer = await create_key(stack, "shop", "--scope", "messages:write")
    await until_keys_required(stack)
    status, accepted, _ = await call(stack, "POST", "/messages", writer, json=MESSAGE)
    assert status == 202
    assert (await call(stack, "GET", f"/message/{accepted['id']}/status", reader))[0] == 200
    refused = [
        (reader, "POST", "/messages"),
        (writer, "GET", f"/message/{accepted['id']}/status"),
        (reader, "POST", "/api/2.0/report/posts"),
        (reader, "GET", "/api/1.0/report/posts"),
        (writer, "GET", "/dead-letters"),
        (reader, "POST", "/dead-letters/requeue"),
    ]
    for key, method, path in refused:
        status, problem, _ = await call(stack, method, path, key)
        assert (status, problem["code"]) == (403, "forbidden"), (method, path)


async def test_a_revoked_key_is_refused_by_every_process_within_a_second(stack: Stack) -> None:
    port = free_port()
    stack.start("api-2", "api", port=str(port))
    bases = [stack.base, f"http://127.0.0.1:{port}"]
    key, other, *more = [await create_key(stack, "shop") for _ in range(5)]
    await until_keys_required(stack)
    await stack.faults(hang=1)
    _, accepted, _ = await call(stack, "POST", "/messages", key, json=MESSAGE)

    async def becomes(code: int, key: str) -> None:
        """Wait until each process answers with this status."""
        for base in bases:

            async def status(base: str = base) -> int:
                try:
                    return (await call(stack, "GET", f"/message/{accepted['id']}/status", key, base))[0]
                except aiohttp.ClientConnectionError:
                    return 0

            await eventually(status, lambda code_now: code_now == code, 20)

    async def seconds_until_refused(key: str) -> float:
        await becomes(200, key)
        async with key_store(stack) as book:
            assert await book.revoke(key[:11], 10) == 1
        revoked_at = time.monotonic()
        await becomes(401, key)
        return time.monotonic() - revoked_at

    await becomes(200, key)
    headers = {"Authorization": f"Bearer {key}"}
    async with stack.session.get(f"{bases[0]}/messages/{accepted['id']}/events", headers=headers) as stream:
        while not (await stream.content.readline()).startswith(b"id: "):  # whichever version it begins with
            assert not stream.content.at_eof()
        done = await stack.command("keys", "revoke", key[:11])
        assert done.returncode == 0, done.stderr
        await becomes(401, key)
        async with asyncio.timeout(20):
            await stream.read()  # what was streaming under it has ended, too
    assert 2 * REFRESH_SECONDS < 1  # the time between two refreshes, and a refresh
    assert max([await seconds_until_refused(each) for each in more]) < 5  # and what a busy machine adds
    assert (await call(stack, "GET", f"/message/{accepted['id']}/status", other))[0] == 200
    done = await stack.command("clients", "revoke", "shop")
    assert "1 keys of shop revoked" in done.stdout
    assert (await stack.command("clients", "revoke", "shpo")).returncode == 1
    assert (await stack.command("keys", "revoke", key[:11])).returncode == 1


_BREAK_KEYS = """
CREATE SEQUENCE failures;
CREATE FUNCTION fail() RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN PERFORM nextval('failures'); RAISE EXCEPTION 'could not read block' USING ERRCODE = '58030'; END $$;
ALTER TABLE api_keys RENAME TO unread_keys;
CREATE VIEW api_keys AS SELECT * FROM unread_keys WHERE fail();
"""
_MEND_KEYS = "DROP VIEW api_keys; ALTER TABLE unread_keys RENAME TO api_keys;"


async def test_a_revoked_key_is_refused_after_an_io_error_of_the_database(stack: Stack) -> None:
    key = await create_key(stack, "shop")
    await until_keys_required(stack)

    async def works() -> int:
        return (await call(stack, "GET", "/dead-letters", key))[0]

    assert await works() == 200
    sql(stack.database, _BREAK_KEYS)

    async def failed() -> bool:
        return stack.rows("SELECT is_called FROM failures") == [(True,)]

    await eventually(failed, bool, 10)
    sql(stack.database, _MEND_KEYS)
    assert (await stack.command("keys", "revoke", key[:11])).returncode == 0
    await eventually(works, lambda code: code == 401, 10)


@pytest.mark.reuses_stack
async def test_rotation_has_an_overlap_and_a_key_can_expire(stack: Stack) -> None:
    old = await create_key(stack, "shop", "--scope", "reports", "--expires", "30")
    await until_keys_required(stack)
    path = "/api/2.0/report/jobs"

    async def works(key: str) -> int:
        return (await call(stack, "GET", path, key))[0]

    rotated = await stack.command("keys", "rotate", old[:11])
    new = rotated.stdout.splitlines()[0]
    assert [await works(old), await works(new)] == [200, 200]
    again = (await stack.command("keys", "rotate", new[:11], "--overlap", "0")).stdout.splitlines()[0]
    await eventually(lambda: works(new), lambda code: code == 401)
    assert [await works(old), await works(again)] == [200, 200]
    assert (await stack.command("keys", "rotate", new[:11])).returncode == 1
    rows = stack.rows(
        "SELECT DISTINCT scopes, round(extract(epoch FROM expires_at - created_at) / 86400) FROM api_keys "
        f"WHERE prefix = '{again[:11]}'"
    )
    assert [(scopes, int(str(days))) for scopes, days in rows] == [(["reports"], 30)]
    sql(stack.database, f"UPDATE api_keys SET expires_at = now() WHERE prefix = '{old[:11]}'")
    await eventually(lambda: works(old), lambda code: code == 401)


async def test_a_known_key_outlasts_postgres_and_redis(stack: Stack) -> None:
    key = await create_key(stack, "shop")
    await until_keys_required(stack)
    _, accepted, _ = await call(stack, "POST", "/messages", key, json=MESSAGE)
    path = f"/message/{accepted['id']}/status"

    async def status() -> str | None:
        code, answer, _ = await call(stack, "GET", path, key)
        assert code in (200, 503), answer  # 503: the cache exceeded its 50 ms, and the ledger does not answer
        return str(answer["status"]) if code == 200 else None

    async def admitted() -> bool:
        """The API checks the key before the query."""
        return (await call(stack, "GET", "/messages?limit=0", key))[0] == 422

    await eventually(status, lambda code_now: code_now == "sent", 20)
    await stack.proxies["postgres"].freeze()
    until = time.monotonic() + 3 * REFRESH_SECONDS  # several refreshes of the keys fail meanwhile
    with Redis.from_url(stack.services.redis) as redis:
        while time.monotonic() < until:
            assert await admitted()
            # Fill the cache: writes of API and worker may have been lost.
            redis.set(f"{stack.namespace}:job:{accepted['id']}", b"3 sent message shop", px=60_000)
            await eventually(status, lambda code_now: code_now == "sent", 5)
    code, problem, _ = await call(stack, "GET", path, new_key().key)
    assert (code, problem["code"]) == (503, "unavailable")  # a key that no process has cached
    await stack.proxies["postgres"].thaw()
    await stack.proxies["redis"].freeze()
    assert await admitted()
    await eventually(status, lambda code_now: code_now == "sent", 10)


async def test_an_api_on_a_public_address_requires_keys(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    async with running(services, database, broker_namespace, tmp_path) as stack:
        open_to_all = stack.start("open", "api", host="0.0.0.0", port=str(free_port()))
        assert await open_to_all.wait() == 1
        assert "POSTHASTE_AUTH=off" in open_to_all.output() and "posthaste keys create" in open_to_all.output()
        port = free_port()
        stack.start("told", "api", host="0.0.0.0", port=str(port), auth="off")

        async def ready() -> int:
            try:
                return (await call(stack, "GET", "/health/ready", base=f"http://127.0.0.1:{port}"))[0]
            except aiohttp.ClientConnectionError:
                return 0

        await eventually(ready, lambda code: code == 200, 20)
        await create_key(stack, "shop")
        await until_keys_required(stack)
        assert (await call(stack, "POST", "/messages", base=f"http://127.0.0.1:{port}", json=MESSAGE))[0] == 202
        port = free_port()
        stack.start("keyed", "api", host="0.0.0.0", port=str(port))
        await eventually(ready, lambda code: code == 200, 20)
        assert (await call(stack, "POST", "/messages", base=f"http://127.0.0.1:{port}", json=MESSAGE))[0] == 401


@pytest.mark.reuses_stack
async def test_the_first_and_the_last_key_say_what_they_change(stack: Stack) -> None:
    await stack.command("clients", "create", "shop")
    first, second = [await stack.command("keys", "create", "shop") for _ in range(2)]
    assert "every request needs a key from now on" in first.stderr and "POSTHASTE_AUTH=off" in first.stderr
    assert "Revoking all keys does not reopen it." in first.stderr
    assert "every request" not in second.stderr
    assert [len(each.stdout.splitlines()) for each in (first, second)] == [1, 1]  # scripts read the key alone
    one = await stack.command("keys", "revoke", first.stdout[:11])
    assert (one.returncode, one.stderr) == (0, "")
    last = await stack.command("clients", "revoke", "shop")
    assert last.returncode == 0 and "every request is rejected" in last.stderr and "POSTHASTE_AUTH=off" in last.stderr
    await until_keys_required(stack)
    stack.environment["POSTHASTE_AUTH"] = "off"
    another = (await stack.command("keys", "create", "shop")).stdout[:11]
    assert (await stack.command("keys", "revoke", another)).stderr == ""


@pytest.mark.reuses_stack
async def test_the_command_shows_its_key(stack: Stack) -> None:
    assert (await stack.command("clients", "create", "shop")).returncode == 0
    key = (await stack.command("keys", "create", "shop")).stdout.splitlines()[0]
    await until_keys_required(stack)
    refused = await stack.command("send", "+1", "hello")
    assert refused.returncode == 1 and "POSTHASTE_API_KEY" in refused.stderr
    stack.environment["POSTHASTE_API_KEY"] = key
    done = await stack.command("send", "+1", "hello")
    assert done.returncode == 0 and re.match("[0-9a-f-]{36}", done.stdout)


@pytest.mark.reuses_stack
async def test_the_first_key_is_shown_once_and_not_by_the_migration(stack: Stack) -> None:
    migrated = await stack.command("migrate", "--first-key")
    assert migrated.returncode == 0 and "posthaste keys first" in migrated.stdout
    await until_keys_required(stack)
    assert (await call(stack, "GET", "/dead-letters", "ph_first"))[0] == 401
    assert "reserved" in (await stack.command("keys", "list")).stdout
    output = await stack.command("keys", "first")
    key = output.stdout.splitlines()[0]
    assert (await call(stack, "GET", "/dead-letters", key))[0] == 200
    assert prefix_of(key) and not re.search("ph_[A-Za-z0-9]{8}", migrated.stdout + migrated.stderr)
    again = await stack.command("keys", "first")
    assert again.returncode == 1 and "shown already" in again.stderr and "ph_" not in again.stdout
    assert "keys first" not in (await stack.command("migrate", "--first-key")).stdout


@pytest.mark.reuses_stack
async def test_commands_name_the_reason_of_a_refusal(stack: Stack) -> None:
    for arguments, message in (
        (("clients", "create", "Not This"), "does not match"),
        (("keys", "create", "nobody"), "there is no client 'nobody'"),
        (("keys", "revoke", "ph_nothing0"), "there is no key"),
    ):
        done = await stack.command(*arguments)
        assert done.returncode in (1, 2) and message in done.stderr, arguments
    await stack.command("clients", "create", "shop")
    assert (await stack.command("clients", "create", "shop")).returncode == 1
    assert "shop" in (await stack.command("clients", "list")).stdout
