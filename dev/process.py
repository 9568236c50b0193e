"""Processes that outlive us: started in a session of their own, recognised later by pid and start time.

A pid alone is no identity, because the kernel hands it out again. Together with the start time in /proc it is one, so
that nothing but what was started here is ever signalled.
"""

import os
import pwd
import resource
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dev.errors import ServiceError

PLAIN_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}
# 1024, the usual, is little for a broker; the thousand million of some containers makes Erlang take gigabytes
OPEN_FILES = 65536
SECONDS_TO_FREEZE = 5


class Stat(NamedTuple):
    """The fields of /proc/PID/stat that matter here; `started` counts clock ticks since boot."""

    state: str
    parent: int
    started: int


def parse_stat(line: str) -> Stat:
    """Read one stat line; the program's name in it may hold spaces and parentheses."""
    fields = line.rpartition(")")[2].split()
    return Stat(state=fields[0], parent=int(fields[1]), started=int(fields[19]))


def read_stat(pid: int) -> Stat | None:
    """The stat of a process, or None when there is no such process."""
    try:
        return parse_stat(Path(f"/proc/{pid}/stat").read_text(errors="replace"))
    except (FileNotFoundError, ProcessLookupError):
        return None


def all_pids() -> list[int]:
    """The pids of all processes there are."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


@dataclass(frozen=True)
class Process:
    """One process, not merely one pid."""

    pid: int
    started: int

    def is_alive(self) -> bool:
        """Whether it still runs. A dead child of ours is reaped: a zombie's pid would look taken to Postgres."""
        stat = read_stat(self.pid)
        if stat is None or stat.started != self.started:
            return False
        if stat.state in "ZX":
            _reap(self.pid)
            return False
        return True

    def send(self, number: int) -> None:
        """Send a signal if it is still this process; otherwise nothing happens."""
        if self.is_alive():
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def family(self) -> list["Process"]:
        """The process and everything descending from it that runs, parents first."""
        stats = {pid: read_stat(pid) for pid in all_pids()}
        running = {pid: stat for pid, stat in stats.items() if stat is not None and stat.state not in "ZX"}
        members = [self] if self.is_alive() else []
        for member in members:  # grows while it is walked
            members += [Process(pid, stat.started) for pid, stat in running.items() if stat.parent == member.pid]
        return members

    def send_to_family(self, number: int) -> None:
        """Send a signal to the process and everything descending from it."""
        for member in self.family():
            member.send(number)

    def freeze_family(self) -> None:
        """Keep it and everything descending from it from running; returns once none of them runs, new ones included."""
        deadline = time.monotonic() + SECONDS_TO_FREEZE
        while running := [member for member in self.family() if not member.is_frozen()]:
            if time.monotonic() > deadline:
                raise ServiceError(f"process {running[0].pid} did not freeze")
            for member in running:
                member.send(signal.SIGSTOP)
            time.sleep(0.005)

    def is_frozen(self) -> bool:
        """Whether a SIGSTOP has taken hold of it."""
        stat = read_stat(self.pid)
        return stat is not None and stat.state == "T"

    def wait_end(self, seconds: float) -> bool:
        """Wait for its end; False when it still runs after that time."""
        deadline = time.monotonic() + seconds
        while self.is_alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def end(self, orderly: signal.Signals, grace: float) -> bool:
        """Ask it to end, and after `grace` seconds make it; False when it had to be made.

        What was frozen by SIGSTOP is thawed first, as it could not hear otherwise.
        """
        self.send_to_family(signal.SIGCONT)
        self.send(orderly)
        if self.wait_end(grace):
            return True
        self.kill_family()
        return False

    def kill_family(self) -> None:
        """End it and everything descending from it at once, as a crash of the machine would."""
        members = self.family()
        for member in members:
            member.send(signal.SIGKILL)
        for member in members:
            member.wait_end(10)


def _reap(pid: int) -> None:
    with suppress(ChildProcessError):  # somebody else's child: its parent reaps it
        os.waitpid(pid, os.WNOHANG)


def _identity(user: str | None) -> dict[str, Any]:
    if user is None:
        return {}
    entry = pwd.getpwnam(user)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _open_files() -> int:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    return OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)


def spawn(command: Sequence[str], *, folder: Path, user: str | None, environment: Mapping[str, str], log: Path) -> Process:
    """Start a process that outlives us, in its own session so that Ctrl-C in a terminal passes it by."""
    with log.open("ab") as output:
        child = subprocess.Popen(
            ["prlimit", f"--nofile={_open_files()}", *command],  # which becomes the command: the pid stays
            cwd=folder,
            env={**PLAIN_ENVIRONMENT, "HOME": str(folder), **environment},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            umask=0o077,
            **_identity(user),
        )
    stat = read_stat(child.pid)
    if stat is None:
        raise ServiceError(f"{command[0]} was reaped by somebody else right after its start")
    child.returncode = 0  # it is meant to outlive this object: no ResourceWarning; is_alive() reaps
    return Process(child.pid, stat.started)


def write_as(user: str | None, file: Path, text: str) -> None:
    """Write a file as its user would: in a folder that is not ours, root must not follow what it finds there."""
    run(["tee", str(file)], folder=file.parent, user=user, script=text)


def run(command: Sequence[str], *, folder: Path, user: str | None, script: str = "", seconds: float = 120) -> None:
    """Run a preparing command to its end, out of Ctrl-C's reach; ServiceError with its output when it fails."""
    done = subprocess.run(
        command,
        cwd=folder,
        env={**PLAIN_ENVIRONMENT, "HOME": str(folder)},
        input=script,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=seconds,
        start_new_session=True,
        umask=0o077,
        check=False,
        **_identity(user),
    )
    if done.returncode != 0:
        raise ServiceError(f"{Path(command[0]).name} failed ({done.returncode}):\n{done.stdout.strip()}")
