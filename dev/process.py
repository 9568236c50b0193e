"""Processes that outlive us: started in a session of their own, recognised later by pid and start time.

The kernel assigns a pid again. psutil guards against this within one run; the start time guards the runs after it.
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
from typing import Any

import psutil

from dev.errors import ServiceError

PLAIN_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
}
# 1024, the default, is little for a broker; the thousand million of some containers makes Erlang take gigabytes
OPEN_FILES = 65536
SECONDS_TO_FREEZE = 5
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """One process, not merely one pid. `started` counts ticks since boot: setting the clock does not change it."""

    pid: int
    started: int

    @classmethod
    def of(cls, process: psutil.Process) -> "Process":
        """The identity of a process that runs now."""
        return cls(process.pid, round((process.create_time() - psutil.boot_time()) * TICKS_PER_SECOND))

    def _running(self) -> psutil.Process | None:
        """The process while it runs. A dead child of ours is reaped: Postgres takes a zombie for a running server."""
        with suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
            process = psutil.Process(self.pid)
            if Process.of(process) != self:
                return None
            if process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                return process
            process.wait(timeout=0)  # times out for another's child: its parent reaps it
        return None

    def is_alive(self) -> bool:
        """Whether it still runs; a zombie does not."""
        return self._running() is not None

    def is_frozen(self) -> bool:
        """Whether a SIGSTOP has taken effect."""
        process = self._running()
        return process is not None and process.status() == psutil.STATUS_STOPPED

    def send(self, number: int) -> None:
        """Send a signal, unless the process has ended."""
        with suppress(psutil.NoSuchProcess):
            if process := self._running():
                process.send_signal(number)

    def family(self) -> list["Process"]:
        """The process and all its descendants that run, itself first."""
        with suppress(psutil.NoSuchProcess):
            if process := self._running():
                members = [self, *map(Process.of, process.children(recursive=True))]
                return [member for member in members if member.is_alive()]
        return []

    def send_to_family(self, number: int) -> None:
        """Send a signal to the process and all its descendants."""
        for member in self.family():
            member.send(number)

    def freeze_family(self) -> None:
        """Send SIGSTOP until the process and all its descendants are frozen, new ones included."""
        deadline = time.monotonic() + SECONDS_TO_FREEZE
        while running := [member for member in self.family() if not member.is_frozen()]:
            if time.monotonic() > deadline:
                raise ServiceError(f"process {running[0].pid} did not freeze")
            for member in running:
                member.send(signal.SIGSTOP)
            time.sleep(0.005)

    def wait_end(self, seconds: float) -> bool:
        """Wait for its end; False when it still runs after that time."""
        deadline = time.monotonic() + seconds
        while self.is_alive():
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def end(self, orderly: signal.Signals, grace: float) -> bool:
        """Thaw it, signal it, and kill it after `grace` seconds; False when it was killed."""
        self.send_to_family(signal.SIGCONT)
        self.send(orderly)
        if self.wait_end(grace):
            return True
        self.kill_family()
        return False

    def kill_family(self) -> None:
        """Kill it and all its descendants at once, as a crash of the machine would."""
        members = self.family()
        for member in members:
            member.send(signal.SIGKILL)
        for member in members:
            member.wait_end(10)


def spawn(command: Sequence[str], *, folder: Path, user: str | None, environment: Mapping[str, str], log: Path) -> Process:
    """Start a process that outlives us."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    open_files = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    with log.open("ab") as output:
        child = subprocess.Popen(
            ["prlimit", f"--nofile={open_files}", *command],  # prlimit becomes the command: the pid stays
            stdin=subprocess.DEVNULL,
            stdout=output,
            **_options(folder, user, environment),
        )
    child.returncode = 0  # it outlives this object: no ResourceWarning; is_alive() reaps it
    return Process.of(psutil.Process(child.pid))


def write_as(user: str | None, file: Path, text: str) -> None:
    """Write a file as its user: in a folder of another user, root must not follow that user's links."""
    run(["tee", str(file)], folder=file.parent, user=user, script=text)


def run(command: Sequence[str], *, folder: Path, user: str | None, script: str = "", seconds: float = 120) -> None:
    """Run a preparing command to its end; ServiceError with its output when it fails."""
    options = _options(folder, user, {})
    done = subprocess.run(command, input=script, stdout=subprocess.PIPE, text=True, timeout=seconds, check=False, **options)
    if done.returncode != 0:
        raise ServiceError(f"{Path(command[0]).name} failed ({done.returncode}):\n{done.stdout.strip()}")


def _options(folder: Path, user: str | None, environment: Mapping[str, str]) -> dict[str, Any]:
    options = {
        "cwd": folder,
        "env": {**PLAIN_ENVIRONMENT, "HOME": str(folder), **environment},
        "stderr": subprocess.STDOUT,
        "start_new_session": True,  # a Ctrl-C in the terminal does not reach it
        "umask": 0o077,
    }
    if user is None:
        return options
    entry = pwd.getpwnam(user)
    return {**options, "user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
