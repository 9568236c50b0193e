"""`posthaste up`: API, workers, relay and an optional sandbox in the foreground."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated
from urllib.parse import urlsplit

import typer

from cli.client import ApiError, Client
from cli.processes import START_SECONDS, CannotStart, Program, write_command
from cli.sandbox import SANDBOX_PORT
from cli.session import read_settings
from cli.terminal import exit_on, say
from infra.webhooks.signing import new_secret
from service.settings import PREFIX, SANDBOX_FILE, Settings, SettingsError

LOOPBACK = ["127.0.0.0/8", "::1/128"]
MESSAGE = '{"destination": "+15550001", "body": "Hello"}'


def up(
    consumers: Annotated[int, typer.Option(min=1, max=64, help="Number of processes that send messages.")] = 1,
    sandbox: Annotated[bool, typer.Option(help="Run the sandbox, too. It is the provider unless providers are set.")] = False,
    sandbox_port: Annotated[int, typer.Option(min=1, max=65_535, help="The sandbox's port.")] = SANDBOX_PORT,
    first_message: Annotated[bool, typer.Option(help="Send one message and show its status.")] = False,
) -> None:
    """Run API, workers and relay in the foreground, and restart each that dies."""
    port = sandbox_port if sandbox else None
    with exit_on(SettingsError, CannotStart), sandbox_settings(read_settings(), port):
        settings = read_settings()
        settings.provider_for_new_messages()
        require_free_port(settings.port, f"{PREFIX}PORT")
        if port:
            require_free_port(port, "--sandbox-port")
        processes = programs(consumers=consumers, sandbox_port=port)
        code = _run(settings, port, processes, first_message=first_message)
    raise typer.Exit(code)


def programs(*, consumers: int, sandbox_port: int | None) -> list[Program]:
    """The processes of `posthaste up`; the sandbox if it has a port."""
    return [
        Program("api", "api"),
        Program("worker", "consumers messages", consumers),
        Program("caller", "consumers callbacks"),
        Program("reporter", "consumers reports"),
        Program("relay", "consumers relay"),
        *([Program("sandbox", f"cli sandbox --port {sandbox_port}")] if sandbox_port else []),
    ]


@contextmanager
def sandbox_settings(settings: Settings, port: int | None) -> Iterator[None]:
    """Complete missing settings for the sandbox: here, in our processes, and for commands in other terminals.

    The sandbox is the provider. This folder's secret signs callbacks, and callbacks may go to loopback.
    """
    if port is None:
        yield
        return
    file, defaults = Path(SANDBOX_FILE), {}
    if not settings.providers:
        defaults[f"{PREFIX}PROVIDERS"] = json.dumps({"sandbox": {"kind": "http", "url": f"http://127.0.0.1:{port}/message"}})
    if not settings.callback_secrets:
        defaults[f"{PREFIX}CALLBACK_SECRETS"] = json.dumps([_folder_secret(file.with_name("callback-secret"))])
    if "callback_allow" not in settings.model_fields_set:
        defaults[f"{PREFIX}CALLBACK_ALLOW"] = json.dumps(LOOPBACK)
    os.environ.update(defaults)
    if file.parent.is_dir() and defaults:
        lines = "".join(f"{name}={value}\n" for name, value in defaults.items())
        file.touch(mode=0o600)
        file.write_text(f"# While `posthaste up --sandbox` runs.\n{lines}")
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def _folder_secret(file: Path) -> str:
    """This folder's secret, made once: callbacks that wait from one run to the next keep their signature."""
    if file.exists():
        return file.read_text().strip()
    secret = new_secret()
    if file.parent.is_dir():
        file.touch(mode=0o600)
        file.write_text(secret + "\n")
    return secret


