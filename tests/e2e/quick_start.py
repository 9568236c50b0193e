"""The README's shell commands, run as they stand. `python3 -m tests.e2e.quick_start` runs them beside `make run`.

Standard library only: a bare machine has no .venv yet.
"""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
SHELLS = ("sh", "bash")
READY = "Ctrl-C ends it"


def commands(page: str) -> list[str]:
    """The blocks of shell commands of a page, in order."""
    return re.findall(r"^```sh\n(.*?)^```", (ROOT / page).read_text("utf-8"), re.DOTALL | re.MULTILINE)


def promises(script: str) -> list[str]:
    """The output that the comments of a script promise, in order. `…` stands for any output."""
    return [part for comment in re.findall(r" # (.+)$", script, re.MULTILINE) for part in comment.split(" … ")]


@contextmanager
def running(service: list[str], ready: str, folder: Path, environment: Mapping[str, str]) -> Iterator["subprocess.Popen[str]"]:
    """Run a command until the end of the block, from its line that contains `ready`. Its output may be read then."""
    process = subprocess.Popen(service, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            print(line, end="", flush=True)
            if ready in line:
                break
        else:
            raise AssertionError(f"`{' '.join(service)}` ended before it was ready")
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
        process.wait(90)


@contextmanager
def up(service: list[str], folder: Path, environment: Mapping[str, str]) -> Iterator[None]:
    """Run the whole service until the end of the block."""
    with running(service, READY, folder, environment) as process:
        assert process.stdout is not None
        threading.Thread(target=process.stdout.read, daemon=True).start()
        yield


def run(shell: str, script: str, folder: Path, environment: Mapping[str, str]) -> str:
    """The output of a script. Raises AssertionError for a broken promise."""
    done = subprocess.run(
        [shell, "-c", script], cwd=folder, env=environment, timeout=180, check=False,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    print(f"--- {shell}\n{done.stdout}", flush=True)
    position = 0
    for promise in promises(script):
        found = re.compile(rf"(?<!\w){re.escape(promise)}(?!\w)").search(done.stdout, position)
        assert found, f"{shell}: the README promises {promise!r} next, after:\n{done.stdout[:position]}"
        position = found.end()
    return done.stdout


if __name__ == "__main__":
    with up(["make", "run"], ROOT, os.environ):
        for each in SHELLS:
            run(each, "".join(commands("README.md")), ROOT, os.environ)
    print(f"The README's commands ran as they stand, in {' and '.join(SHELLS)}.", file=sys.stderr)
