"""The runtime roles have exactly the privileges they need. Each test has a private server."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import aiormq.exceptions
import limits
import psycopg2
import pytest
from redis.asyncio import Redis
from redis.exceptions import NoPermissionError, ResponseError

from infra.postgres import compatibility, migration
from infra.postgres.errors import NOT_PERMITTED, Unavailable
from infra.postgres.job_reads import JobReads
from infra.postgres.leadership import Leadership
from infra.postgres.ledger import Ledger
from infra.postgres.migration import RoleMissing, role_of
from infra.postgres.pool import DatabasePool
from infra.postgres.posts import Post, Posts, texts
from infra.postgres.transitions.accept import Accepted
from infra.rabbitmq.consumer import Consumer, Delivery
from infra.rabbitmq.dead_queue import DeadQueues
from infra.rabbitmq.inspection import inspect
from infra.rabbitmq.publisher import Publisher
from infra.rabbitmq.topology import declare, delete, describe
from infra.rabbitmq.user import UserNotCreated, create_user
from infra.redis.connection import rules
from infra.redis.events import Events
from infra.redis.figures import FiguresStore
from infra.redis.rates import Rates
from infra.redis.status_cache import StatusCache
from jobs.decision import decide
from jobs.lifecycle import Status
from jobs.model import DEAD_QUEUES, Kind, KnownStatus, Route
from jobs.retry import RetryPolicy
from jobs.wire import Pointer, decode
from service.post_recipe import Recipe
from service.seeding import seed
from tests.support.factories import ACCEPTED, claim_request, message, new_id, publish_one
from tests.support.ledger import Store
from tests.support.own_rabbitmq import OwnRabbitMQ, own_rabbitmq
from tests.support.own_servers import own_server
from tests.support.reports import Threads, computed, rows_of
from tests.support.services import PROVIDERS, sql, with_path
from tests.support.waiting import eventually

_KEEPERS = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'posthaste report snapshot'"
SECONDS = 10.0
NAMESPACE = "posthaste"


def _as(url: str, user: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{user}:secret@{parts.netloc.rpartition('@')[2]}").geturl()


@pytest.fixture(scope="module")
def owner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a database on a private server, as its owner without superuser. The roles `runner` and `stranger` exist."""
    with own_server("postgres", tmp_path_factory.mktemp("postgres")) as server:
        for role in ("owner", "runner", "stranger"):
            sql(server.url, f"CREATE ROLE {role} LOGIN PASSWORD 'secret'")
        sql(server.url, "CREATE DATABASE strict OWNER owner")
        yield _as(with_path(server.url, "strict"), "owner")


@pytest.fixture(scope="module")
def runner(owner: str) -> str:
    """The same database for the runtime role, migrated twice: the second migration changes nothing."""
    for _ in range(2):
        migration.migrate(owner, NAMESPACE, runtime_role="runner")
    return _as(owner, "runner")


async def test_the_run_time_role_carries_a_message_through_the_ledger(runner: str) -> None:
    pool = DatabasePool(runner, name="test", threads=2)
    ledger = Ledger(pool, grace_seconds=5)
    assert await compatibility.check(pool, NAMESPACE, SECONDS)
    (accepted,) = await ledger.accept([message()], SECONDS)
    assert isinstance(accepted, Accepted)
    (job,) = await ledger.claim([claim_request(accepted.id)], SECONDS)
    assert job is not None
    await ledger.apply([decide(job, ACCEPTED, RetryPolicy(attempts=3), ran_seconds=0.1, jitter=0.5)], SECONDS)
    (known,) = await JobReads(pool).statuses([accepted.id], SECONDS)
    assert known is not None and known.status == Status.SENT
    assert (await compatibility.diagnose(pool, SECONDS)).relays == 0
    pool.close()
    leadership = Leadership(runner, "relay")
    assert await leadership.held() and await leadership.held()
    await leadership.release()
    leadership.close()