def require_free_port(port: int, setting: str) -> None:
    """Raise `CannotStart` if the port is in use: before the processes start, one message names the setting."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise CannotStart(f"port {port} is taken; stop the process that uses it, or set {setting}") from error


def _run(settings: Settings, sandbox_port: int | None, processes: list[Program], *, first_message: bool) -> int:
    """Run until Ctrl-C or SIGTERM. Returns the exit code. Raises `CannotStart` if the service is not ready in time."""
    signals: list[int] = []  # received
    stop_seconds = int(settings.shutdown_grace_seconds + settings.lease_margin_seconds) + 5
    with tempfile.TemporaryDirectory(prefix="posthaste-") as folder:
        command = write_command(processes, Path(folder), stop_seconds)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda received, _: signals.append(received))
        process = subprocess.Popen(command, stdout=subprocess.PIPE)
        threading.Thread(target=_copy, args=(process.stdout,), daemon=True).start()

        def is_over() -> bool:
            return bool(signals) or process.poll() is not None

        try:
            _introduce(settings, sandbox_port, is_over, first_message=first_message)
            while not is_over():
                time.sleep(0.1)
        finally:
            if process.poll() is None:
                say("Stopping: the processes finish the jobs in progress …")
                process.terminate()
            process.wait()
            say("Stopped. RabbitMQ, Postgres and Redis keep running; `make stop` stops those that `make` started.")
    return 0 if signals else process.returncode


def _copy(lines: IO[bytes]) -> None:
    """Write all output here: processes that open the same file overwrite each other's lines."""
    for line in lines:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()


def _introduce(settings: Settings, sandbox_port: int | None, is_over: Callable[[], bool], *, first_message: bool) -> None:
    """Wait until the API is ready, send the first message, and print the addresses of this run."""
    base = f"http://{settings.host}:{settings.port}"
    client = Client(base, key=settings.api_key)
    deadline = time.monotonic() + START_SECONDS
    while not client.ready():
        if is_over():
            return
        if time.monotonic() > deadline:
            raise CannotStart(f"not ready within {START_SECONDS:g} s; see the lines above and {base}/health/ready")
        time.sleep(0.1)
    if first_message:
        _send_first(client)
    say(_introduction(settings, base, sandbox_port=sandbox_port))


def _send_first(client: Client) -> None:
    try:
        started = time.monotonic()
        answer = client.send("+10000000001", "Hello from Posthaste")
        say(f"POST /messages → 202, id {answer['id']}, status {answer['status']}")
        while (status := client.status(answer["id"])) not in ("sent", "failed") and time.monotonic() < started + 20:
            time.sleep(0.02)
        say(f"GET {answer['links']['status']} → {status} ({1000 * (time.monotonic() - started):.0f} ms later)")
    except ApiError as error:
        raise CannotStart(f"the API did not accept the first message: {error}") from error


def _masked(url: str) -> str:
    """Mask the URL's password, unless it is guest:guest, which RabbitMQ accepts from loopback alone."""
    parts = urlsplit(url)
    if parts.password is None or (parts.username, parts.password) == ("guest", "guest"):
        return url
    return parts._replace(netloc=f"{parts.username}:***@{parts.netloc.rpartition('@')[2]}").geturl()


def _introduction(settings: Settings, base: str, *, sandbox_port: int | None) -> str:
    """The addresses of this run, and commands to try."""
    addresses, listen = [f"API            {base}"], ""
    if settings.management_url:
        addresses.append(f"RabbitMQ UI    {_masked(settings.management_url)}")
    if sandbox_port:
        addresses.append(f"Sandbox        http://127.0.0.1:{sandbox_port}/stats")
    if settings.callback_secrets and [str(network) for network in settings.callback_allow] == LOOPBACK:
        addresses.append("Callbacks      to loopback and to public addresses")
        listen = '  .venv/bin/posthaste callbacks listen          # with "callback_url": "http://127.0.0.1:9008" in a message\n'
    listed = "\n  ".join(addresses)
    return f"""
  {listed}

Try in a second terminal:
  curl -i {base}/messages -H 'Content-Type: application/json' -d '{MESSAGE}'
  curl {base}/message/ID/status
  make seed && .venv/bin/posthaste report --plot
{listen}
Ctrl-C ends it."""
