"""`posthaste api --workers`: several API processes share one port."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp
import psutil
import pytest

from dev.ports import free_port
from tests.support.metrics import Scrape, scrape
from tests.support.stack import Stack
from tests.support.waiting import eventually

COMMAND = [sys.executable, "-m", "cli", "api", "--workers", "2"]
MESSAGE = {"destination": "+1", "body": "hello"}


@asynccontextmanager
async def _api(stack: Stack, port: int, log: Path) -> AsyncIterator["subprocess.Popen[bytes]"]:
    environment = stack.environment | {"POSTHASTE_PORT": str(port)}
    with log.open("wb") as output:
        process = subprocess.Popen(COMMAND, env=environment, stdout=output, stderr=output)
    family: list[psutil.Process] = []
    try:
        await eventually(lambda: _listening(process.pid, port), lambda pids: len(pids) == 2)
        family = psutil.Process(process.pid).children(recursive=True)
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        assert await asyncio.to_thread(process.wait, 60) == 0
        assert [member for member in family if member.is_running()] == []


async def _listening(parent: int, port: int) -> set[int]:
    """The processes below `parent` that listen at the port."""
    listening = set()
    for child in psutil.Process(parent).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # killed meanwhile
            if any(each.status == "LISTEN" and each.laddr.port == port for each in child.net_connections("tcp")):
                listening.add(child.pid)
    return listening


async def _post(port: int) -> int:
    """POST on a connection of its own: the kernel chooses a process for each connection."""
    async with (
        aiohttp.ClientSession() as session,
        session.post(f"http://127.0.0.1:{port}/messages", json=MESSAGE) as response,
    ):
        return response.status


@pytest.mark.reuses_stack
async def test_several_processes_share_a_port_and_metrics_and_each_that_dies_is_restarted(stack: Stack, tmp_path: Path) -> None:
    port, log, counted = free_port(), tmp_path / "api.log", "posthaste_http_request_duration_seconds_count"
    async with _api(stack, port, log) as process:

        async def processes_with_messages() -> set[str]:
            assert await _post(port) in (202, 503)  # 503: its first connection to Postgres is not open yet
            queued = [line for line in log.read_text().splitlines() if "jobs.queued" in line]
            return {name for name in ("api-0", "api-1") if any(f"process={name}" in line for line in queued)}

        await eventually(processes_with_messages, lambda names: names == {"api-0", "api-1"})
        for _ in range(20):
            await _post(port)
        count = (await _scrape(port)).total(counted, route="/messages")
        assert count >= 21
        for _ in range(20):  # another connection may reach the other process
            assert (await _scrape(port)).total(counted, route="/messages") == count
        assert len((await _scrape(port)).values("posthaste_dependency_up", dependency="redis")) == 1
        before = await _listening(process.pid, port)
        psutil.Process(min(before)).kill()
        await eventually(lambda: _listening(process.pid, port), lambda pids: len(pids) == 2 and pids != before)
        assert (await _scrape(port)).total(counted, route="/messages") == count
        await eventually(lambda: _post(port), lambda status: status == 202)


async def _scrape(port: int) -> Scrape:
    async with aiohttp.ClientSession() as session:
        return await scrape(session, port)


@pytest.mark.parametrize("workers", ["1", "2"])
@pytest.mark.reuses_stack
async def test_a_port_that_is_taken_is_named(stack: Stack, workers: str) -> None:
    ran = await stack.command("api", "--workers", workers)  # at the port of the stack's own API
    assert (ran.returncode, "or set POSTHASTE_PORT" in ran.stderr) == (1, True)
