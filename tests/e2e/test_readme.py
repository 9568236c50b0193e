"""The README's commands work as they stand there, in its order."""

import asyncio
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from cli.sandbox import Faults
from tests.support.stack import Stack

README = Path(__file__).parents[2] / "README.md"
BIN = ".venv/bin/"
POSTHASTE = f"{BIN}posthaste "


def _commands() -> list[str]:
    blocks = re.findall(r"```sh\n(.*?)```", README.read_text("utf-8"), re.DOTALL)
    lines = "".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


async def _run(stack: Stack, command: str) -> str:
    """Run one command of the README against `stack`; its standard output."""
    if command.startswith(POSTHASTE):
        done = await stack.command(*shlex.split(command.removeprefix(POSTHASTE)))
    elif command.startswith(BIN):  # another script of ours
        script = [str(Path(sys.executable).parent / command.removeprefix(BIN).split()[0]), *shlex.split(command)[1:]]
        done = await asyncio.to_thread(
            subprocess.run, script, env=stack.environment, capture_output=True, text=True, check=False
        )
    else:
        command = command.replace("http://127.0.0.1:9006", stack.base).replace(":9007", f":{stack.sandbox_port}")
        done = await asyncio.to_thread(subprocess.run, ["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (command, done.stderr)
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None and "CI" not in os.environ, reason="there is no curl on this machine")
async def test_the_commands_of_the_readme_send_one_message_and_requeue_a_dead_letter(stack: Stack) -> None:
    submit, status, break_it, send, list_, repair, requeue, wait = _commands()
    id_ = json.loads(await _run(stack, submit))["id"]
    assert json.loads(await _run(stack, status.replace("ID", id_))) == {"status": "sent"}
    await _run(stack, break_it)
    dead = (await _run(stack, send.removeprefix("ID=$(").removesuffix(")"))).strip()
    await stack.becomes(dead, "failed")
    listed = await _run(stack, list_)
    assert "http_400" in listed
    await _run(stack, repair)
    requeued = await _run(stack, requeue)
    await stack.becomes(dead, "sent")
    assert (await _run(stack, wait.replace("$ID", dead) + f" --url {stack.base}")).strip() == "sent"
    assert requeued.splitlines()[-1] == "1 requeued" and "│ message │ sandbox  │ failed │ http_400 │ 1     │" in listed
    assert (await stack.provider("/stats"))["faults"] == asdict(Faults())
