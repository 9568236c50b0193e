"""The faults: each injects one failure, records it, and names the anomalies that it can excuse."""

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

from infra.postgres import outbox
from infra.postgres.transitions import accept, apply, claim
from tests.chaos.crash_points import HEARTBEAT_SECONDS, IDLE_SECONDS, POINTS
from tests.chaos.evidence import Fault
from tests.chaos.installation import LEASE, NAMESPACE, Installation
from tests.chaos.load import Load
from tests.chaos.servers import Server
from tests.support.proxy import executed
from tests.support.services import sql

_SILENT_LEADERS = f"""
SELECT pid FROM pg_locks l JOIN pg_stat_activity a USING (pid)
WHERE l.locktype = 'advisory' AND l.granted AND a.application_name = 'posthaste relay'
    AND a.query_start < clock_timestamp() - interval '{IDLE_SECONDS + 1} s'
"""
LOSABLE = ["messages.sandbox.normal", "callbacks"]
PUBLISHED = b"\x00\x3c\x00\x28"  # class and method of AMQP's basic.publish
COMMITTED = [executed(each) for each in (accept.ACCEPT, claim.CLAIM, apply.APPLY, outbox._DELETE)]


@dataclass
class Injection:
    """The context of a fault: the service and its load, the log of faults, and the source of random choices."""

    installation: Installation
    load: Load
    log: list[Fault]
    rng: random.Random

    @asynccontextmanager
    async def record(
        self,
        name: str,
        target: str = "",
        *,
        duplicates_requests: bool = True,
        loses_messages: bool = False,
        delays_visibility: bool = False,
    ) -> AsyncIterator[Fault]:
        """Record a fault that lasts as long as the block."""
        fault = Fault(
            name,
            target,
            time.time(),
            duplicates_requests=duplicates_requests,
            loses_messages=loses_messages,
            delays_visibility=delays_visibility,
        )
        self.log.append(fault)
        try:
            yield fault
        finally:
            fault.ended_at = time.time()


Injector = Callable[[Injection], Awaitable[None]]


async def _becomes_true(condition: Callable[[], bool], seconds: float) -> bool:
    """Whether the condition becomes true in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True


def signal_process(role: str, number: signal.Signals) -> Injector:
    """Send SIGKILL or SIGTERM to one process."""

    async def inject(injection: Injection) -> None:
        process = injection.rng.choice(injection.installation.processes_of(role))
        async with injection.record(number.name, process.name):
            process.signal(number)
            await process.until_exit()

    return inject


def crash_process(role: str, point: str) -> Injector:
    async def inject(injection: Injection) -> None:
        process = injection.rng.choice(injection.installation.processes_of(role))
        async with injection.record(f"dies {point}", process.name) as fault:
            order = process.crash_at(point)
            if await _becomes_true(lambda: not order.exists(), 6):
                await process.until_exit()
            else:
                order.unlink(missing_ok=True)
                fault.note = "the process did not reach that point"

    return inject


async def restart_one_by_one(injection: Injection) -> None:
    async with injection.record("rolling restart", "of all processes"):
        for process in injection.installation.processes.values():
            before = process.forked
            process.signal(signal.SIGTERM)
            await process.until_exit()
            await _becomes_true(partial(process.is_restarted, before), 20)
            await asyncio.sleep(0.3)


async def freeze_consumer(injection: Injection) -> None:
    process = injection.rng.choice(injection.installation.processes_of("consumer"))
    async with injection.record("SIGSTOP past its leases", process.name, loses_messages=True):
        process.signal(signal.SIGSTOP)
        await asyncio.sleep(LEASE + 2)
        process.signal(signal.SIGCONT)


async def freeze_relays(injection: Injection) -> None:
    """Freeze each relay in turn, so that the leader is among them. A frozen leader must lose its role."""
    for process in injection.installation.processes_of("relay"):
        async with injection.record("SIGSTOP past its leadership", process.name):
            process.signal(signal.SIGSTOP)
            try:
                await asyncio.sleep(IDLE_SECONDS + 2)
                assert await _no_silent_leader(injection, within=20), f"{process.name} is frozen and still leads"
            finally:
                process.signal(signal.SIGCONT)


async def _no_silent_leader(injection: Injection, within: float) -> bool:
    """Whether no silent session holds the relay's leadership. Postgres may be down meanwhile."""
    deadline = time.monotonic() + within
    while time.monotonic() < deadline:
        with suppress(psycopg2.OperationalError):
            if not await asyncio.to_thread(sql, injection.installation.database, _SILENT_LEADERS):
                return True
        await asyncio.sleep(0.2)
    return False


