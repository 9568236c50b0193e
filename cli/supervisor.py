"""The service's processes under supervisord, which restarts each that dies.

supervisord runs in a session of its own: a closed terminal and Ctrl-C signal `posthaste up` alone, which then stops it.
Its standard input is a pipe from `posthaste up`. The kernel closes the pipe when `posthaste up` ends, even by SIGKILL.
"""

import os
import shlex
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

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


def start(programs: list[Program], folder: Path, stop_seconds: int) -> "subprocess.Popen[bytes]":
    """Start supervisord with its configuration in `folder`. Its output is the output of all processes."""
    file = folder / "supervisord.conf"
    file.write_text(configuration(programs, folder, stop_seconds))
    command = [sys.executable, "-m", "cli.supervisor", str(file)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True)


def _stop_after_parent() -> None:
    os.read(sys.stdin.fileno(), 1)  # nobody writes: it returns at the end of the pipe
    os.kill(os.getpid(), signal.SIGTERM)


def main(file: str) -> None:
    """Run supervisord until a signal stops it, or the process that started it ends."""
    from supervisor import supervisord

    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    threading.Thread(target=_stop_after_parent, daemon=True).start()
    with suppress(BrokenPipeError):  # nobody reads its last lines
        supervisord.main(["-c", file])


if __name__ == "__main__":
    main(sys.argv[1])
