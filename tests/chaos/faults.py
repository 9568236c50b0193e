"""The faults: what is done to the service, for how long, and what each can excuse."""

import asyncio
import random
import signal
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial

import aio_pika
import psycopg2

from tests.chaos.evidence import Fault
from tests.chaos.fragile import HEARTBEAT_SECONDS, IDLE_SECONDS, POINTS
from tests.chaos.installation import LEASE, NAMESPACE, Installation
from tests.chaos.load import Load
from tests.chaos.servers import Server
from tests.services import sql

_SILENT_LEADERS = f"""
SELECT pid FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND a.application_name = 'posthaste relay'
    AND a.query_start < clock_timestamp() - interval '{IDLE_SECONDS + 1} s'
"""
LOSABLE = ["messages.sandbox.normal", "callbacks"]
PUBLISHED = b"\x00\x3c\x00\x28"  # class and method of AMQP's basic.publish
COMMITTED = (b"INSERT INTO jobs", b"status = 'processing'", b"INSERT INTO attempts", b"DELETE FROM outbox")


@dataclass
class Hurting:
    """What a fault may touch, and where it is written down. `draw` decides targets and lengths."""

    installation: Installation
    load: Load
    log: list[Fault]
    draw: random.Random

    @asynccontextmanager
    async def noted(
        self, name: str, target: str = "", *, repeats: bool = True, loses: bool = False, stalls: bool = False
    ) -> AsyncIterator[Fault]:
        """A fault from now until the block is left."""
        fault = Fault(name, target, time.time(), repeats=repeats, loses=loses, stalls=stalls)
        self.log.append(fault)
        try:
            yield fault
        finally:
            fault.ended = time.time()


Hurt = Callable[[Hurting], Awaitable[None]]


async def _comes(seen: Callable[[], bool], seconds: float) -> bool:
    """Whether it comes to that in time."""
    deadline = time.monotonic() + seconds
    while not seen():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


def told(role: str, number: signal.Signals) -> Hurt:
    """SIGKILL or SIGTERM for one process."""

    async def hurt(at: Hurting) -> None:
        process = at.draw.choice(at.installation.of(role))
        async with at.noted(number.name, process.name):
            process.send(number)
            await process.gone()

    return hurt


def die_at(role: str, point: str) -> Hurt:
    async def hurt(at: Hurting) -> None:
        process = at.draw.choice(at.installation.of(role))
        async with at.noted(f"dies {point}", process.name) as fault:
            order = process.arm(point)
            if await _comes(lambda: not order.exists(), 6):
                await process.gone()
            else:
                order.unlink(missing_ok=True)
                fault.note = "it did not come to that point"

    return hurt


async def restart_one_by_one(at: Hurting) -> None:
    async with at.noted("rolling restart", "of all processes"):
        for process in at.installation.processes.values():
            before = process.forked
            process.send(signal.SIGTERM)
            await process.gone()
            await _comes(partial(process.restarted, before), 20)
            await asyncio.sleep(0.3)


async def freeze_consumer(at: Hurting) -> None:
    process = at.draw.choice(at.installation.of("consumer"))
    async with at.noted("SIGSTOP past its leases", process.name, loses=True):
        process.send(signal.SIGSTOP)
        await asyncio.sleep(LEASE + 2)
        process.send(signal.SIGCONT)


async def freeze_relays(at: Hurting) -> None:
    """One relay after the other, so that the leader is one of them. A frozen leader must lose its role."""
    for process in at.installation.of("relay"):
        async with at.noted("SIGSTOP past its leadership", process.name):
            process.send(signal.SIGSTOP)
            try:
                await asyncio.sleep(IDLE_SECONDS + 2)
                assert await _no_silent_leader(at, within=20), f"{process.name} is frozen, and leads"
            finally:
                process.send(signal.SIGCONT)


