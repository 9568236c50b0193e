"""`posthaste api`, `consume` and `relay` become one process of the service; supervisord runs several for `posthaste up`."""

import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from cli.session import read_settings
from cli.terminal import exit_on, fail
from jobs.model import Kind
from service.settings import PREFIX, Settings

START_SECONDS = 90.0  # seven processes import their modules; a busy machine is slow

_SUPERVISORD = """\
[supervisord]
nodaemon = true
silent = true
{user}
logfile = /dev/stdout
logfile_maxbytes = 0
loglevel = warn
pidfile = {folder}/supervisord.pid
"""

# startretries: supervisord retries a process that cannot start (a wrong setting) at growing intervals and never gives up.
_PROGRAM = """
[program:{program.name}]
command = {python} -m {program.command}
process_name = %(program_name)s{suffix}
numprocs = {program.count}
autorestart = true
startsecs = 2
startretries = 1000
stopsignal = TERM
stopwaitsecs = {stop_seconds}
redirect_stderr = true
stdout_logfile = /dev/stdout
stdout_logfile_maxbytes = 0
"""


Workers = Annotated[int, typer.Option(min=1, max=64, help="Number of API processes. They share the port.")]


def api(workers: Workers = 1) -> None:
    """Run one API process, or several that share the port; each that dies is restarted."""
    settings = read_settings()
    with exit_on(CannotStart):
        require_free_port(settings.port, f"{PREFIX}PORT")
    if workers == 1:
        _execute("api")
    with tempfile.TemporaryDirectory(prefix="posthaste-") as folder:
        command = write_command([api_program(workers)], Path(folder), stop_seconds(settings))
        process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: process.terminate())
        raise typer.Exit(process.wait())


def half_of_the_processors() -> int:
    """The default number of processes of one role: the other half serves the rest, the servers among them. At most eight."""
    return max(1, min(8, len(os.sched_getaffinity(0)) // 2))


def consume(
    kinds: Annotated[
        list[str] | None, typer.Argument(help="Kinds of jobs: messages, reports, callbacks. Default: all.")
    ] = None,
) -> None:
    known = [f"{kind}s" for kind in Kind]
    if unknown := set(kinds or []) - set(known):
        fail(f"unknown kind: {', '.join(sorted(unknown))}; the kinds are {', '.join(known)}", 2)
    _execute("consumers", *(kinds or known))


def relay() -> None:
    _execute("consumers", "relay")


def _execute(*module: str) -> NoReturn:
    """Replace this process: each process has its own composition root."""
    os.execv(sys.executable, [sys.executable, "-m", *module])  # noqa: S606


def stop_seconds(settings: Settings) -> int:
    """How long a process may take to end: it finishes its jobs, and records their outcomes."""
    return int(settings.shutdown_grace_seconds + settings.lease_margin_seconds) + 5


class CannotStart(Exception):
    """The service cannot start. The message names the reason and a remedy."""


@dataclass(frozen=True)
class Program:
    """Processes under supervisord: `python -m command`, `count` times."""

    name: str
    command: str
    count: int = 1


def api_program(count: int) -> Program:
    """The API processes. Only several share the port, so that one finds out if another program has it."""
    return Program("api", "api --shared-port" if count > 1 else "api", count)


def write_command(programs: list[Program], folder: Path, stop_seconds: int) -> list[str]:
    """Write supervisord's configuration into `folder`. Returns the command line of `cli.supervised`."""
    # As root, supervisord warns unless it has a user. As any other user, it must have none.
    text = _SUPERVISORD.format(folder=folder, user="user = root" if os.geteuid() == 0 else "")
    python = shlex.quote(sys.executable).replace("%", "%%")
    for program in programs:
        suffix = "-%(process_num)d" if program.count > 1 else ""
        text += _PROGRAM.format(program=program, python=python, suffix=suffix, stop_seconds=stop_seconds)
    file = folder / "supervisord.conf"
    file.write_text(text)
    return [sys.executable, "-m", "cli.supervised", "-c", str(file)]


def require_free_port(port: int, setting: str) -> None:
    """Raise `CannotStart` if the port is in use: before the processes start, one message names the setting."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise CannotStart(f"port {port} is taken by {_holder(port)}; end it, or set {setting}") from error


def _holder(port: int) -> str:
    """The process that listens at a port, as far as this user may see it. Only a checkout has psutil; the wheel does not."""
    try:
        import psutil

        listening = [each for each in psutil.net_connections("tcp") if each.laddr and each.laddr.port == port]
        process = psutil.Process(next(each.pid for each in listening if each.pid and each.status == "LISTEN"))
        supervising = [each for each in process.parents() if {"posthaste", "up"} <= {Path(w).name for w in each.cmdline()}]
        process = (supervising or [process])[0]  # supervisord would start the API again
        return f"process {process.pid} ({' '.join(process.cmdline())[:100]})"
    except (ImportError, StopIteration):  # without a pid: another user's
        return "another process"
    except psutil.Error:  # it ended meanwhile, or must not be read
        return "another process"
