"""`posthaste top` on a real installation: live in a terminal, one sample elsewhere."""

import asyncio
import json
import os
import pty
import subprocess
import sys

import pytest

from tests.support.stack import Stack
from tests.support.waiting import eventually


async def test_one_sample_shows_the_installation_as_text_and_as_json(stack: Stack) -> None:
    await stack.becomes(await stack.submit(), "sent")

    async def sample() -> dict[str, object]:
        return dict(json.loads((await stack.command("top", "--json")).stdout))

    figures = await eventually(sample, lambda found: len(found["processes"]) == 3)  # type: ignore[arg-type]
    assert figures["down"] == {} and len(figures["rates"]) == 360  # type: ignore[arg-type]
    shown = await stack.command("top")
    assert shown.returncode == 0, shown.stderr
    assert "messages.sandbox.normal" in shown.stdout and "no dead letters" in shown.stdout


@pytest.mark.parametrize("service", ["redis", "rabbitmq", "postgres"])
async def test_a_sample_names_the_service_that_is_down(stack: Stack, service: str) -> None:
    await stack.proxies[service].refuse()
    sampled = await stack.command("top", "--json")
    assert sampled.returncode == 3, sampled.stderr
    assert list(json.loads(sampled.stdout)["down"]) == [service]
    shown = await stack.command("top", "--once")
    assert shown.returncode == 3 and f"{service} is down:" in shown.stdout


async def test_a_terminal_is_refreshed_until_ctrl_c(stack: Stack) -> None:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "cli", "top"]
    environment = {**stack.environment, "TERM": "xterm", "COLUMNS": "120", "LINES": "50"}
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment, start_new_session=True)
    os.close(theirs)
    try:
        text = ""
        while text.count("posthaste top") < 2 or "worker" not in text:
            text += (await asyncio.wait_for(asyncio.to_thread(os.read, ours, 65_536), 60)).decode(errors="replace")
        os.killpg(process.pid, 2)
        reading = asyncio.create_task(asyncio.to_thread(_drain, ours))
        assert await asyncio.wait_for(asyncio.to_thread(process.wait), 60) == 0
        assert "Traceback" not in await reading
    finally:
        process.kill()
        os.close(ours)


def _drain(descriptor: int) -> str:
    """Read until the terminal is closed."""
    text = b""
    try:
        while data := os.read(descriptor, 65_536):
            text += data
    except OSError:  # Linux reports the end of a terminal as an error
        pass
    return text.decode(errors="replace")
