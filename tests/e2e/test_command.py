"""The `posthaste` command as users run it: up, send, status, and its error messages."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

from dev.ports import free_port
from dev.stack import as_variables, environment_without_settings
from tests.support.processes import Process
from tests.support.services import Services
from tests.support.stack import Stack
from tests.support.waiting import eventually

COMMAND = [sys.executable, "-m", "cli"]


def _environment(services: Services, database: str, namespace: str, port: int) -> dict[str, str]:
    settings = {"database_url": database, "amqp_url": services.amqp, "redis_url": services.redis}
    return environment_without_settings() | as_variables({**settings, "namespace": namespace, "port": str(port)})


def _run(*arguments: str, environment: dict[str, str], folder: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*COMMAND, *arguments], env=environment, cwd=folder, capture_output=True, text=True, timeout=30, check=False
    )


async def test_up_shows_a_message_sent_restarts_what_dies_and_ends_cleanly(
    services: Services, database: str, broker_namespace: str, tmp_path: Path
) -> None:
    port, sandbox_port = free_port(), free_port()
    environment = _environment(services, database, broker_namespace, port)
    log = tmp_path / "up.log"
    with log.open("wb") as output:
        up = subprocess.Popen(
            [*COMMAND, "up", "--sandbox", "--sandbox-port", str(sandbox_port), "--first-message"],
            env=environment, cwd=tmp_path, stdout=output, stderr=output,
        )  # fmt: skip
    try:
        text = await eventually(lambda: _read(log), lambda text: "Ctrl-C ends it" in text, 100)
        assert "POST /messages → 202" in text and "→ sent" in text
        assert f"http://127.0.0.1:{port}/messages" in text
        ours = await asyncio.to_thread(_children, up.pid)
        workers = [pid for pid, command in ours.items() if "consumers messages" in command]
        os.kill(workers[0], signal.SIGKILL)
        url = ["--url", f"http://127.0.0.1:{port}"]
        sent = await asyncio.to_thread(lambda: _run("send", "+1", "hello", *url, environment=environment, folder=tmp_path))
        assert sent.returncode == 0, sent.stderr

        async def status() -> str:
            ran = await asyncio.to_thread(
                lambda: _run("status", sent.stdout.strip(), *url, environment=environment, folder=tmp_path)
            )
            return ran.stdout.strip()

        await eventually(status, lambda answer: answer == "sent", 30)
        up.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(up.wait, 30) == 0
        assert "make stop" in log.read_text() and "Warning" not in log.read_text()
        assert not [pid for pid in ours if Path(f"/proc/{pid}").exists()]
    finally:
        if up.poll() is None:
            up.terminate()
            up.wait(30)


async def test_each_process_starts_without_a_warning_of_python(stack: Stack) -> None:
    await stack.becomes(await stack.submit(), "sent")
    for process in stack.processes.values():

        async def output(process: Process = process) -> str:
            return process.output()

        assert "Warning" not in await eventually(output, bool)  # lines are written some milliseconds later


async def _read(file: Path) -> str:
    return file.read_text()


def _children(pid: int) -> dict[int, str]:
    """The command lines of all descendants of a process."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True, check=True).stdout
    rows = [line.split(None, 2) for line in listed.splitlines()[1:]]
    found, added = {pid: ""}, True
    while added:
        new = {int(child): args for child, parent, args in rows if int(parent) in found and int(child) not in found}
        found |= new
        added = bool(new)
    del found[pid]
    return found


def test_up_names_the_port_that_is_taken(services: Services, database: str, namespace: str, tmp_path: Path) -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        ran = _run("up", "--sandbox", environment=_environment(services, database, namespace, port), folder=tmp_path)
    assert ran.returncode == 1
    assert f"port {port} is taken" in ran.stderr and "POSTHASTE_PORT" in ran.stderr


def test_without_settings_each_missing_one_is_named(tmp_path: Path) -> None:
    environment = environment_without_settings()
    for arguments in (["migrate"], ["up"]):
        ran = _run(*arguments, environment=environment, folder=tmp_path)
        assert ran.returncode == 1
        assert "POSTHASTE_DATABASE_URL is not set" in ran.stderr and "make services" in ran.stderr
        assert "in the checkout" in ran.stderr


def test_send_and_status_explain_what_is_wrong(tmp_path: Path) -> None:
    environment = dict(os.environ)
    url = ["--url", f"http://127.0.0.1:{free_port()}"]
    for arguments, code in (
        (["send", "+1", "b", "--timeout", "0"], 3),
        (["status", "01900000-0000-7000-8000-000000000000"], 1),
    ):
        ran = _run(*arguments, *url, environment=environment, folder=tmp_path)
        assert ran.returncode == code
        assert "make run" in ran.stderr


async def test_the_sandbox_answers_counts_and_takes_faults(tmp_path: Path) -> None:
    port = free_port()
    sandbox = subprocess.Popen([*COMMAND, "sandbox", "--port", str(port)], cwd=tmp_path)
    try:

        async def post() -> tuple[int, str]:
            return await asyncio.to_thread(_post, port)

        status, answer = await eventually(post, lambda answer: answer[0] != 0, 15)
        assert status == 200 and json.loads(answer)["id"].startswith("sandbox-")
        second = _run("sandbox", "--port", str(port), environment=dict(os.environ), folder=tmp_path)
        assert second.returncode == 1 and "--port" in second.stderr
    finally:
        sandbox.send_signal(signal.SIGINT)
        assert await asyncio.to_thread(sandbox.wait, 10) == 0


def _post(port: int) -> tuple[int, str]:
    body = json.dumps({"destination": "+1", "body": "b"}).encode()
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/message", body, timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.URLError:
        return 0, ""
