"""Installing missing packages of the distribution, announced first."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from dev.errors import ServiceError

SCRIPT = Path(__file__).with_name("install.sh")


def install(packages: Sequence[str], log: Path, report: Callable[[str], None], remedy: str) -> None:
    """Install packages by apt-get, as root or through sudo.

    ServiceError names the command to run by hand. Without apt-get, or after a failure, it names the `remedy`.
    """
    names = " ".join(packages)
    if shutil.which("apt-get") is None:
        raise ServiceError(f"{names}: there is no apt-get to install packages. {remedy}")
    by_hand = f"sudo sh {shlex.quote(str(SCRIPT))} {names}"
    command = [*_as_root(by_hand), "sh", str(SCRIPT), *packages]
    report(f"installing {names} by apt-get, their own services not started (may take a minute; log: {log})")
    code = _run_to_its_end(command, log)
    if code != 0:
        last = log.read_text(errors="replace").splitlines()[-10:]
        raise ServiceError("\n".join([f"could not install {names} ({code}); the end of {log}:", *last, remedy]))


def _run_to_its_end(command: list[str], log: Path) -> int:
    """Run it with Ctrl-C ignored: an installation must not stop halfway."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the child inherits this
    try:
        with log.open("wb") as output:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    finally:
        signal.signal(signal.SIGINT, before)
    try:
        return child.wait()
    except KeyboardInterrupt:
        child.wait()
        raise


def _as_root(by_hand: str) -> list[str]:
    if os.geteuid() == 0:
        return []
    # without a terminal nobody types a password
    sudo = ["sudo"] if sys.stdin.isatty() else ["sudo", "-n"]
    if shutil.which("sudo") is None or subprocess.run([*sudo, "-v"], check=False).returncode != 0:
        raise ServiceError(f"packages are missing, and installing them takes root. Run: {by_hand}")
    return sudo