async def test_the_run_time_role_fills_reads_and_empties_the_posts(runner: str) -> None:
    posts = Posts(runner)
    posts.fill([Post(1, "two words", datetime.now(UTC))])
    pool = DatabasePool(runner, name="test", threads=1, scans=True)
    assert await pool.call(lambda connection: list(texts(connection)), SECONDS) == [(1, "two words")]
    pool.close()
    await asyncio.to_thread(seed, runner, Recipe(2, users=1, min_words=1, max_words=1, seed=1, end=0), 1)
    assert posts.stats().posts == 3 and posts.estimate().is_estimate
    posts.truncate()
    assert posts.stats().posts == 0


async def test_the_run_time_role_computes_and_shares_a_report(runner: str) -> None:
    Posts(runner).fill([Post(1, "two words", datetime.now(UTC))])
    pool = DatabasePool(runner, name="test", threads=2)
    store = Store(Ledger(pool, grace_seconds=5), pool, runner)
    first, second = Threads(runner), Threads(runner)
    for lanes in (first, second):
        id_, _ = await computed(store, lanes)
        assert rows_of(store, id_) == [(1, 2)]
    assert (first.counted, second.counted) == ([0], [])
    pool.close()
    await eventually(lambda: asyncio.to_thread(sql, runner, _KEEPERS), lambda found: not found)
    Posts(runner).truncate()


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE mine (id int)",
        "CREATE TEMPORARY TABLE mine (id int)",
        "CREATE SCHEMA mine",
        "CREATE DATABASE mine",
        "CREATE ROLE mine",
        "ALTER TABLE jobs ADD COLUMN mine int",
        "ALTER DATABASE strict SET synchronous_commit = off",
        "CREATE INDEX mine ON jobs (id)",
        "DROP TABLE outbox",
        "DROP INDEX jobs_lease",
        "TRUNCATE jobs",
        "UPDATE alembic_version SET version_num = '0001'",
        "DELETE FROM installation",
        "COPY jobs TO PROGRAM 'true'",
    ],
)
def test_the_run_time_role_is_refused(runner: str, statement: str) -> None:
    with pytest.raises(psycopg2.errors.InsufficientPrivilege):
        sql(runner, statement)


def test_tables_that_the_owner_adds_later_are_usable_at_once(owner: str, runner: str) -> None:
    sql(owner, "CREATE TABLE later (id bigint GENERATED ALWAYS AS IDENTITY, number serial, word text)")
    try:
        sql(runner, "INSERT INTO later (word) VALUES ('x')")
        assert sql(runner, "SELECT id, number FROM later") == [(1, 1)]
    finally:
        sql(owner, "DROP TABLE later")


