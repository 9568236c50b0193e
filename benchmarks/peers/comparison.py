"""The comparison: every system in turn, again and again, on the same servers."""

import asyncio
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from benchmarks.peers import ceilings, stages, wrk
from benchmarks.peers.client import Provider
from benchmarks.peers.costs import cost
from benchmarks.peers.running import CannotStart, running, serving_provider
from benchmarks.peers.servers import Servers, own_servers
from benchmarks.peers.stages import Figures
from benchmarks.peers.systems import PEERS_PYTHON, SYSTEMS, System
from dev import packages
from dev.process import Process

ERROR_LENGTH = 300  # characters of a failure in the report
OWN_PACKAGES = ("starlette", "uvicorn", "uvloop", "aio-pika", "aiohttp", "psycopg2-binary", "sqlalchemy", "redis")


@dataclass(frozen=True)
class Options:
    repeats: int
    seconds: float
    systems: Sequence[str]


async def compare(options: Options) -> dict[str, Any]:
    """Measure, and return everything that the report needs."""
    began = datetime.now(UTC)
    async with own_servers() as (servers, folder):
        _install_wrk(folder)
        async with serving_provider(folder, sys.executable) as (provider, process):
            results: dict[str, Any] = {
                "began": began.isoformat(timespec="seconds"),
                "options": asdict(options),
                "machine": machine(),
                "versions": servers.versions() | _versions(options.systems),
                "postgres": servers.postgres_settings(),
                "systems": {name: _described(SYSTEMS[name]) for name in options.systems},
                "runs": [],
            }
            for repeat in range(options.repeats):
                results["runs"].append(await _ceilings(repeat, servers, provider, options.seconds))
                for name in options.systems:
                    run = await _system(repeat, SYSTEMS[name], servers, provider, process, folder, options.seconds)
                    results["runs"].append(run)
                    _print(run)
    results["minutes"] = round((datetime.now(UTC) - began).total_seconds() / 60, 1)
    return results


async def _ceilings(repeat: int, servers: Servers, provider: Provider, seconds: float) -> dict[str, Any]:
    load, busy = os.getloadavg()[0], await _busy()
    await servers.empty()
    published = await ceilings.publishing(servers.amqp, seconds)
    inserted = await asyncio.to_thread(ceilings.inserting, servers.database, seconds)
    sink, _ = await wrk.run(f"{provider.base}/message", min(seconds, 3.0), "post.lua", ["sink-"])
    figures = {"publish_per_second": published, "insert_per_second": inserted, "provider_per_second": sink.per_second}
    run = {"system": "ceilings", "repeat": repeat, "load": load, "busy": busy, "figures": figures}
    _print(run)
    return run


async def _system(
    repeat: int, system: System, servers: Servers, provider: Provider, sink: Process, folder: Path, seconds: float
) -> dict[str, Any]:
    load, busy, figures, error = os.getloadavg()[0], await _busy(), Figures(), ""
    began, before = time.monotonic(), cost(sink)
    try:
        async with running(system, servers, provider, folder) as subject:
            figures |= await stages.accept(subject, seconds)
            if system.worker is not None:
                figures |= await stages.drain(subject, int(figures["accepted"]), int(figures["backlog"]))
                figures |= await stages.latency(subject)
            figures |= await stages.status(subject, seconds)
            if system.worker is not None:
                rate = min(figures["drain_per_second"], figures["accept_per_second"])
                figures |= await stages.sustained(subject, seconds, rate)
                figures |= await stages.kill(subject, seconds, rate)
            if system.has_batches:
                figures |= await stages.batch(subject, seconds)
    except (CannotStart, stages.NothingDelivered, OSError, ValueError) as failure:
        error = f"{type(failure).__name__}: {failure}"[:ERROR_LENGTH].replace("\n", " ")
    figures["provider_share"] = (cost(sink).seconds - before.seconds) / (time.monotonic() - began)
    return {"system": system.name, "repeat": repeat, "load": load, "busy": busy, "figures": figures, "error": error}


async def _busy() -> float:
    """The share of all processors that other work takes, measured for a second in which nothing of ours runs."""
    psutil.cpu_percent()
    await asyncio.sleep(1.0)
    return psutil.cpu_percent() / 100


def machine() -> dict[str, Any]:
    """The machine, without its name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processors": os.cpu_count(),
        "model": models[0] if models else platform.processor(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30),
        "system": f"{platform.system()} {platform.release()}",
    }


def _described(system: System) -> dict[str, Any]:
    return {"title": system.title, "queue": system.queue, "settings": system.settings, "is_peer": system.is_peer}


def _versions(systems: Sequence[str]) -> dict[str, str]:
    """The versions of Posthaste's own packages, and of the peers' in their venv."""
    names = sorted({package for system in systems for package in SYSTEMS[system].packages})
    script = "import sys; from importlib.metadata import version; print(*map(version, sys.argv[1:]))"
    found = subprocess.run([PEERS_PYTHON, "-c", script, *names], check=True, capture_output=True, text=True).stdout.split()
    own = {f"{name} (Posthaste)": version(name) for name in OWN_PACKAGES}
    return {"Python": platform.python_version(), **own, **dict(zip(names, found, strict=True))}


def _install_wrk(folder: Path) -> None:
    if not wrk.is_installed():
        log = folder / "wrk.log"
        packages.install([wrk.PACKAGE], log, lambda line: print(f"wrk       {line}", file=sys.stderr), "Install wrk")


def _print(run: dict[str, Any]) -> None:
    """One line a system while it runs; the report comes at the end."""
    figures = " ".join(f"{name}={value:.4g}" for name, value in run["figures"].items())
    head = f"[{run['repeat'] + 1}] {run['system']} (load {run['load']:.1f}, busy {run['busy']:.0%})"
    print(f"{head}: {figures} {run.get('error', '')}", file=sys.stderr)
