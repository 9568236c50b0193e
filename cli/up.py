"""`posthaste up`: API, workers, relay and an optional sandbox in the foreground."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit
from uuid import UUID

import typer

from cli.client import ApiError, Client
from cli.local_settings import KEY_FILE, LOOPBACK, local_settings, recorded_run
from cli.sandbox import SANDBOX_PORT
from cli.session import read_settings
from cli.supervisor import START_SECONDS, CannotStart, Program, start
from cli.terminal import console, exit_on, say
from cli.up_output import LiveOutput, PlainOutput
from service.settings import PREFIX, Settings, SettingsError

MESSAGE = '{"destination": "+15550001", "body": "Hello"}'
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def up(
    consumers: Annotated[int, typer.Option(min=1, max=64, help="Number of processes that send messages.")] = 1,
    sandbox: Annotated[bool, typer.Option(help="Run the sandbox, too. It is the provider unless providers are set.")] = False,
    sandbox_port: Annotated[int, typer.Option(min=1, max=65_535, help="The sandbox's port.")] = SANDBOX_PORT,
    first_message: Annotated[bool, typer.Option(help="Send one message through the sandbox and show its status.")] = False,
) -> None:
    """Run API, workers and relay in the foreground, and restart each that dies.

    A terminal shows problems and one line of counters. POSTHASTE_LOG_LEVEL=info shows every log line.
    """
    port = sandbox_port if sandbox else None
    with exit_on(SettingsError, CannotStart), recorded_run():
        own = read_settings()
        require_free_port(own.port, f"{PREFIX}PORT")
        if port is not None:
            require_free_port(port, "--sandbox-port")
        with local_settings(own, port):
            settings = read_settings()
            settings.provider_for_new_messages()
            run = _Run(settings, port, first_message=first_message and port is not None and not own.providers)
            code = run.run(programs(consumers=consumers, sandbox_port=port))
    raise typer.Exit(code)


def programs(*, consumers: int, sandbox_port: int | None) -> list[Program]:
    """The processes of `posthaste up`; the sandbox if it has a port."""
    service = [
        Program("api", "api"),
        Program("worker", "consumers messages", consumers),
        Program("caller", "consumers callbacks"),
        Program("reporter", "consumers reports"),
        Program("relay", "consumers relay"),
    ]
    return service + ([Program("sandbox", f"cli sandbox --port {sandbox_port}")] if sandbox_port else [])


def require_free_port(port: int, setting: str) -> None:
    """Check a port before the processes start, so that one message names its setting.

    Raises:
        CannotStart: the port is in use.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise CannotStart(f"port {port} is taken; stop the process that uses it, or set {setting}") from error


@dataclass
class _Run:
    """One run of `posthaste up`."""

    settings: Settings
    sandbox_port: int | None
    first_message: bool
    signals: list[int] = field(default_factory=list)  # received

    def run(self, processes: list[Program]) -> int:
        """Run until Ctrl-C, SIGTERM, or the terminal is closed. Returns the exit code.

        Raises:
            CannotStart: the service is not ready in time.
        """
        output = self._output()
        stop_seconds = int(self.settings.shutdown_grace_seconds + self.settings.lease_margin_seconds) + 5
        with tempfile.TemporaryDirectory(prefix="posthaste-") as folder:
            for number in STOP_SIGNALS:
                signal.signal(number, self._received)
            process = start(processes, Path(folder), stop_seconds)
            assert process.stdout is not None
            printing = threading.Thread(target=output.run, args=(process.stdout,), daemon=True)
            printing.start()
            try:
                self._introduce(process)
                self._watch(process)
            finally:
                _stop(process)
                printing.join(5)
        return 0 if self.signals else process.returncode

    def _received(self, number: int, _: object) -> None:
        self.signals.append(number)
        if number == signal.SIGHUP:  # the terminal is gone
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, sys.stdout.fileno())
            os.dup2(silence, sys.stderr.fileno())

    def _output(self) -> PlainOutput | LiveOutput:
        """A terminal gets rendered lines, which the processes write as JSON."""
        if self.settings.log_format == "json" or not console.is_terminal:
            return PlainOutput()
        os.environ[f"{PREFIX}LOG_FORMAT"] = "json"
        return LiveOutput(console, all_lines="log_level" in self.settings.model_fields_set)

    def _introduce(self, process: "subprocess.Popen[bytes]") -> None:
        base = f"http://{self.settings.host}:{self.settings.port}"
        client = Client(base, key=self.settings.api_key)
        deadline = time.monotonic() + START_SECONDS
        while not client.ready():
            if self.signals or process.poll() is not None:
                return
            if time.monotonic() > deadline:
                raise CannotStart(f"not ready within {START_SECONDS:g} s; see the lines above and {base}/health/ready")
            time.sleep(0.1)
        if self.first_message:
            _send_first(client)
        say(_introduction(self.settings, base, sandbox_port=self.sandbox_port))

    def _watch(self, process: "subprocess.Popen[bytes]") -> None:
        """Wait for the end. Reading the readiness each second makes the API log each service that goes down."""
        client = Client(f"http://{self.settings.host}:{self.settings.port}")
        looked_at = 0.0
        while process.poll() is None and not self.signals:
            if time.monotonic() - looked_at >= 1:
                looked_at = time.monotonic()
                threading.Thread(target=client.ready, daemon=True).start()
            time.sleep(0.1)


