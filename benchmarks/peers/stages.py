"""The stages of the comparison. Each measures one running system and returns figures by name."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from benchmarks.load import after
from benchmarks.peers import wrk
from benchmarks.peers.client import Provider, Submissions, bounded_backlog, one_by_one
from benchmarks.peers.costs import costs, milliseconds_each
from benchmarks.peers.measures import (
    Arrivals,
    back_after,
    first_arrivals,
    latencies_ms,
    lost,
    middle_rate,
    quantile,
    rate_between,
    twice,
)
from benchmarks.peers.running import Running

Figures = dict[str, float]

WARM_UP_SECONDS = 1.0
STATUSES = 200  # messages whose statuses are read
UNLOADED = 300  # messages sent one by one
PAUSE_SECONDS = 0.01
SETTLED_SECONDS = 0.5
STILL_SECONDS = 10.0  # without an arrival nothing more arrives
DRAIN_SECONDS = 60.0
LEASE_SECONDS = 100.0  # the longest wait for what a killed worker held
BATCH, BATCH_CONNECTIONS = 500, 4
SHARE = 0.25  # the backlog of the sustained load, in seconds of the drain rate


async def accept(subject: Running, seconds: float) -> Figures:
    """POST from 64 connections while no worker runs."""
    warm, _ = await wrk.run(f"{subject.base}/messages", WARM_UP_SECONDS, "post.lua", ["warm-"])
    load, share = await wrk.run(f"{subject.base}/messages", seconds, "post.lua", ["accept-"])
    accepted = load.statuses.get("202", 0)
    return {
        "accept_per_second": accepted / max(sum(load.statuses.values()), 1) * load.per_second,
        "accept_p50_ms": load.p50_ms,
        "accept_p99_ms": load.p99_ms,
        "accept_others": sum(load.statuses.values()) - accepted + load.errors,
        "accept_wrk_share": share,
        **{f"accept_answers_{status}": count for status, count in load.statuses.items()},
        "accepted": accepted,
        "backlog": accepted + warm.statuses.get("202", 0),
    }


async def drain(subject: Running, accepted: int, backlog: int) -> Figures:
    """Start the worker on the backlog of the accept stage, and wait until all is delivered."""
    subject.start_worker()
    await _until_delivered(subject.provider, backlog, DRAIN_SECONDS)
    arrivals = await subject.provider.arrivals()
    if not arrivals:
        raise NothingDelivered(subject.end_of_log("worker"))
    return {
        "drain_per_second": middle_rate(first_arrivals(arrivals)),
        "drain_missing": max(0, accepted - sum(body.startswith("accept-") for body in arrivals)),
        "drain_twice": twice(arrivals),
    }


async def status(subject: Running, seconds: float) -> Figures:
    """GET the statuses of 200 messages, sent before, from 64 connections."""
    await subject.provider.reset()
    sent = await one_by_one(subject.base, "status-", STATUSES, 0.0)
    if subject.system.worker is not None:
        await _until_delivered(subject.provider, STATUSES, DRAIN_SECONDS)
        await asyncio.sleep(0.5)  # the status is written after the call
    load, share = await wrk.run(subject.base, seconds, "status.lua", sent.ids)
    return {
        "status_per_second": load.per_second,
        "status_p50_ms": load.p50_ms,
        "status_p99_ms": load.p99_ms,
        "status_others": load.rejected + load.errors,
        "status_wrk_share": share,
    }


async def latency(subject: Running) -> Figures:
    """Milliseconds from a POST to its arrival at the provider, one message after the other."""
    await subject.provider.reset()
    sent = await one_by_one(subject.base, "latency-", UNLOADED, PAUSE_SECONDS)
    await _until_delivered(subject.provider, len(sent.ids), DRAIN_SECONDS)
    milliseconds = latencies_ms(sent.sent_at, await subject.provider.arrivals())
    return {"latency_p50_ms": quantile(milliseconds, 50), "latency_p99_ms": quantile(milliseconds, 99)}


async def sustained(subject: Running, seconds: float, per_second: float) -> Figures:
    """Accept and deliver at once, with a bounded backlog; costs and memory at the same time."""
    await subject.provider.reset()
    window = _window(per_second)
    load = asyncio.create_task(
        bounded_backlog(subject.base, subject.provider, "sustained-", window, after(WARM_UP_SECONDS + seconds))
    )
    await asyncio.sleep(WARM_UP_SECONDS)
    processes = {**subject.processes, **subject.servers.processes}
    start, before = time.monotonic(), costs(processes)
    await asyncio.sleep(seconds - 0.2)
    end, paid, delivered = time.monotonic(), costs(processes), await subject.provider.count()
    sent = await load
    arrivals = await _all_of(subject.provider, sent, DRAIN_SECONDS)
    times = first_arrivals(arrivals)
    rate = rate_between(times, start, end)
    backlog = sum(at < end for at in sent.sent_at.values()) - delivered
    messages = sum(start <= at < end for at in times)
    return {
        "sustained_per_second": rate,
        "sustained_backlog_seconds": max(backlog, 0) / rate if rate else 0.0,
        "sustained_others": len(sent.others),
        "sustained_lost": lost(sent.sent_at, arrivals),
        "sustained_twice": twice(arrivals),
        **{f"cpu_{role}_ms": value for role, value in milliseconds_each(before, paid, messages).items()},
        **{f"rss_{role}_mb": each.bytes / 2**20 for role, each in paid.items()},
        **{f"processes_{role}": each.processes for role, each in paid.items() if role in subject.processes},
    }


async def kill(subject: Running, seconds: float, per_second: float) -> Figures:
    """SIGKILL the worker under load, and start another at once."""
    await subject.provider.reset()
    until = _Switch()
    load = asyncio.create_task(bounded_backlog(subject.base, subject.provider, "kill-", _window(per_second), until))
    await asyncio.sleep(WARM_UP_SECONDS + seconds / 2)
    killed = time.monotonic()
    await subject.kill_worker()
    subject.start_worker()
    back = await _poll(lambda: _back(subject.provider, killed), LEASE_SECONDS)
    await asyncio.sleep(seconds / 2)
    until.on = True
    sent = await load
    arrivals = await _all_of(subject.provider, sent, LEASE_SECONDS)
    before = [at for body, at in sent.sent_at.items() if at < killed and body in arrivals]
    oldest = max((arrivals[body][0] for body, at in sent.sent_at.items() if at < killed and body in arrivals), default=killed)
    return {
        "kill_back_seconds": back if back is not None else LEASE_SECONDS,
        "kill_settled_seconds": oldest - killed if before else 0.0,
        "kill_lost": lost(sent.sent_at, arrivals),
        "kill_twice": twice(arrivals),
    }


async def batch(subject: Running, seconds: float) -> Figures:
    """POST batches of 500 messages from 4 connections while no worker runs. Only Posthaste has this route."""
    await subject.stop_worker()
    path = f"{subject.base}/messages/batch"
    load, share = await wrk.run(path, seconds, "batch.lua", ["batch-", str(BATCH)], BATCH_CONNECTIONS)
    return {
        "batch_per_second": load.per_second * BATCH * (1 - load.rejected / max(load.requests, 1)),
        "batch_p99_ms": load.p99_ms,
        "batch_others": load.rejected + load.errors,
        "batch_wrk_share": share,
    }


class NothingDelivered(Exception):
    """The worker delivered none of the backlog. The message is the end of its log."""


class _Switch:
    """Wait until another process makes a condition true."""

    on = False

    def __call__(self) -> bool:
        return self.on


def _window(per_second: float) -> int:
    return max(64, round(SHARE * per_second))


async def _back(provider: Provider, killed: float) -> float | None:
    return back_after(first_arrivals(await provider.arrivals()), killed)


async def _poll(ask: Callable[[], Awaitable[float | None]], seconds: float) -> float | None:
    expired = after(seconds)
    while (answer := await ask()) is None and not expired():  # noqa: ASYNC110  another process has no event
        await asyncio.sleep(0.1)
    return answer


async def _all_of(provider: Provider, sent: Submissions, seconds: float) -> Arrivals:
    """Wait until every accepted message arrived, as long as that may take."""
    expired = after(seconds)
    while lost(sent.sent_at, arrivals := await provider.arrivals()) and not expired():  # noqa: ASYNC110  as above
        await asyncio.sleep(0.25)
    return arrivals


async def _until_delivered(provider: Provider, count: int, seconds: float) -> None:
    """Wait until so many messages arrived and no further one does. wrk does not count those under way at its end."""
    expired, last, changed = after(seconds), -1, time.monotonic()
    while not expired():
        if (now := await provider.count()) != last:
            last, changed = now, time.monotonic()
        still = time.monotonic() - changed
        if still > (SETTLED_SECONDS if last >= count else STILL_SECONDS):
            return
        await asyncio.sleep(0.05)
