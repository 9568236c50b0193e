"""`posthaste up`: API, workers and relay (and the sandbox, if asked) under supervisor, which restarts what dies."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO
from urllib.parse import urlsplit
from uuid import UUID

from rich.console import Console

from cli.client import ApiError, Client
from infra.webhooks.signing import new_secret
from service.settings import PREFIX, SANDBOX_FILE, Settings

START_SECONDS = 90.0  # seven processes import their modules; a busy machine takes its time
LOOPBACK = ["127.0.0.0/8", "::1/128"]
MESSAGE = '{"destination": "+15550001", "body": "Hello"}'

_SUPERVISORD = """\
[supervisord]
nodaemon = true
silent = true
{user}
logfile = /dev/null
logfile_maxbytes = 0
pidfile = {folder}/supervisord.pid
"""

# startretries: a process that cannot start (a wrong setting) is tried at growing intervals, not given up.
_PROGRAM = """
[program:{name}]
command = {python} -m {command}
process_name = %(program_name)s{suffix}
numprocs = {count}
autorestart = true
startsecs = 2
startretries = 1000
stopsignal = TERM
stopwaitsecs = {stop_seconds}
redirect_stderr = true
stdout_logfile = /dev/stdout
stdout_logfile_maxbytes = 0
"""


class CannotStart(Exception):
    """The service cannot be started; the message says why and what to do."""


@dataclass(frozen=True)
class Program:
    """One line of what is to run: `python -m command`, `count` times."""

    name: str
    command: str
    count: int = 1


def programs(*, consumers: int, sandbox_port: int | None) -> list[Program]:
    """What `up` runs; the sandbox where it has a port."""
    listed = [
        Program("api", "api"),
        Program("worker", "consumers messages", consumers),
        Program("caller", "consumers callbacks"),
        Program("reporter", "consumers reports"),
        Program("relay", "consumers relay"),
    ]
    return listed + ([Program("sandbox", f"cli sandbox --port {sandbox_port}")] if sandbox_port else [])


def configuration(listed: list[Program], folder: Path, stop_seconds: int) -> str:
    """supervisord's configuration file."""
    # It warns where it runs as root unbidden; as anybody else it must not be told to be somebody.
    text = _SUPERVISORD.format(folder=folder, user="user = root" if os.geteuid() == 0 else "")
    for program in listed:
        text += _PROGRAM.format(
            name=program.name,
            command=program.command,
            python=shlex.quote(sys.executable).replace("%", "%%"),
            suffix="-%(process_num)d" if program.count > 1 else "",
            count=program.count,
            stop_seconds=stop_seconds,
        )
    return text


@contextmanager
def sandbox_settings(settings: Settings, port: int | None) -> Iterator[None]:
    """What is not configured is set for trying out, for our processes and for commands in other terminals.

    The sandbox is the provider; callbacks are signed with a secret of this folder, and may go to loopback.
    """
    if port is None:
        yield
        return
    file, chosen = Path(SANDBOX_FILE), {}
    if not settings.providers:
        chosen["PROVIDERS"] = json.dumps({"sandbox": {"kind": "http", "url": f"http://127.0.0.1:{port}/message"}})
    if not settings.callback_secrets:
        chosen["CALLBACK_SECRETS"] = json.dumps([_kept_secret(file.with_name("callback-secret"))])
    if "callback_allow" not in settings.model_fields_set:
        chosen["CALLBACK_ALLOW"] = json.dumps(LOOPBACK)
    os.environ.update({PREFIX + name: value for name, value in chosen.items()})
    if file.parent.is_dir() and chosen:
        lines = "".join(f"{PREFIX}{name}={value}\n" for name, value in chosen.items())
        file.touch(mode=0o600)
        file.write_text(f"# While `posthaste up --sandbox` runs.\n{lines}")
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _kept_secret(file: Path) -> str:
    """The secret of this folder, made at its first use: callbacks that wait from one run to the next keep their signature."""
    if file.exists():
        return file.read_text().strip()
    secret = new_secret()
    if file.parent.is_dir():
        file.touch(mode=0o600)
        file.write_text(secret + "\n")
    return secret


