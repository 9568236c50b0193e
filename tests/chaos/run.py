"""One run: load and a seeded schedule of faults, then recovery, then the account."""

import asyncio
import random
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from infra.rabbitmq.connection import BrokerDown
from infra.rabbitmq.inspection import inspect
from infra.rabbitmq.topology import describe
from tests.chaos import audit_triggers
from tests.chaos.account import violations
from tests.chaos.cache_trace import trace
from tests.chaos.evidence import Evidence, Fault
from tests.chaos.faults import PROCESS_FAULTS, SERVER_FAULTS, Injection, Injector
from tests.chaos.installation import (
    ATTEMPTS,
    CALLBACK_ATTEMPTS,
    LEASE,
    NAMESPACE,
    STATUS_TTL,
    SWEEP_AFTER,
    TIMEOUT,
    Installation,
    start_installation,
)
from tests.chaos.load import Load
from tests.chaos.servers import own_servers
from tests.chaos.stalls import watch_stalls

# DESIGN: a status can be a second old when it is cached; the cache keeps it for its time to live.
MAX_STALENESS = STATUS_TTL + 1.0
DRAIN_SECONDS = 90.0
WARM_UP_SECONDS = 2.0


@dataclass
class Result:
    """The result of a run: its evidence, and the violations of each invariant."""

    seed: int
    evidence: Evidence
    drain_seconds: float  # from the last fault's end until no work remained
    violations: dict[str, list[str]] = field(default_factory=dict)


async def run(seed: int, seconds: float, bug: str | None = None) -> Result:
    """Inject faults for `seconds`, about fifty in 90 s. The seed decides every random choice."""
    rng = random.Random(seed)
    evidence = Evidence(
        max_attempts=ATTEMPTS,
        max_staleness=MAX_STALENESS,
        lease_seconds=LEASE,
        slow_after=TIMEOUT * 0.7,
        sweep_after_seconds=SWEEP_AFTER,
        max_callback_attempts=CALLBACK_ATTEMPTS,
    )
    with tempfile.TemporaryDirectory(prefix="posthaste-chaos-") as folder:
        async with own_servers() as servers, start_installation(servers, Path(folder), rng, bug) as installation:
            load = Load(installation, evidence, random.Random(seed))
            watching = [
                asyncio.create_task(trace(servers.redis.url, evidence.cache_writes)),
                asyncio.create_task(watch_stalls(evidence.faults)),
            ]
            try:
                drained = await _run_phases(installation, load, evidence, seed, seconds)
            finally:
                for task in watching:
                    task.cancel()
                for name in sorted(installation.processes):
                    _save_log(folder, name)
    return Result(seed, evidence, drained, violations(evidence))


async def _run_phases(installation: Installation, load: Load, evidence: Evidence, seed: int, seconds: float) -> float:
    loading = asyncio.create_task(load.run())
    await asyncio.sleep(WARM_UP_SECONDS)
    until = time.monotonic() + seconds
    pools = [(PROCESS_FAULTS, random.Random(f"{seed} processes")), (SERVER_FAULTS, random.Random(f"{seed} servers"))]
    await asyncio.gather(
        *(
            _inject_until(Injection(installation, load, evidence.faults, rng), faults, until, evidence.failed_injections)
            for faults, rng in pools
        )
    )
    installation.provider.faults = installation.provider.faults.changed({"fail": 0.0, "hang": 0.0, "reset": 0.0})
    ended = time.monotonic()
    load.stopping.set()
    await asyncio.wait_for(loading, DRAIN_SECONDS)
    await _drain(installation, evidence)
    drained = time.monotonic() - ended
    await _read_final_statuses(load)
    audit_triggers.collect(installation.database, evidence)
    evidence.requests = installation.provider.requests()
    evidence.callbacks = list(installation.receiver.requests)
    evidence.unexpected_exits = installation.unexpected_exits
    return drained


async def _inject_until(injection: Injection, faults: list[Injector], until: float, failed_injections: list[str]) -> None:
    """Inject every fault of the list in random order; repeat in a new order until the time is up."""
    while True:
        for inject in injection.rng.sample(faults, len(faults)):
            if time.monotonic() > until:
                return
            try:
                await inject(injection)
            except Exception as error:  # noqa: BLE001  not swallowed: the account reports it
                failed_injections.append(f"{inject.__qualname__.removesuffix('.<locals>.inject')}: {error!r}")
            await asyncio.sleep(injection.rng.uniform(0.1, 1.0))


async def _drain(installation: Installation, evidence: Evidence) -> None:
    """Wait until no work remains, or until the time is up; the account reports the remaining work."""
    deadline = time.monotonic() + DRAIN_SECONDS
    while True:
        evidence.remaining = await asyncio.to_thread(audit_triggers.remaining, installation.database)
        evidence.remaining |= await _ready(installation)
        if not any(evidence.remaining.values()) or time.monotonic() > deadline:
            return
        await asyncio.sleep(0.5)


async def _ready(installation: Installation) -> dict[str, int]:
    topology = describe(NAMESPACE, ["sandbox"])
    try:
        states = await inspect(installation.servers.rabbitmq.url, topology)
    except BrokerDown:
        return {"RabbitMQ does not answer": 1}
    return {f"messages in {state.name}": state.ready for state in states if not state.logical.endswith(".dead")}


async def _read_final_statuses(load: Load) -> None:
    """Read statuses after recovery: they must be current."""
    await asyncio.sleep(MAX_STALENESS)
    for id_ in load.rng.sample(load.messages, min(200, len(load.messages))):
        await load.read_status(id_)


def _save_log(folder: str, name: str) -> None:
    """Copy the log of one process to .local/chaos."""
    log = Path(folder) / f"{name}.log"
    if log.exists():
        log_folder = Path(".local/chaos")
        log_folder.mkdir(parents=True, exist_ok=True)
        (log_folder / log.name).write_bytes(log.read_bytes())


def recoveries(evidence: Evidence) -> list[tuple[Fault, float | None]]:
    """For each fault, the seconds from its end until a later accepted job reached a final status; None if no job did."""
    steps = [step for step in evidence.steps if step.job not in evidence.parents]
    created = {step.job: step.at for step in steps if step.version == 1}
    lives = [(created[step.job], step.at) for step in steps if step.status in ("sent", "failed")]
    firsts = [
        min((end for started_at, end in lives if started_at >= fault.ended_at), default=None) for fault in evidence.faults
    ]
    return [(fault, None if end is None else end - fault.ended_at) for fault, end in zip(evidence.faults, firsts, strict=True)]
