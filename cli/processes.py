"""`posthaste api`, `consume` and `relay` become one process of the service; supervisord runs several for `posthaste up`."""

import itertools
import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from cli.terminal import fail
from jobs.model import Kind

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
environment = {environment}
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


def api() -> None:
    _execute("api")


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


class CannotStart(Exception):
    """The service cannot start. The message names the reason and a remedy."""


@dataclass(frozen=True)
class Program:
    """Processes under supervisord: `python -m command`, `count` times."""

    name: str
    command: str
    count: int = 1
    metrics_port: int | None = None


def with_metrics(programs: list[Program], first_port: int | None) -> list[Program]:
    """The same processes. Workers and the relay serve metrics at `first_port` and the ports after it; None: at no port."""
    if first_port is None:
        return programs
    ports = itertools.count(first_port)
    found = []
    for program in programs:
        if not program.command.startswith("consumers "):
            found.append(program)
        else:
            names = [program.name] if program.count == 1 else [f"{program.name}-{number}" for number in range(program.count)]
            found += [Program(name, program.command, metrics_port=next(ports)) for name in names]
    return found


def write_command(programs: list[Program], folder: Path, stop_seconds: int) -> list[str]:
    """Write supervisord's configuration into `folder`. Returns the command line of `cli.supervised`."""
    # As root, supervisord warns unless it has a user. As any other user, it must have none.
    text = _SUPERVISORD.format(folder=folder, user="user = root" if os.geteuid() == 0 else "")
    python = shlex.quote(sys.executable).replace("%", "%%")
    for program in programs:
        suffix = "-%(process_num)d" if program.count > 1 else ""
        own = f'POSTHASTE_METRICS_PORT="{program.metrics_port}"' if program.metrics_port else ""
        text += _PROGRAM.format(program=program, python=python, suffix=suffix, stop_seconds=stop_seconds, environment=own)
    file = folder / "supervisord.conf"
    file.write_text(text)
    return [sys.executable, "-m", "cli.supervised", "-c", str(file)]