def kill_server(name: str, *, orderly: bool = False) -> Injector:
    async def inject(injection: Injection) -> None:
        server: Server = getattr(injection.installation.servers, name)
        how = "stop -m immediate" if orderly else "kill -9"
        async with injection.record(how, name, delays_visibility=name == "postgres"):
            if orderly:
                server.instance.signal(signal.SIGQUIT)  # Postgres' immediate shutdown
                await _becomes_true(lambda: server.instance.server is None, 20)
            else:
                await server.kill()
            await asyncio.sleep(injection.rng.uniform(0.2, 1.5))
            await server.start()

    return inject


def freeze_server(name: str, seconds: float) -> Injector:
    async def inject(injection: Injection) -> None:
        server: Server = getattr(injection.installation.servers, name)
        async with injection.record(f"SIGSTOP for {seconds:g} s", name, delays_visibility=name == "postgres"):
            await asyncio.to_thread(server.instance.freeze)
            await asyncio.sleep(seconds)
            server.instance.thaw()

    return inject


def black_hole(name: str) -> Injector:
    async def inject(injection: Injection) -> None:
        proxy = getattr(injection.installation.servers, name).proxy
        async with injection.record("black hole", name, delays_visibility=name == "postgres"):
            await proxy.freeze()
            await asyncio.sleep(injection.rng.uniform(1, 4))
            await proxy.thaw()
            proxy.cut()

    return inject


def add_latency(name: str, seconds: float) -> Injector:
    async def inject(injection: Injection) -> None:
        proxy = getattr(injection.installation.servers, name).proxy
        async with injection.record(f"{1000 * seconds:g} ms later", name):
            proxy.delay(seconds)
            await asyncio.sleep(injection.rng.uniform(2, 4))
            proxy.delay(0)

    return inject


def reset_connections(name: str) -> Injector:
    async def inject(injection: Injection) -> None:
        async with injection.record("connections reset", name):
            getattr(injection.installation.servers, name).proxy.cut()

    return inject


async def swallow_confirms(injection: Injection) -> None:
    proxy = injection.installation.servers.rabbitmq.proxy
    async with injection.record("cut after publish, before confirm", "rabbitmq"):
        proxy.cut_on_answer(PUBLISHED, times=3)
        await asyncio.sleep(1)
        proxy.cut_on_answer(b"", times=0)


async def swallow_commits(injection: Injection) -> None:
    proxy = injection.installation.servers.postgres.proxy
    needle = injection.rng.choice(COMMITTED)
    async with injection.record("cut after the COMMIT", f"postgres ({needle.decode()})"):
        proxy.cut_on_answer(needle, times=2)
        await asyncio.sleep(1)
        proxy.cut_on_answer(b"", times=0)


async def terminate_backends(injection: Injection) -> None:
    async with injection.record("backends terminated", "postgres"):
        statement = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'posthaste%'"
        await asyncio.to_thread(sql, injection.installation.database, statement)


async def close_connections(injection: Injection) -> None:
    async with injection.record("close_all_connections", "rabbitmq"):
        await injection.installation.servers.control("close_all_connections", "chaos")