def test_a_missing_role_is_named_and_a_role_with_too_many_rights_is_reported(
    owner: str, runner: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(RoleMissing, match="'nobody'"):
        migration.migrate(owner, NAMESPACE, runtime_role="nobody")
    sql(owner, "GRANT CREATE ON SCHEMA public TO runner")
    try:
        migration.migrate(owner, NAMESPACE, runtime_role="runner")
        assert "privileges.too_many" in capsys.readouterr().out
    finally:
        sql(owner, "REVOKE CREATE ON SCHEMA public FROM runner")
    migration.migrate(owner, NAMESPACE, runtime_role="runner")
    assert "privileges.too_many" not in capsys.readouterr().out


async def test_the_error_of_a_role_without_grants_names_the_remedy(runner: str) -> None:
    """A process waits for missing grants as for a migration: see `infra.postgres.errors`."""
    pool = DatabasePool(_as(runner, "stranger"), name="test", threads=1)
    with pytest.raises(Unavailable, match="permission denied") as refusal:
        await compatibility.check(pool, NAMESPACE, SECONDS)
    assert refusal.value.sqlstate == NOT_PERMITTED
    pool.close()


def test_the_role_of_a_url() -> None:
    urls: dict[str, Any] = {"postgresql://a:b@h/db": "a", "postgresql:///db?user=c": "c", "postgres://h/db": None}
    assert {url: role_of(url) for url in urls} == urls


@pytest.fixture(scope="module")
def rabbitmq(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnRabbitMQ]:
    with own_rabbitmq(tmp_path_factory.mktemp("rabbitmq")) as server:
        yield server


@pytest.fixture
async def limited(rabbitmq: OwnRabbitMQ) -> AsyncIterator[str]:
    """The URL of a user limited to the namespace, created twice: the second time changes nothing."""
    url = _as(rabbitmq.amqp, "runner")
    for _ in range(2):
        assert await asyncio.to_thread(create_user, rabbitmq.management, url, NAMESPACE) == "runner"
    yield url
    async with await aio_pika.connect(rabbitmq.amqp) as connection:
        await delete(await connection.channel(), describe(NAMESPACE, PROVIDERS))


async def test_the_limited_user_declares_publishes_consumes_and_dead_letters(limited: str) -> None:
    topology = describe(NAMESPACE, PROVIDERS)
    received: asyncio.Queue[Delivery] = asyncio.Queue()
    publisher = Publisher(limited, topology, name="test")
    queue, dead = "messages.sandbox.high", DEAD_QUEUES[Kind.MESSAGE]
    consumer = Consumer(limited, topology, {queue: 5}, name="test")
    running = [asyncio.create_task(run) for run in (publisher.run(), consumer.run(received.put_nowait))]
    try:
        await asyncio.wait_for(publisher.connected.wait(), 20)
        pointers = {Pointer(new_id(), 1), Pointer(new_id(), 1)}
        for pointer in pointers:
            await publish_one(publisher, pointer, Route.WORK, queue)
        await publish_one(publisher, Pointer(new_id(), 1), Route.DEAD, dead)
        accepted, refused = [await asyncio.wait_for(received.get(), 10) for _ in pointers]
        assert {decode(accepted.body), decode(refused.body)} == pointers
        await accepted.ack()
        await refused.reject()
        states = await eventually(
            lambda: inspect(limited, topology), lambda states: {s.logical: s.ready for s in states}[dead] == 2
        )
        assert [state for state in states if state.problem] == []
        looked = await DeadQueues(limited, topology).tidy(dead, _all_are_stale)
        assert (looked.acknowledged, looked.kept) == (2, 0)
    finally:
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


async def _all_are_stale(pointers: Any) -> set[Pointer]:
    return set(pointers)


async def test_the_limited_user_is_kept_from_other_namespaces(rabbitmq: OwnRabbitMQ, limited: str) -> None:
    other_topology = describe("posthaste2", PROVIDERS)
    async with await aio_pika.connect(rabbitmq.amqp) as administrator:
        await declare(await administrator.channel(), other_topology)
        async with await aio_pika.connect(limited) as connection:

            async def refused(act: str) -> None:
                channel = await connection.channel()
                with pytest.raises(aiormq.exceptions.ChannelAccessRefused):
                    if act == "declare":
                        await declare(channel, other_topology)
                    elif act == "consume":
                        await (await channel.get_queue(other_topology.queues[0].name, ensure=False)).get()
                    elif act == "delete":
                        await channel.queue_delete(other_topology.queues[0].name)
                    else:
                        exchange = await channel.get_exchange(other_topology.exchanges[0], ensure=False)
                        await exchange.publish(aio_pika.Message(b""), "x", mandatory=False)

            for act in ("declare", "consume", "delete", "publish"):
                await refused(act)
        await delete(await administrator.channel(), other_topology)


async def test_an_administrator_is_not_limited_by_mistake(rabbitmq: OwnRabbitMQ) -> None:
    with pytest.raises(UserNotCreated, match="guest"):
        create_user(rabbitmq.management, rabbitmq.amqp, NAMESPACE)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The administrator's URL of a private Redis."""
    with own_server("redis", tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture
async def listed(redis: str, patient_redis: None) -> str:
    """The URL of a user that the rules limit to the namespace."""
    async with Redis.from_url(redis) as administrator:
        user = ["runner", "reset", "on", ">secret", *rules(NAMESPACE)]
        await administrator.execute_command("ACL", "SETUSER", *user)  # type: ignore[no-untyped-call]
    return _as(redis, "runner")


@pytest.mark.parametrize("protocol", ["2", "3"])
async def test_the_cache_and_the_events_need_no_more_than_the_rules(redis: str, listed: str, protocol: str) -> None:
    notifications: asyncio.Queue[KnownStatus] = asyncio.Queue()
    url = f"{listed}?protocol={protocol}"
    events = Events(url, namespace=NAMESPACE)
    cache = StatusCache(url, namespace=NAMESPACE, ttl_seconds=5)
    listening = asyncio.create_task(events.run(notifications.put_nowait))

    async def shards() -> Sequence[bytes | str]:
        async with Redis.from_url(redis) as administrator:
            return await administrator.pubsub_channels(f"{NAMESPACE}:events:*")

    try:
        await asyncio.wait_for(events.subscribed.wait(), 10)
        known = KnownStatus(new_id(), 1, Status.QUEUED, Kind.MESSAGE, "default", time.monotonic())
        async with Redis.from_url(redis) as administrator:
            await administrator.script_flush()  # so that the script has to be loaded
        async with events.watch(known.id):
            await cache.write([known], SECONDS)
            assert (await asyncio.wait_for(notifications.get(), 10)).id == known.id
        await eventually(shards, lambda names: names == [])
        (read,) = await cache.read([known.id], SECONDS)
        assert read is not None and read.status == Status.QUEUED
        await cache.ping()
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        await events.close()
        await cache.close()


@pytest.mark.parametrize("protocol", ["2", "3"])
async def test_live_figures_need_no_more_than_the_rules(redis: str, listed: str, protocol: str) -> None:
    store = FiguresStore(f"{listed}?protocol={protocol}", namespace=NAMESPACE)
    async with Redis.from_url(redis) as administrator:
        await administrator.script_flush()
        await administrator.flushdb()  # the counts of the other protocol
    try:
        await store.ping()
        await store.report("a", b"{}", {"sent": 2})
        await store.report("b", b"{}", {})
        await store.leave("b")
        await store.write_ledger(b"[]", 10)
        stored = await store.read(2)
        assert ([state for _, state in stored.states], stored.ledger) == ([b"{}"], b"[]")
        assert sum(counts.get("sent", 0) for counts in stored.counts.values()) == 2
    finally:
        await store.close()


async def test_counting_requests_needs_no_more_than_the_rules(listed: str) -> None:
    rates, limit, short = Rates(listed, namespace=NAMESPACE), limits.parse("3/hour"), limits.parse("3/2seconds")

    async def hit(limit: limits.RateLimitItem) -> bool:
        return await rates.hit(limit, "key") is None

    try:
        admissions = [await hit(limit) for _ in range(5)]
        assert admissions == [True] * 3 + [False] * 2
        assert await rates.hit(limit, "another") is None
        for expected in (False, True):  # the window slides: its counters are renamed
            await eventually(lambda: hit(short), lambda admitted, expected=expected: admitted == expected, 20)  # type: ignore[misc]
    finally:
        await rates.close()


@pytest.mark.parametrize(
    "command",
    [
        "GET other:job:1",
        "SET posthaste2:job:1 x",
        "PUBLISH other:events x",
        "SUBSCRIBE posthaste2:events:0ff",
        "SUBSCRIBE other:events",
        "EVAL return(redis.call('GET','other:job:1')) 0",
        "EVAL return(redis.call('FLUSHALL')) 0",
        "KEYS *",
        "FLUSHALL",
        "CONFIG GET *",
        "ACL LIST",
        "CLIENT LIST",
        "CLIENT KILL TYPE normal",
        "SCRIPT FLUSH",
        "DEL posthaste:job:1",
    ],
)
async def test_the_listed_user_is_refused(listed: str, command: str) -> None:
    async with Redis.from_url(listed) as redis:
        refusal = ResponseError if command.startswith("EVAL") else NoPermissionError
        with pytest.raises(refusal, match=r"permissions|user executing the script can't"):
            await redis.execute_command(*command.split(" "))  # type: ignore[no-untyped-call]
