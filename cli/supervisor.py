"""The service's processes under supervisord, which restarts each that dies."""

import os
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

START_SECONDS = 90.0  # seven processes import their modules; a busy machine is slow

_SUPERVISORD = """\
[supervisord]
nodaemon = true
silent = true
{user}
logfile = /dev/null
logfile_maxbytes = 0
pidfile = {folder}/supervisord.pid
"""

# startretries: supervisord retries a process that cannot start (a wrong setting) at growing intervals and never gives up.
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
    """The service cannot start. The message names the reason and a remedy."""


@dataclass(frozen=True)
class Program:
    """One process, `python -m command`, `count` times."""

    name: str
    command: str
    count: int = 1


def configuration(programs: list[Program], folder: Path, stop_seconds: int) -> str:
    """The text of supervisord's configuration file."""
    # As root, supervisord warns unless it has a user. As any other user, it must have none.
    text = _SUPERVISORD.format(folder=folder, user="user = root" if os.geteuid() == 0 else "")
    for program in programs:
        text += _PROGRAM.format(
            name=program.name,
            command=program.command,
            python=shlex.quote(sys.executable).replace("%", "%%"),
            suffix="-%(process_num)d" if program.count > 1 else "",
            count=program.count,
            stop_seconds=stop_seconds,
        )
    return text


def write_command(programs: list[Program], folder: Path, stop_seconds: int) -> list[str]:
    """Write the configuration into `folder`. Returns the command line of supervisord."""
    file = folder / "supervisord.conf"
    file.write_text(configuration(programs, folder, stop_seconds))
    return [sys.executable, "-m", "supervisor.supervisord", "-c", str(file)]
