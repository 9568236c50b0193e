"""One run: load, faults by a seeded schedule, then quiet, then the account."""

import asyncio
import random
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from infra.rabbitmq.inspection import BrokerDown, inspect
from infra.rabbitmq.topology import describe
from tests.chaos import audit
from tests.chaos.account import violations
from tests.chaos.cache_trace import trace
from tests.chaos.evidence import Evidence, Fault
from tests.chaos.faults import TO_PROCESSES, TO_SERVERS, Hurt, Hurting
from tests.chaos.installation import (
    ATTEMPTS,
    CALLBACK_ATTEMPTS,
    LEASE,
    NAMESPACE,
    STATUS_TTL,
    SWEEP_AFTER,
    TIMEOUT,
    Installation,
    installed,
)
from tests.chaos.load import Load
from tests.chaos.servers import own_servers
from tests.chaos.stalls import watch_stalls

# DESIGN: what is cached can be a second old when it is written, and stays for the status' time to live.
PROMISED = STATUS_TTL + 1.0
DRAIN_SECONDS = 90.0
WARM_UP_SECONDS = 2.0


@dataclass
class Result:
    """What a run came to: its evidence, and by invariant what breaks it."""

    seed: int
    evidence: Evidence
    drained: float  # seconds from the last fault's end until nothing was under way
    broken: dict[str, list[str]] = field(default_factory=dict)


async def run(seed: int, seconds: float, bug: str | None = None) -> Result:
    """Faults for so many seconds (about fifty a minute and a half), with everything that is random drawn from `seed`."""
    draw = random.Random(seed)
    evidence = Evidence(
        limit=ATTEMPTS,
        promised=PROMISED,
        lease=LEASE,
        patience=TIMEOUT * 0.7,
        sweep_after=SWEEP_AFTER,
        callback_limit=CALLBACK_ATTEMPTS,
    )
    with tempfile.TemporaryDirectory(prefix="posthaste-chaos-") as folder:
        async with own_servers() as servers, installed(servers, Path(folder), draw, bug) as installation:
            load = Load(installation, evidence, random.Random(seed))
            watching = [
                asyncio.create_task(trace(servers.redis.url, evidence.cache)),
                asyncio.create_task(watch_stalls(evidence.faults)),
            ]
            try:
                drained = await _through(installation, load, evidence, seed, seconds)
            finally:
                for task in watching:
                    task.cancel()
                for name in sorted(installation.processes):
                    _keep(folder, name)
    return Result(seed, evidence, drained, violations(evidence))


async def _through(installation: Installation, load: Load, evidence: Evidence, seed: int, seconds: float) -> float:
    loading = asyncio.create_task(load.run())
    await asyncio.sleep(WARM_UP_SECONDS)
    until = time.monotonic() + seconds
    pools = [(TO_PROCESSES, random.Random(f"{seed} processes")), (TO_SERVERS, random.Random(f"{seed} servers"))]
    await asyncio.gather(
        *(_hurt(Hurting(installation, load, evidence.faults, draw), faults, until, evidence.not_done) for faults, draw in pools)
    )
    installation.provider.faults = installation.provider.faults.changed({"fail": 0.0, "hang": 0.0, "reset": 0.0})
    ended = time.monotonic()
    load.stopping.set()
    await asyncio.wait_for(loading, DRAIN_SECONDS)
    await _drain(installation, evidence)
    drained = time.monotonic() - ended
    await _look_once_more(load)
    audit.collect(installation.database, evidence)
    evidence.requests = installation.provider.noted()
    evidence.callbacks = list(installation.listener.noted)
    evidence.ended_by_themselves = installation.ended_by_themselves
    return drained


async def _hurt(at: Hurting, faults: list[Hurt], until: float, not_done: list[str]) -> None:
    """Every fault of the list in an order of its own, then again in another, until the time is up."""
    while True:
        for hurt in at.draw.sample(faults, len(faults)):
            if time.monotonic() > until:
                return
            try:
                await hurt(at)
            except Exception as error:  # noqa: BLE001  not swallowed: it turns the run red
                not_done.append(f"{hurt.__qualname__.removesuffix('.<locals>.hurt')}: {error!r}")
            await asyncio.sleep(at.draw.uniform(0.1, 1.0))


async def _drain(installation: Installation, evidence: Evidence) -> None:
    """Wait until nothing is under way; what still is when the time is up is the account's."""
    deadline = time.monotonic() + DRAIN_SECONDS
    while True:
        evidence.left = await asyncio.to_thread(audit.left, installation.database)
        evidence.left |= await _ready(installation)
        if not any(evidence.left.values()) or time.monotonic() > deadline:
            return
        await asyncio.sleep(0.5)


async def _ready(installation: Installation) -> dict[str, int]:
    topology = describe(NAMESPACE, ["sandbox"])
    try:
        states = await inspect(installation.servers.rabbitmq.url, topology)
    except BrokerDown:
        return {"RabbitMQ, which does not answer": 1}
    return {f"messages in {state.name}": state.ready for state in states if not state.logical.endswith(".dead")}


async def _look_once_more(load: Load) -> None:
    """When it is all over, what clients are told is what is."""
    await asyncio.sleep(PROMISED)
    for id_ in load.draw.sample(load.messages, min(200, len(load.messages))):
        await load.look(id_)


def _keep(folder: str, name: str) -> None:
    """Leave the log of one process where whoever reads of a red run finds it."""
    log = Path(folder) / f"{name}.log"
    if log.exists():
        kept = Path(".local/chaos")
        kept.mkdir(parents=True, exist_ok=True)
        (kept / log.name).write_bytes(log.read_bytes())


def recoveries(evidence: Evidence) -> list[tuple[Fault, float | None]]:
    """For each fault, the seconds from its end until a job that was accepted after it had ended; None: there was none."""
    steps = [step for step in evidence.steps if step.job not in evidence.parents]
    created = {step.job: step.at for step in steps if step.version == 1}
    lives = [(created[step.job], step.at) for step in steps if step.status in ("sent", "failed")]
    firsts = [min((end for begun, end in lives if begun >= fault.ended), default=None) for fault in evidence.faults]
    return [(fault, None if end is None else end - fault.ended) for fault, end in zip(evidence.faults, firsts, strict=True)]