async def memory_alarm(injection: Injection) -> None:
    control = injection.installation.servers.control
    async with injection.record("memory alarm", "rabbitmq"):
        await control("set_vm_memory_high_watermark", "absolute", "1MB")
        await asyncio.sleep(injection.rng.uniform(1, 3))
        await control("set_vm_memory_high_watermark", "0.4")


def lose_queue(change: str) -> Injector:
    """Purge or delete a work queue, or unbind it from its exchange."""

    async def inject(injection: Injection) -> None:
        logical = injection.rng.choice(LOSABLE)
        async with (
            injection.record(change, logical, duplicates_requests=False, loses_messages=change != "unbound"),
            await aio_pika.connect(injection.installation.servers.rabbitmq.url) as connection,
        ):
            channel = await connection.channel()
            queue = await channel.get_queue(f"{NAMESPACE}.{logical}", ensure=False)
            if change == "purged":
                await queue.purge()
            elif change == "deleted":
                await queue.delete(if_unused=False, if_empty=False)
            else:
                await queue.unbind(f"{NAMESPACE}.jobs", routing_key=logical)

    return inject


async def flush(injection: Injection) -> None:
    async with injection.record("FLUSHALL", "redis", duplicates_requests=False):
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", injection.installation.servers.redis.instance.record.ports["redis"]
        )
        writer.write(b"FLUSHALL\r\n")
        await reader.readline()
        writer.close()


def provider_answers(**faults: float) -> Injector:
    async def inject(injection: Injection) -> None:
        shares = ", ".join(f"{name} {share:g}" for name, share in faults.items())
        sandbox = injection.installation.provider
        async with injection.record("provider", shares):
            before, sandbox.faults = sandbox.faults, sandbox.faults.changed(faults)
            await asyncio.sleep(injection.rng.uniform(2, 4))
            sandbox.faults = before

    return inject


def receiver_answers(**faults: float) -> Injector:
    """Let the callback receiver fail."""

    async def inject(injection: Injection) -> None:
        shares = ", ".join(f"{name} {share:g}" for name, share in faults.items())
        receiver = injection.installation.receiver
        async with injection.record("receiver", shares, duplicates_requests=False):
            before, receiver.faults = receiver.faults, receiver.faults.changed(faults)
            await asyncio.sleep(injection.rng.uniform(2, 4))
            receiver.faults = before

    return inject


async def requeue_twice(injection: Injection) -> None:
    async with injection.record("two operators requeue", "rejected messages", duplicates_requests=False):
        await injection.load.requeue()


# One fault of each list may run at a time. This list: faults of processes, provider, receiver and operators.
PROCESS_FAULTS: list[Injector] = [
    *(signal_process(role, signal.SIGKILL) for role in POINTS),
    *(crash_process(role, point) for role, points in POINTS.items() for point in points),
    *(signal_process(role, signal.SIGTERM) for role in POINTS),
    restart_one_by_one,
    freeze_consumer,
    freeze_relays,
    provider_answers(fail=1.0),
    provider_answers(hang=0.5),
    provider_answers(reset=1.0),
    receiver_answers(fail=1.0),
    receiver_answers(hang=0.5),
    receiver_answers(reset=1.0),
    requeue_twice,
]
# Faults of the servers and the network.
SERVER_FAULTS: list[Injector] = [
    kill_server("rabbitmq"),
    freeze_server("rabbitmq", 3.5 * HEARTBEAT_SECONDS),
    close_connections,
    lose_queue("deleted"),
    lose_queue("purged"),
    lose_queue("unbound"),
    memory_alarm,
    swallow_confirms,
    black_hole("rabbitmq"),
    add_latency("rabbitmq", 0.1),
    reset_connections("rabbitmq"),
    kill_server("postgres", orderly=True),
    freeze_server("postgres", 3.0),
    swallow_commits,
    terminate_backends,
    black_hole("postgres"),
    add_latency("postgres", 0.03),
    reset_connections("postgres"),
    kill_server("redis"),
    freeze_server("redis", 2.0),
    flush,
    add_latency("redis", 0.1),
    reset_connections("redis"),
]