async def _no_silent_leader(at: Hurting, within: float) -> bool:
    """Whether no session holds the role of the relay for long without a word. Postgres may be away meanwhile."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        with suppress(psycopg2.OperationalError):
            if not await asyncio.to_thread(sql, at.installation.database, _SILENT_LEADERS):
                return True
        await asyncio.sleep(0.2)
    return False


def kill_server(name: str, *, orderly: bool = False) -> Hurt:
    async def hurt(at: Hurting) -> None:
        server: Server = getattr(at.installation.servers, name)
        how = "stop -m immediate" if orderly else "kill -9"
        async with at.noted(how, name, stalls=name == "postgres"):
            if orderly:
                server.instance.signal(signal.SIGQUIT)  # Postgres' immediate shutdown
                await _comes(lambda: server.instance.server is None, 20)
            else:
                await server.kill()
            await asyncio.sleep(at.draw.uniform(0.2, 1.5))
            await server.start()

    return hurt


def freeze_server(name: str, seconds: float) -> Hurt:
    async def hurt(at: Hurting) -> None:
        server: Server = getattr(at.installation.servers, name)
        async with at.noted(f"SIGSTOP for {seconds:g} s", name, stalls=name == "postgres"):
            await asyncio.to_thread(server.instance.freeze)
            await asyncio.sleep(seconds)
            server.instance.thaw()

    return hurt


def black_hole(name: str) -> Hurt:
    async def hurt(at: Hurting) -> None:
        proxy = getattr(at.installation.servers, name).proxy
        async with at.noted("black hole", name, stalls=name == "postgres"):
            await proxy.freeze()
            await asyncio.sleep(at.draw.uniform(1, 4))
            await proxy.thaw()
            proxy.cut()

    return hurt


def late(name: str, seconds: float) -> Hurt:
    async def hurt(at: Hurting) -> None:
        proxy = getattr(at.installation.servers, name).proxy
        async with at.noted(f"{1000 * seconds:g} ms later", name):
            proxy.delay(seconds)
            await asyncio.sleep(at.draw.uniform(2, 4))
            proxy.delay(0)

    return hurt


def cut(name: str) -> Hurt:
    async def hurt(at: Hurting) -> None:
        async with at.noted("connections reset", name):
            getattr(at.installation.servers, name).proxy.cut()

    return hurt


async def swallow_confirms(at: Hurting) -> None:
    proxy = at.installation.servers.rabbitmq.proxy
    async with at.noted("cut after publish, before confirm", "rabbitmq"):
        proxy.cut_on_answer(PUBLISHED, times=3)
        await asyncio.sleep(1)
        proxy.cut_on_answer(b"", times=0)


async def swallow_commits(at: Hurting) -> None:
    proxy = at.installation.servers.postgres.proxy
    needle = at.draw.choice(COMMITTED)
    async with at.noted("cut after the COMMIT", f"postgres ({needle.decode()})"):
        proxy.cut_on_answer(needle, times=2)
        await asyncio.sleep(1)
        proxy.cut_on_answer(b"", times=0)


async def terminate_backends(at: Hurting) -> None:
    async with at.noted("backends terminated", "postgres"):
        statement = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'posthaste%'"
        await asyncio.to_thread(sql, at.installation.database, statement)


async def close_connections(at: Hurting) -> None:
    async with at.noted("close_all_connections", "rabbitmq"):
        await at.installation.servers.control("close_all_connections", "chaos")


async def alarm(at: Hurting) -> None:
    control = at.installation.servers.control
    async with at.noted("memory alarm", "rabbitmq"):
        await control("set_vm_memory_high_watermark", "absolute", "1MB")
        await asyncio.sleep(at.draw.uniform(1, 3))
        await control("set_vm_memory_high_watermark", "0.4")


def lose(what: str) -> Hurt:
    """A work queue is purged, deleted, or unbound from its exchange."""

    async def hurt(at: Hurting) -> None:
        logical = at.draw.choice(LOSABLE)
        async with (
            at.noted(what, logical, repeats=False, loses=what != "unbound"),
            await aio_pika.connect(at.installation.servers.rabbitmq.url) as connection,
        ):
            channel = await connection.channel()
            queue = await channel.get_queue(f"{NAMESPACE}.{logical}", ensure=False)
            if what == "purged":
                await queue.purge()
            elif what == "deleted":
                await queue.delete(if_unused=False, if_empty=False)
            else:
                await queue.unbind(f"{NAMESPACE}.jobs", routing_key=logical)

    return hurt


async def flush(at: Hurting) -> None:
    async with at.noted("FLUSHALL", "redis", repeats=False):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", at.installation.servers.redis.instance.record.ports["redis"]
        )
        writer.write(b"FLUSHALL\r\n")
        await reader.readline()
        writer.close()


def provider(**faults: float) -> Hurt:
    async def hurt(at: Hurting) -> None:
        said = ", ".join(f"{name} {share:g}" for name, share in faults.items())
        sandbox = at.installation.provider
        async with at.noted("provider", said):
            before, sandbox.faults = sandbox.faults, sandbox.faults.changed(faults)
            await asyncio.sleep(at.draw.uniform(2, 4))
            sandbox.faults = before

    return hurt


def listener(**faults: float) -> Hurt:
    """What receives callbacks fails."""

    async def hurt(at: Hurting) -> None:
        said = ", ".join(f"{name} {share:g}" for name, share in faults.items())
        there = at.installation.listener
        async with at.noted("receiver", said, repeats=False):
            before, there.faults = there.faults, there.faults.changed(faults)
            await asyncio.sleep(at.draw.uniform(2, 4))
            there.faults = before

    return hurt


async def requeue(at: Hurting) -> None:
    async with at.noted("two operators requeue", "what was rejected", repeats=False):
        await at.load.requeue()


# Two lists, as one fault of each may be under way at a time: what is done to our processes and by people, …
TO_PROCESSES: list[Hurt] = [
    *(told(role, signal.SIGKILL) for role in POINTS),
    *(die_at(role, point) for role, points in POINTS.items() for point in points),
    *(told(role, signal.SIGTERM) for role in POINTS),
    restart_one_by_one,
    freeze_consumer,
    freeze_relays,
    provider(fail=1.0),
    provider(hang=0.5),
    provider(reset=1.0),
    listener(fail=1.0),
    listener(hang=0.5),
    listener(reset=1.0),
    requeue,
]
# … and what is done to the servers and the network.
TO_SERVERS: list[Hurt] = [
    kill_server("rabbitmq"),
    freeze_server("rabbitmq", 3.5 * HEARTBEAT_SECONDS),
    close_connections,
    lose("deleted"),
    lose("purged"),
    lose("unbound"),
    alarm,
    swallow_confirms,
    black_hole("rabbitmq"),
    late("rabbitmq", 0.1),
    cut("rabbitmq"),
    kill_server("postgres", orderly=True),
    freeze_server("postgres", 3.0),
    swallow_commits,
    terminate_backends,
    black_hole("postgres"),
    late("postgres", 0.03),
    cut("postgres"),
    kill_server("redis"),
    freeze_server("redis", 2.0),
    flush,
    late("redis", 0.1),
    cut("redis"),
]
