"""`posthaste up`: API, workers, relay and an optional sandbox in the foreground."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

import typer

from cli.client import ApiError, Client
from cli.local_settings import KEY_FILE, LOOPBACK, forget_killed_runs, local_settings, recorded_run
from cli.processes import (
    START_SECONDS,
    CannotStart,
    Program,
    api_program,
    half_of_the_processors,
    require_free_port,
    stop_seconds,
    with_metrics,
    write_command,
)
from cli.sandbox import SANDBOX_PORT
from cli.session import read_settings
from cli.terminal import console, exit_on, say
from cli.up_output import LiveOutput, PlainOutput
from service.settings import PREFIX, Settings, SettingsError

MESSAGE = '{"destination": "+15550001", "body": "Hello"}'
FIRST_MESSAGE_SECONDS = 20


def up(
    api: Annotated[int | None, typer.Option(min=1, max=64, help="Number of API processes. They share the port.")] = None,
    consumers: Annotated[int | None, typer.Option(min=1, max=64, help="Number of processes that send messages.")] = None,
    sandbox: Annotated[bool, typer.Option(help="Run the sandbox, too. It is the provider unless providers are set.")] = False,
    sandbox_port: Annotated[int, typer.Option(min=1, max=65_535, help="The sandbox's port.")] = SANDBOX_PORT,
    first_message: Annotated[bool, typer.Option(help="Send one message through the sandbox and show its status.")] = False,
) -> None:
    """Run API, workers and relay in the foreground, and restart each that dies.

    The default numbers of processes are half of the processors, between one and eight.
    A terminal shows problems and one line of counters. POSTHASTE_LOG_LEVEL=info shows every log line.
    """
    port = sandbox_port if sandbox else None
    with exit_on(SettingsError, CannotStart):
        forget_killed_runs()
        own = read_settings()
        require_free_port(own.port, f"{PREFIX}PORT")
        if port:
            require_free_port(port, "--sandbox-port of `posthaste up --sandbox`")
        with recorded_run(), local_settings(own, port):
            settings = read_settings()
            settings.provider_for_new_messages()
            settings.provider_headers()  # a missing secret is named here, not by workers that do not start
            default = half_of_the_processors()
            plain = programs(api=api or default, consumers=consumers or default, sandbox_port=port)
            processes = with_metrics(plain, settings.metrics_port)
            for process in processes:
                if process.metrics_port:
                    require_free_port(process.metrics_port, f"{PREFIX}METRICS_PORT, the first of the processes' ports")
            uses_sandbox = port is not None and not own.providers
            code = _run(settings, port, processes, first_message=first_message and uses_sandbox)
    raise typer.Exit(code)


def programs(*, api: int, consumers: int, sandbox_port: int | None) -> list[Program]:
    """The processes of `posthaste up`; the sandbox if it has a port."""
    return [
        api_program(api),
        Program("worker", "consumers messages", consumers),
        Program("caller", "consumers callbacks"),
        Program("reporter", "consumers reports"),
        Program("relay", "consumers relay"),
        *([Program("sandbox", f"cli sandbox --port {sandbox_port}")] if sandbox_port else []),
    ]


def _run(settings: Settings, sandbox_port: int | None, processes: list[Program], *, first_message: bool) -> int:
    """Run until Ctrl-C, SIGTERM or the end of the terminal. Returns the exit code.

    Raises:
        CannotStart: the service is not ready in time.
    """
    signals: list[int] = []  # received

    def received(number: int, _: object) -> None:
        signals.append(number)
        if number == signal.SIGHUP:  # the terminal is gone
            silence = os.open(os.devnull, os.O_WRONLY)
            os.dup2(silence, sys.stdout.fileno())
            os.dup2(silence, sys.stderr.fileno())

    output, terminal = _output(settings), sys.stdout.isatty()
    with tempfile.TemporaryDirectory(prefix="posthaste-") as folder:
        command = write_command(processes, Path(folder), stop_seconds(settings))
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, received)
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)
        printing = threading.Thread(target=output.run, args=(process.stdout,), daemon=True)
        printing.start()

        def is_over() -> bool:
            if terminal and not sys.stdout.isatty() and not signals:  # it was closed, and nobody sent SIGHUP
                received(signal.SIGHUP, None)
            return bool(signals) or process.poll() is not None

        try:
            _introduce(settings, sandbox_port, is_over, first_message=first_message)
            _watch(settings, is_over)
        finally:
            if process.poll() is None:
                say("Stopping: the processes finish the jobs in progress …")
                process.terminate()
            process.wait()
            printing.join(5)
            say("Stopped. RabbitMQ, Postgres and Redis keep running; `make stop` stops those that `make` started.")
    return 0 if signals else process.returncode


def _output(settings: Settings) -> PlainOutput | LiveOutput:
    """A terminal gets rendered lines, which the processes write as JSON."""
    if settings.log_format == "json" or not console.is_terminal:
        return PlainOutput()
    os.environ[f"{PREFIX}LOG_FORMAT"] = "json"
    return LiveOutput(console, all_lines="log_level" in settings.model_fields_set)


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


def _watch(settings: Settings, is_over: Callable[[], bool]) -> None:
    """Wait for the end. Reading the readiness each second makes the API log each service that goes down."""
    client = Client(f"http://{settings.host}:{settings.port}")

    def read_each_second() -> None:
        while not is_over():
            client.ready()
            time.sleep(1)

    threading.Thread(target=read_each_second, daemon=True).start()
    while not is_over():
        time.sleep(0.1)


def _send_first(client: Client) -> None:
    started = time.monotonic()
    try:
        answer = client.send("+10000000001", "Hello from Posthaste")
        say(f"POST /messages → 202, id {answer['id']}, status {answer['status']}")
        while (status := client.status(answer["id"])) not in ("sent", "failed"):
            if time.monotonic() > started + FIRST_MESSAGE_SECONDS:
                break
            time.sleep(0.02)
        say(f"GET {answer['links']['status']} → {status} ({1000 * (time.monotonic() - started):.0f} ms later)")
    except ApiError as error:
        say(f"The API did not accept the first message: {error}")


def _masked(url: str) -> str:
    """Mask the URL's password, unless it is guest:guest, which RabbitMQ accepts from loopback alone."""
    parts = urlsplit(url)
    if parts.password is None or (parts.username, parts.password) == ("guest", "guest"):
        return url
    return parts._replace(netloc=f"{parts.username}:***@{parts.netloc.rpartition('@')[2]}").geturl()


