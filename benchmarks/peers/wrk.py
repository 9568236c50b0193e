"""wrk: closed-loop HTTP load, 64 connections from one thread, and its printed result."""

import asyncio
import json
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from resource import RUSAGE_CHILDREN, getrusage

CONNECTIONS = 64
PACKAGE = "wrk"
_MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0}
_QUANTILE = re.compile(r"^\s+(\d+)%\s+([\d.]+)(us|ms|s|m) *$", re.MULTILINE)
_RATE = re.compile(r"^Requests/sec:\s+([\d.]+)$", re.MULTILINE)
_REQUESTS = re.compile(r"^\s*(\d+) requests in ", re.MULTILINE)
_REJECTED = re.compile(r"^\s*Non-2xx or 3xx responses: (\d+)$", re.MULTILINE)
_SOCKETS = re.compile(r"^\s*Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)$", re.MULTILINE)
_STATUSES = re.compile(r"^statuses (\{.*\})$", re.MULTILINE)


@dataclass(frozen=True)
class Load:
    """The figures of wrk. `statuses` counts answers where its script does; `errors` counts connections and time-outs."""

    per_second: float
    requests: int
    p50_ms: float
    p99_ms: float
    rejected: int
    errors: int
    statuses: Mapping[str, int]


def parse(output: str) -> Load:
    """Read what `wrk --latency` prints.

    Raises:
        ValueError: this is no complete result.
    """
    rate, requests = _RATE.search(output), _REQUESTS.search(output)
    quantiles = {int(percent): float(value) * _MILLISECONDS[unit] for percent, value, unit in _QUANTILE.findall(output)}
    if rate is None or requests is None or not {50, 99} <= quantiles.keys():
        raise ValueError(f"no result of wrk: {output!r}")
    rejected, sockets, statuses = _REJECTED.search(output), _SOCKETS.search(output), _STATUSES.search(output)
    return Load(
        per_second=float(rate[1]),
        requests=int(requests[1]),
        p50_ms=quantiles[50],
        p99_ms=quantiles[99],
        rejected=int(rejected[1]) if rejected else 0,
        errors=sum(map(int, sockets.groups())) if sockets else 0,
        statuses=json.loads(statuses[1]) if statuses else {},
    )


async def run(
    url: str, seconds: float, script: str, arguments: Sequence[str], connections: int = CONNECTIONS
) -> tuple[Load, float]:
    """Send requests to a server on loopback for some seconds. Returns wrk's share of one processor, too."""
    assert url.startswith("http://127.0.0.1:"), url
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--timeout", "5s", "--latency"]
    path = Path(__file__).with_name(script)
    began, before = time.monotonic(), getrusage(RUSAGE_CHILDREN)
    process = await asyncio.create_subprocess_exec(
        *command, "-s", str(path), url, "--", *arguments, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    used = getrusage(RUSAGE_CHILDREN)
    spent = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
    return parse(output.decode()), spent / (time.monotonic() - began)


def is_installed() -> bool:
    return shutil.which("wrk") is not None