def _stop(process: "subprocess.Popen[bytes]") -> None:
    if process.poll() is None:
        say("Stopping: the processes finish the jobs in progress …")
        process.terminate()
    process.wait()
    say("Stopped. RabbitMQ, Postgres and Redis keep running; `make stop` stops those that `make` started.")


def _send_first(client: Client) -> None:
    try:
        started = time.monotonic()
        answer = client.send("+10000000001", "Hello from Posthaste")
        say(f"POST /messages → 202, id {answer['id']}, status {answer['status']}")
        status = client.wait_for(UUID(answer["id"]), frozenset({"sent", "failed"}), 20)
        say(f"GET {answer['links']['status']} → {status} ({1000 * (time.monotonic() - started):.0f} ms later)")
    except ApiError as error:
        say(f"The API did not accept the first message: {error}")


def _masked(url: str) -> str:
    """Mask the URL's password, unless it is guest:guest, which RabbitMQ accepts from loopback alone."""
    parts = urlsplit(url)
    if parts.password is None or (parts.username, parts.password) == ("guest", "guest"):
        return url
    return parts._replace(netloc=f"{parts.username}:***@{parts.netloc.rpartition('@')[2]}").geturl()


def _keys(settings: Settings, *, local_key: bool) -> str:
    if local_key:
        return f"on: requests need a key; {KEY_FILE} has one for this machine"
    return "POSTHASTE_API_KEY" if settings.api_key else "none: every process on this machine may call the API"


def _introduction(settings: Settings, base: str, *, sandbox_port: int | None) -> str:
    """The addresses of this run, and commands to try."""
    loopback = bool(settings.callback_secrets) and [str(network) for network in settings.callback_allow] == LOOPBACK
    local_key = settings.api_key is not None and KEY_FILE.exists() and KEY_FILE.read_text().strip() == settings.api_key
    header = f' -H "Authorization: Bearer $(cat {KEY_FILE})"' if local_key else ""
    default = settings.provider_for_new_messages()
    lines = [
        "",
        f"  API            {base}",
        f"  API docs       {base}/docs",
        f"  RabbitMQ UI    {_masked(settings.management_url)}" if settings.management_url else None,
        f"  Sandbox        http://127.0.0.1:{sandbox_port}/stats" if sandbox_port else None,
        *(
            f"  Provider       {name} → {_masked(provider.url)}{' (default)' if name == default else ''}"
            for name, provider in settings.providers.items()
        ),
        "  Callbacks      to loopback and to public addresses" if loopback else None,
        f"  Keys           {_keys(settings, local_key=local_key)}",
        "",
        "Try in a second terminal:",
        f"  curl -i {base}/messages{header} -H 'Content-Type: application/json' -d '{MESSAGE}'",
        f"  curl {base}/message/ID/status{header}",
        "  make seed && .venv/bin/posthaste report --plot",
        '  .venv/bin/posthaste callbacks listen          # with "callback_url": "http://127.0.0.1:9008" in a message'
        if loopback
        else None,
        "",
        "Ctrl-C ends it.",
    ]
    return "\n".join(line for line in lines if line is not None)