def require_free_port(port: int, setting: str) -> None:
    """Say clearly that a port is taken, before all processes say it obscurely.

    Raises:
        CannotStart: somebody listens there.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise CannotStart(f"port {port} is taken; end what uses it, or choose another with {setting}") from error


def run(settings: Settings, console: Console, *, consumers: int, sandbox_port: int | None, first_message: bool) -> int:
    """Run everything in the foreground until Ctrl-C or SIGTERM; the exit code.

    Raises:
        CannotStart: a port is taken, or the service is not ready in time.
    """
    require_free_port(settings.port, f"{PREFIX}PORT")
    if sandbox_port:
        require_free_port(sandbox_port, "--sandbox-port")
    stop_seconds = int(settings.shutdown_grace_seconds + settings.lease_margin_seconds) + 5
    with tempfile.TemporaryDirectory(prefix="posthaste-") as folder:
        file = Path(folder) / "supervisord.conf"
        file.write_text(configuration(programs(consumers=consumers, sandbox_port=sandbox_port), Path(folder), stop_seconds))
        stopping: list[int] = []
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda received, _: stopping.append(received))
        process = subprocess.Popen([sys.executable, "-m", "supervisor.supervisord", "-c", str(file)], stdout=subprocess.PIPE)
        threading.Thread(target=_copy, args=(process.stdout,), daemon=True).start()
        try:
            _introduce(settings, console, process, stopping, sandbox_port=sandbox_port, first_message=first_message)
            while process.poll() is None and not stopping:
                time.sleep(0.1)
        finally:
            _end(process, console)
    return 0 if stopping else process.returncode


def _copy(lines: IO[bytes]) -> None:
    """One writer for all: if each process opened the same file, they would write over one another."""
    for line in lines:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()


def _end(process: "subprocess.Popen[bytes]", console: Console) -> None:
    if process.poll() is None:
        console.print("Stopping: what has been started is finished first …")
        process.terminate()
    process.wait()
    services = "RabbitMQ, Postgres and Redis go on running; `make stop` ends those that `make` started."
    console.print(f"Stopped. {services}", soft_wrap=True)


def _introduce(
    settings: Settings,
    console: Console,
    process: "subprocess.Popen[bytes]",
    stopping: list[int],
    *,
    sandbox_port: int | None,
    first_message: bool,
) -> None:
    base = f"http://{settings.host}:{settings.port}"
    client = Client(base, key=settings.api_key)
    deadline = time.monotonic() + START_SECONDS
    while not client.ready():
        if stopping or process.poll() is not None:
            return
        if time.monotonic() > deadline:
            raise CannotStart(f"not ready within {START_SECONDS:g} s; the lines above say why. `{base}/health/ready` lists it")
        time.sleep(0.1)
    if first_message:
        _send_first(client, console)
    console.print(_what_to_try(settings, base, sandbox_port=sandbox_port), highlight=False, soft_wrap=True)


def _send_first(client: Client, console: Console) -> None:
    try:
        started = time.monotonic()
        answer = client.send("+10000000001", "Hello from Posthaste")
        console.print(f"POST /messages → 202, id {answer['id']}, status {answer['status']}", highlight=False)
        status = client.wait_for(UUID(answer["id"]), frozenset({"sent", "failed"}), 20)
        milliseconds = 1000 * (time.monotonic() - started)
        console.print(f"GET {answer['links']['status']} → {status} ({milliseconds:.0f} ms later)", highlight=False)
    except ApiError as error:
        raise CannotStart(f"the first message was not accepted: {error}") from error


def _calls_loopback(settings: Settings) -> bool:
    return bool(settings.callback_secrets) and [str(network) for network in settings.callback_allow] == LOOPBACK


def _masked(url: str) -> str:
    """The URL with its password hidden, unless it is the one that RabbitMQ opens to loopback alone."""
    parts = urlsplit(url)
    if parts.password is None or (parts.username, parts.password) == ("guest", "guest"):
        return url
    return parts._replace(netloc=f"{parts.username}:***@{parts.netloc.rpartition('@')[2]}").geturl()


def _what_to_try(settings: Settings, base: str, *, sandbox_port: int | None) -> str:
    lines = [
        "",
        f"  API            {base}",
        *([f"  RabbitMQ UI    {_masked(settings.management_url)}"] if settings.management_url else []),
        *([f"  Sandbox        http://127.0.0.1:{sandbox_port}/stats"] if sandbox_port else []),
        *(
            ["  Callbacks      may go to loopback here; elsewhere only to public addresses"]
            if _calls_loopback(settings)
            else []
        ),
        "",
        "Try, in a second terminal:",
        f"  curl -i {base}/messages -H 'Content-Type: application/json' -d '{MESSAGE}'",
        f"  curl {base}/message/ID/status",
        "  make seed && .venv/bin/posthaste report --plot",
        *(
            ['  .venv/bin/posthaste callbacks listen          # and say in a message: "callback_url": "http://127.0.0.1:9008"']
            if _calls_loopback(settings)
            else []
        ),
        "",
        "Ctrl-C ends it.",
    ]
    return "\n".join(lines)