def _introduction(settings: Settings, base: str, *, sandbox_port: int | None) -> str:
    """The addresses of this run, and commands to try."""
    local_key = settings.api_key is not None and KEY_FILE.exists() and KEY_FILE.read_text().strip() == settings.api_key
    header = f' -H "Authorization: Bearer $(cat {KEY_FILE})"' if local_key else ""
    addresses, listen = [f"Console        {base}/", f"API            {base}", f"API docs       {base}/docs"], ""
    if settings.management_url:
        addresses.append(f"RabbitMQ UI    {_masked(settings.management_url)}")
    if sandbox_port:
        addresses.append(f"Sandbox        http://127.0.0.1:{sandbox_port}/stats")
    default = settings.provider_for_new_messages()
    for name, provider in settings.providers.items():
        addresses.append(f"Provider       {name} → {_masked(provider.url)}{' (default)' if name == default else ''}")
    if settings.callback_secrets and [str(network) for network in settings.callback_allow] == LOOPBACK:
        addresses.append("Callbacks      to loopback and to public addresses")
        listen = '  posthaste callbacks listen          # with "callback_url": "http://127.0.0.1:9008" in a message\n'
    if local_key:
        addresses.append(f"Keys           on: requests need a key; {KEY_FILE} has one for this machine")
    elif settings.auth == "off":
        addresses.append("Keys           off: POSTHASTE_AUTH=off ignores them")
    elif not settings.api_key:
        addresses.append("Keys           none: every process on this machine may call the API")
    listed = "\n  ".join(addresses)
    return f"""
  {listed}

Try in a second terminal, in this folder:
  . .venv/bin/activate
  ID=$(posthaste send +15550001 Hello); posthaste wait $ID
  curl -i {base}/messages{header} -H 'Content-Type: application/json' -d '{MESSAGE}'
  posthaste posts seed && posthaste report --plot
{listen}
Ctrl-C ends it."""
